"""Errors are for the next action: one class per thing that a caller would do differently.

Each has a kebab-case code, a message (lower-case, no full stop, cause last) and, where one is known, a hint: the next command. The table at the
end is the only place that maps a code to an HTTP status and to the exit status of the CLI. Light on purpose: the CLI's hot path imports it.
"""

from __future__ import annotations

import errno


class BangerError(Exception):
    """Base of all errors that banger raises on purpose; `tail` holds the end of the guest's console where that helps."""

    code = "internal"

    def __init__(self, message: str, *, hint: str = "", stage: str = "", tail: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.stage = stage
        self.tail = tail

    def __str__(self) -> str:
        notes = [note for note in getattr(self, "__notes__", [])]
        return "; ".join([self.message, *notes])


class BadRequest(BangerError):
    """The request cannot be meant: wrong name, size, field, flag or combination."""

    code = "bad-request"


class NotFound(BangerError):
    """The named thing does not exist."""

    code = "not-found"


class NoCommand(BangerError):
    """The guest has no such command, or not what interprets it."""

    code = "no-command"


class NotPermitted(BangerError):
    """The guest has the command, but does not execute it."""

    code = "not-permitted"


class AlreadyExists(BangerError):
    """The name is taken."""

    code = "already-exists"


class WrongState(BangerError):
    """The thing exists but is not in the state that the request needs."""

    code = "wrong-state"


class Busy(BangerError):
    """Something else is under way on the same thing; the same request may succeed later."""

    code = "busy"


class HostLacks(BangerError):
    """The host misses a tool, a device, a permission or a kernel feature."""

    code = "host-lacks"


class NoSpace(BangerError):
    """A file system is full or would be."""

    code = "no-space"


class Corrupt(BangerError):
    """Stored or fetched data is not what it must be: database, image, catalog, signature."""

    code = "corrupt"


class NewerSchema(Corrupt):
    """The stored data was written by a newer banger."""

    code = "newer-schema"


class GuestFailed(BangerError):
    """The guest or its agent did not answer, broke the protocol, or refused."""

    code = "guest-failed"


class VmmFailed(BangerError):
    """The virtual machine monitor did not start, died, or refused."""

    code = "vmm-failed"


class ToolFailed(BangerError):
    """An external command failed; the message carries the end of what it said."""

    code = "tool-failed"


class DownloadFailed(BangerError):
    """Something could not be fetched, or not whole."""

    code = "download-failed"


class TimedOut(BangerError):
    """A bounded wait ran out."""

    code = "timed-out"


class Cancelled(BangerError):
    """The user took the operation back."""

    code = "cancelled"


class DaemonUnreachable(BangerError):
    """The daemon could not be started or does not answer."""

    code = "daemon-unreachable"


class DaemonStale(BangerError):
    """The daemon's code is older than the client's; it is stepping down for a new one."""

    code = "daemon-stale"


#: code → (HTTP status, exit status of the CLI). The CLI's own failures lie in 120 … 127 (the last two as every shell has them)
#: and 130; everything else is the guest command's status.
CODES: dict[str, tuple[int, int]] = {
    "bad-request": (400, 120),
    "not-found": (404, 121),
    "no-command": (404, 127),
    "not-permitted": (403, 126),
    "already-exists": (409, 122),
    "wrong-state": (409, 122),
    "busy": (409, 122),
    "host-lacks": (424, 123),
    "no-space": (507, 123),
    "guest-failed": (502, 124),
    "vmm-failed": (502, 124),
    "download-failed": (502, 124),
    "timed-out": (504, 124),
    "cancelled": (499, 130),
    "corrupt": (500, 125),
    "newer-schema": (500, 125),
    "tool-failed": (500, 125),
    "daemon-unreachable": (503, 125),
    "daemon-stale": (426, 125),
    "internal": (500, 125),
}


def foreseen(error: BaseException) -> BangerError | None:
    """An error as banger's own: a full disk is told as that wherever it shows. None for what nobody foresaw."""
    if isinstance(error, BangerError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left{f' for {error.filename}' if error.filename else ''}", hint="free some space, or run: banger vm prune")
    return None


def every_error() -> dict[str, type[BangerError]]:
    """Each error class by its code, for the client (which raises what the daemon raised) and for the reference page."""
    found: dict[str, type[BangerError]] = {BangerError.code: BangerError}
    waiting = [BangerError]
    while waiting:
        children = waiting.pop().__subclasses__()
        found |= {child.code: child for child in children}
        waiting += children
    return found


def exit_status(code: str) -> int:
    """The CLI's exit status for an error code; an unknown one counts as internal."""
    return CODES.get(code, CODES["internal"])[1]
