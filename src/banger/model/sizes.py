"""Sizes as people write them: `512M`, `8G`, `4GiB`. Binary units; a bare number is taken as the unit that the flag names. Light: CLI hot path."""

from __future__ import annotations

from banger.model.errors import BadRequest

UNITS = {"": 0, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(text: str, *, bare: int = 1) -> int:
    """Bytes in `text`; a number without a unit counts `bare` bytes each. BadRequest when it is no size, zero or negative."""
    word = text.strip().lower()
    number = word.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = word[len(number) :].removesuffix("ib") if len(word[len(number) :]) > 1 else word[len(number) :]
    unit = unit.removesuffix("b") if len(unit) > 1 else unit
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if unit not in UNITS or not 0 < value < 1 << 63:
        raise BadRequest(f"{text!r} is not a size", hint="write it as 512M, 8G or 4GiB")
    return int(value * (UNITS[unit] or bare))


def show_size(count: int) -> str:
    """Bytes for people: at most four significant characters and a binary unit."""
    value = float(count)
    for unit in ("B", "K", "M", "G", "T"):
        if value < 1024 or unit == "T":
            return f"{value:.0f}{unit}" if unit == "B" or value >= 10 else f"{value:.1f}{unit}".replace(".0", "")
        value /= 1024
    raise AssertionError("unreachable")
