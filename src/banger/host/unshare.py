"""User namespaces: how a command sees itself as root, with 65536 users to give files to, although an ordinary user runs it.

The user is mapped to root, and the ranges that /etc/subuid and /etc/subgid give the user to everybody else. So the user's own private folders stay
within reach, and owners and setuid bits come out right. Root needs none of this. This file makes the beginnings of commands; `Proc` runs them.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from banger.host.files import Files
from banger.host.proc import Proc
from banger.model.errors import HostLacks, ToolFailed

#: As many as a Debian system has ids of its own, including nobody (65534).
ENOUGH = 1 << 16

UNPRIVILEGED = ("setpriv", "--no-new-privs", "--")


def mapped(root: bool) -> list[str]:
    """The prefix for a single tool: see files as root would. Empty for root."""
    return [] if root else ["unshare", "--map-auto", "--map-root-user", "--"]


def secluded(root: bool) -> list[str]:
    """The prefix for a tool that starts and mounts things: nothing it starts or mounts outlives it, however it ends (pid and mount namespace).

    unshare ignores TERM while it waits for the tool, so it has to be KILL that the kernel sends it if we die.
    """
    users = [] if root else ["--map-auto", "--map-root-user"]
    return ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *users, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]


def stripped(*, namespace: bool, network: bool) -> list[str]:
    """The prefix for a process that is to have no privilege and never get one; in a user namespace of its own where `namespace`.

    It is user 1 there, whoever started it, since root of a namespace would have capabilities; and without any network where `network` too. It is
    still this user to the host, so what the user may open, by a group of its as well, it may open.
    """
    own = ["unshare", "--user", "--map-user=1", "--map-group=1", *(("--net",) if network else ()), "--"] if namespace else []
    return [*own, *UNPRIVILEGED]


def beside(pid: int) -> list[str]:
    """The prefix for such a process in the user and network namespaces of another one of this user's."""
    return ["nsenter", "--target", str(pid), "--user", "--net", "--preserve-credentials", "--", *UNPRIVILEGED]


def subordinate(text: str, name: str, uid: int) -> int:
    """How many ids a line of subuid(5) or subgid(5) gives to the user; the largest range counts."""
    largest = 0
    for line in text.splitlines():
        owner, _, rest = line.partition(":")
        count = rest.rpartition(":")[2].strip()
        if owner in (name, str(uid)) and count.isdigit():
            largest = max(largest, int(count))
    return largest


async def seclusion(proc: Proc, *, root: bool) -> list[str]:
    """`secluded`, tried first. Root in a container that may not mount does without; an ordinary user cannot, HostLacks says why."""
    prefix = secluded(root)
    try:
        await proc.run([*prefix, "true"], timeout=20)
    except ToolFailed as error:
        if root:
            return []
        raise HostLacks(f"this host does not let an ordinary user make user namespaces: {error.message}", hint="run: banger doctor") from error
    return prefix


def subordinate_ids(files: Files) -> int:
    """How many users and groups this user may give files to, the smaller of both; host tools want 65536."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    texts = [(files.read(Path(place)) or b"").decode("utf-8", "replace") for place in ("/etc/subuid", "/etc/subgid")]
    return min(subordinate(text, name, uid) for text in texts)
