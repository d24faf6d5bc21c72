"""What a machine's VMM has counted: sums that only grow as long as the machine runs. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

#: Where sums stop, whatever a VMM says: the most that any reader of JSON takes as an integer of 64 bits.
MOST = (1 << 63) - 1


class Metrics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sums of the VMM's reports (`reports` of them) since it began, at `since`.

    What is received or read came into the guest, what is sent or written came from it. `net_tap_fails` are packets that the host's end did not give or
    take; `seccomp_faults` is the one that is not a sum: how many forbidden system calls the VMM made, as it says itself.
    """

    since: datetime
    reports: int = 0
    disk_read_bytes: int = 0
    disk_reads: int = 0
    disk_written_bytes: int = 0
    disk_writes: int = 0
    net_received_bytes: int = 0
    net_received_packets: int = 0
    net_receive_fails: int = 0
    net_sent_bytes: int = 0
    net_sent_packets: int = 0
    net_send_fails: int = 0
    net_tap_fails: int = 0
    vsock_received_bytes: int = 0
    vsock_sent_bytes: int = 0
    vcpu_failures: int = 0
    seccomp_faults: int = 0
