"""Why a connection failed, in words of this system: what Python and aiohttp say of it names their calls, numbers and source files."""

from __future__ import annotations

import os
import re
import socket
import ssl

#: How errors are told that stand for several, one an address.
NUMBERED = re.compile(r"\[Errno (\d+)\]")
NAMELESS = {
    socket.EAI_NONAME: "there is no such name",
    socket.EAI_AGAIN: "no name server answers",
}


def cause(error: BaseException) -> str:
    """In lower case, without a full stop; empty when nothing is known but the kind of error."""
    if isinstance(error, ssl.SSLError):  # which has these where OpenSSL said something
        told: str = getattr(error, "verify_message", "") or getattr(error, "reason", "") or "it ended in the middle"
        return told.replace("_", " ").rstrip(".").lower()
    if isinstance(error, socket.gaierror):
        return NAMELESS.get(error.errno or 0, "its name cannot be looked up")
    if isinstance(error, OSError):
        numbers = [error.errno] if error.errno else [int(number) for number in NUMBERED.findall(str(error))]
        return " and ".join(dict.fromkeys(os.strerror(number).lower() for number in numbers))
    return ""
