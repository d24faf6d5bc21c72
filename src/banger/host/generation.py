"""How often nftables has been changed in this network namespace, by anybody: a number that the kernel counts up with each transaction.

Who has seen the tables at one generation need not look again while it lasts. Asked by hand (NFT_MSG_GETGEN of linux/netfilter/nf_tables.h), since
libnftables does not tell; it takes a hundredth of the time of listing a table. Needs CAP_NET_ADMIN. Owns nothing.
"""

from __future__ import annotations

import socket
import struct

from banger.host.rtnetlink import HEADER, NLM_F_REQUEST, NLMSG_ERROR, attributes

UNKNOWN = 0
#: linux/netlink.h, linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h.
NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, NFTA_GEN_ID = 12, 10, 16, 1
#: struct nfgenmsg: family, version, resource.
BODY = struct.pack(">BBH", socket.AF_UNSPEC, 0, 0)
QUESTION = HEADER.pack(HEADER.size + len(BODY), NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, NLM_F_REQUEST, 1, 0) + BODY
LARGEST = 1 << 12


def generation() -> int:
    """The present one; UNKNOWN when the kernel does not say, which is equal to none."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as kernel:
            kernel.sendto(QUESTION, (0, 0))
            answer = kernel.recv(LARGEST)  # the kernel has answered before `sendto` returns
    except OSError:
        return UNKNOWN
    _, kind, _, _, _ = HEADER.unpack_from(answer)
    found = attributes(answer[HEADER.size + len(BODY) :]).get(NFTA_GEN_ID, b"")
    return UNKNOWN if kind == NLMSG_ERROR else int.from_bytes(found, "big")


def following(present: int) -> int:
    """The next one: 32 bits, and never 0."""
    return (present + 1) & 0xFFFFFFFF or 1
