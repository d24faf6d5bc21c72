"""The composition root of the privileged helper: the host files that need root, served to one user over a socket that systemd holds.

    python -m banger.helper --owner UID:GID --root FOLDER [--root FOLDER ...]

Runs as root and gives up at once what it does not need of that. The socket is handed over as systemd does it (sd_listen_fds(3)): so it is there before
us and after us, and calls made while the helper is restarted wait. It keeps no state and owns nothing: what it makes belongs to the daemon's plans.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from banger.host.dm import Dm
from banger.host.files import RealFiles
from banger.host.links import Links
from banger.host.nft import Nft
from banger.host.owned import OwnedDm, OwnedLinks, OwnedNft, OwnedResolver
from banger.host.privilege import Held, Means, Privilege, Standing, give_up_the_rest
from banger.host.proc import SYSTEM_PATH
from banger.host.resolver import Resolver
from banger.host.served import Servant, Served, served
from banger.model.build import build_id
from banger.model.errors import BadRequest, BangerError
from banger.model.rules import SERVED, Owner

log = logging.getLogger(__name__)
USAGE = "usage: python -m banger.helper --owner UID:GID --root FOLDER [--root FOLDER ...]"
#: sd_listen_fds(3): the first descriptor that is handed over.
FIRST_DESCRIPTOR = 3


def parsed(words: Sequence[str]) -> Owner:
    """Whom to serve, from the command line; BadRequest when it does not say."""
    flags, values = words[::2], words[1::2]
    if len(flags) != len(values) or set(flags) != {"--owner", "--root"} or flags.count("--owner") != 1:
        raise BadRequest(USAGE)
    uid, _, gid = values[flags.index("--owner")].partition(":")
    roots = tuple(Path(value) for flag, value in zip(flags, values, strict=True) if flag == "--root")
    if not uid.isdecimal() or not gid.isdecimal() or not all(root.is_absolute() and len(root.parts) > 2 for root in roots):
        raise BadRequest(USAGE)
    return Owner(uid=int(uid), gid=int(gid), roots=roots)


def handed_over(environment: Mapping[str, str]) -> socket.socket:
    """The listening socket that systemd made; BadRequest when there is none."""
    if environment.get("LISTEN_PID") != str(os.getpid()) or environment.get("LISTEN_FDS") != "1":
        raise BadRequest("the helper is started by systemd, with its socket", hint="as root: banger system install --owner USER")
    found = socket.socket(fileno=FIRST_DESCRIPTOR)
    found.set_inheritable(False)
    if found.family != socket.AF_UNIX or found.type != socket.SOCK_SEQPACKET:
        raise BadRequest("the helper's socket must be a Unix socket of sequential packets")
    return found


def interfaces(owner: Owner) -> dict[str, Served]:
    """All that is served, with its rules."""
    standing = Standing(means=Means.HELPER, pid=os.getpid(), build=build_id(), owner=owner.uid, roots=tuple(map(str, owner.roots)))
    links = OwnedLinks(owner)
    return {
        "privilege": served(Privilege, Held(standing), SERVED["privilege"]),
        "links": served(Links, links, SERVED["links"]),
        "nft": served(Nft, OwnedNft(links), SERVED["nft"]),
        "dm": served(Dm, OwnedDm(owner), SERVED["dm"]),
        "resolver": served(Resolver, OwnedResolver(RealFiles(), links), SERVED["resolver"]),
    }


async def serve(owner: Owner, listener: socket.socket) -> None:
    """Until systemd says to stop."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    log.info("serves user %d below %s", owner.uid, ", ".join(map(str, owner.roots)))
    await Servant(owner, interfaces(owner)).serve(listener, stopping)
    log.info("stopped")


def main() -> int:
    """The helper's process."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        owner, listener = parsed(sys.argv[1:]), handed_over(os.environ)
        give_up_the_rest()
        os.environ.clear()
        os.environ["PATH"] = os.pathsep.join(SYSTEM_PATH)
        os.umask(0o077)
        asyncio.run(serve(owner, listener))
    except (BangerError, OSError) as error:
        log.error("cannot serve: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
