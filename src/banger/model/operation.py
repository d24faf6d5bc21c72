"""Operations: what takes long has an id, a stage, and can be cancelled. `Operation` is what anybody sees of one at a moment."""

from __future__ import annotations

from datetime import datetime

import msgspec

from banger.model.ids import OperationId


class Failure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An error as it travels: see model/errors.py. `tail` is the end of the guest's console, already made harmless for terminals."""

    code: str
    message: str
    hint: str = ""
    stage: str = ""
    tail: tuple[str, ...] = ()


class Operation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`name` is the op (`vm.create`), `subject` what it works on; `finished` is None while it runs."""

    id: OperationId
    name: str
    subject: str
    stage: str
    detail: str
    started: datetime
    finished: datetime | None = None
    failure: Failure | None = None


class TargetResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of one of several targets."""

    target: str
    ok: bool
    failure: Failure | None = None


class Saved(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bundle that was written, and what is in it."""

    file: str
    digest: str
    size_bytes: int
    images: tuple[str, ...]
    kernels: tuple[str, ...]


class Loaded(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was taken from a bundle, and what was here already, byte for byte."""

    images: tuple[str, ...]
    kernels: tuple[str, ...]
    present: tuple[str, ...]


class Text(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A piece of the guest's console, made harmless: no control characters but newline and tab, undecodable bytes as escapes."""

    text: str


class DaemonStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The daemon itself. `build` orders code by age: version, then the newest file's time in nanoseconds. `names`: where NAME.vm is answered."""

    pid: int
    version: str
    build: str
    socket: str
    log: str
    state: str
    started: datetime
    machines: int
    operations: int
    names: str
