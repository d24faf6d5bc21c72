"""What somebody has tampered with: bytes, JSON documents and tar archives in which a few things are wrong; and what must hold for whoever reads them.

`tried` runs a test 500 times, the same cases each time; the variable BANGER_FUZZ_CASES says how many more (`make fuzz`: 10,000, others each time).
`harmless` is around what reads one: it takes bounded time and memory, and nothing outside of its folder is touched.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.touching import Change, told

CASES = int(os.environ.get("BANGER_FUZZ_CASES", "500"))
tried = settings(max_examples=CASES, deadline=None, derandomize=CASES == 500, suppress_health_check=list(HealthCheck), database=None)
#: Of one case: seconds of processor time, and how much more memory there is in between than before it.
LONGEST, MOST = 5.0, 192 << 20

BLOCK = 512
#: Where a tar header's fields are, but for the sum: (offset, length). The size, by which readers go on, is tried more often.
SIZE = (124, 12)
FIELDS = (*[SIZE] * 4, (0, 100), (100, 8), (108, 8), (116, 8), (136, 12), (156, 1), (157, 100), (257, 8), (329, 8), (337, 8), (345, 155), (386, 97))
VALUES = (
    b"",
    b"\0",
    b"7" * 12,
    b"00000000144\0",
    b"\xff" * 12,
    b"\x80" + b"\0" * 10 + b"\x05",
    b"-1",
    b"../../x",
    b"/etc/passwd",
    b".",
    b"a/" * 40,
    b"S",
    b"x",
    b"L",
    b"1",
)
NUMBERS = (-1, 0, 1, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), 1e308, -0.5)
TEXTS = (
    "",
    "\0",
    "..",
    "../x",
    "/etc/passwd",
    "a/../../x",
    "ä" * 300,
    "x" * 70_000,
    "sha256:",
    "sha256:" + "0" * 64,
    "linux",
    "-rf",
    "\ud83d\ude00",
    "%s{}",
)
WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.integers(0, len(TEXTS) - 1).map(TEXTS.__getitem__),
    st.text(max_size=20),
    st.integers(),
    st.just([]),
    st.just({}),
    st.lists(st.integers(0, len(TEXTS) - 1).map(TEXTS.__getitem__), max_size=3),
    st.just({"name": "x", "digest": "sha256:x", "size": -1}),
)


# -- bytes ----------------------------------------------------------------------------------------------------------------------------------------


def spoil(draw: st.DrawFn, data: bytearray, most: int = 3) -> None:
    """Up to `most` places hold something else, are missing, or are there twice."""
    for _ in range(draw(st.integers(1, most))):
        at, length = draw(st.integers(0, max(len(data) - 1, 0))), draw(st.sampled_from([1, 1, 2, 4, 8, 100]))
        match draw(st.sampled_from(["flip", "flip", "set", "cut", "lose", "double", "more"])):
            case "flip" if data:
                data[at] ^= draw(st.integers(1, 255))
            case "set":
                piece = draw(st.sampled_from([b"\xff" * 4, b"\0" * 8, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b'"', b"\\", b"\n", b"9" * 30]))
                data[at : at + len(piece)] = piece
            case "cut":
                del data[at:]
            case "lose":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length]
            case _:
                data.extend(draw(st.binary(min_size=1, max_size=20)))


# -- documents ------------------------------------------------------------------------------------------------------------------------------------


def spoiled_document(draw: st.DrawFn, document: object) -> bytes:
    """The JSON of a document in which one to three places hold something else, are missing, or are there twice; seldom its text is spoilt, too."""
    copy: object = json.loads(json.dumps(document))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        copy = _altered(draw, copy)
    text = bytearray(json.dumps(copy, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass"))
    match draw(st.integers(0, 19)):
        case 0:
            spoil(draw, text)
        case 1:
            text[:] = b"\xef\xbb\xbf" + text
        case 2:
            text[:] = text.replace(b'{"', b'{"version": 1, "size": 5, "', 1)  # the same key twice
        case 3:
            text[:] = b"[" * draw(st.sampled_from([50, 5000, 200_000])) + text
    return bytes(text)


def _wrong(draw: st.DrawFn) -> object:
    """A copy, which may be altered once more."""
    copy: object = json.loads(json.dumps(draw(WRONG)))
    return copy


def _altered(draw: st.DrawFn, value: object) -> object:
    """One place within, or the whole."""
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(sorted(value)))
        match draw(st.integers(0, 11)):
            case 0:
                del value[key]
            case 1:
                value[draw(st.sampled_from(["other", "", *sorted(value)]))] = value[key]
            case 2:
                value[draw(st.sampled_from(["other", "urls", "annotations"]))] = _wrong(draw)
            case _:
                value[key] = _altered(draw, value[key])
        return value
    if isinstance(value, list) and value:
        at = draw(st.integers(0, len(value) - 1))
        match draw(st.integers(0, 9)):
            case 0:
                del value[at]
            case 1:
                value.extend(value[at : at + 1] * draw(st.sampled_from([1, 2, 600, 1100])))
            case _:
                value[at] = _altered(draw, value[at])
        return value
    if isinstance(value, str) and draw(st.booleans()):
        at = draw(st.integers(0, len(value)))
        return value[:at] + draw(st.sampled_from(["", "\0", "/", "../", "é", "0", " ", "\n", "=", ":"])) + value[at + draw(st.integers(0, 1)) :]
    return _wrong(draw)


# -- archives -------------------------------------------------------------------------------------------------------------------------------------


def spoil_tar(draw: st.DrawFn, data: bytearray, blocks: int = 40) -> None:
    """One thing is wrong among the first blocks of a tar or in a header: a field (its sum is right again), a byte, an end, one more or less."""
    if len(data) < BLOCK:
        return
    heads = [at for at in range(0, len(data) - BLOCK + 1, BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    anywhere = st.integers(0, min(len(data) // BLOCK - 1, blocks)).map(lambda block: block * BLOCK)
    at = draw(st.one_of(st.sampled_from(heads), anywhere) if heads else anywhere)
    match draw(st.sampled_from(["field", "field", "field", "byte", "cut", "double", "swap"])):
        case "field":
            offset, length = draw(st.sampled_from(FIELDS))
            data[at + offset : at + offset + length] = draw(st.sampled_from(VALUES))[:length].ljust(length, b"\0")
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + BLOCK])
        case "byte":
            data[at + draw(st.integers(0, BLOCK - 1))] = draw(st.integers(0, 255))
        case "cut":
            del data[at + draw(st.integers(0, BLOCK)) :]
        case "double":
            data[at:at] = data[at : at + BLOCK]
        case _:
            del data[at : at + BLOCK]


# -- what must hold -------------------------------------------------------------------------------------------------------------------------------


@contextmanager
def harmless(*folders: Path) -> Iterator[None]:
    """AssertionError when what is done in here takes too long or too much memory, or changes anything outside of the folders."""
    inside, outside = tuple(f"{folder}/" for folder in folders), list[Change]()

    def look(change: Change) -> None:
        outside.extend([change] if not all(f"{path}/".startswith(inside) for path in change.paths) else [])

    began, before = time.process_time(), _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (proc_pid_clear_refs(5))
    with told(look), _bounded():
        yield
    took, grown = time.process_time() - began, _memory("VmHWM") - before
    assert took < LONGEST, f"it took {took:.1f} s of processor time"
    assert grown < MOST, f"it took {grown >> 20} MiB of memory more"
    assert outside == [], "something outside was touched"


@contextmanager
def _bounded() -> Iterator[None]:
    """What wants memory without end gets a MemoryError, and not the machine's last page. RLIMIT_DATA counts what is writable, be it used or not."""
    former = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_memory("VmData") + 8 * MOST, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, former)


def _memory(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
