"""Strict in, stable out: records to JSON and back. An unknown field is an error that names it; what cannot be read says where."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from banger.model.errors import BangerError, Corrupt

T = TypeVar("T")


def _encode_other(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"no JSON form for {type(value).__name__}")


def encode(value: object) -> bytes:
    """The JSON of a record, a builtin, or a container of them; keys keep their order."""
    return msgspec.json.encode(value, enc_hook=_encode_other)


def decode(data: bytes, kind: type[T], *, what: str, error: type[BangerError] = Corrupt) -> T:
    """The record in `data`; raises `error`, whose message names `what` and the field."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:
        raise error(f"{what}: {cause}") from cause


def convert(value: object, kind: type[T], *, what: str, error: type[BangerError] = Corrupt, strict: bool = True) -> T:
    """The same from what a JSON parser already made, or (strict=False) from text values such as a query string's."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as cause:
        raise error(f"{what}: {cause}") from cause
