"""What banger itself does in a guest: lines of what a command prints, tars that go in, and a guest that says no."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.daemon.guestwork import LONGEST_LINE, Ended, Lines, fetch, lay, run
from banger.model.errors import GuestFailed, NoCommand
from banger.testing import FakeGuest
from tests.place import OTTER, Place, result


def test_lines_are_whole_harmless_and_the_last_state_of_what_is_overwritten() -> None:
    heard: list[str] = []
    lines = Lines(heard.extend)
    for data in (b"on", b"e\n10%\r50%\r100%\ntw\xffo\r\n\nrest"):
        lines.feed(data)
    lines.end()
    lines.end()
    assert heard == ["one", "100%", "tw\\xffo", "", "rest"]


@given(st.lists(st.binary(max_size=50)), st.integers(0, 3))
def test_nothing_is_kept_beyond_a_line(pieces: list[bytes], times: int) -> None:
    heard: list[str] = []
    lines = Lines(heard.extend)
    for piece in pieces * 100**times if times < 2 else pieces:
        lines.feed(piece)
        assert len(lines.rest) < LONGEST_LINE
    lines.end()
    assert len(heard) >= b"".join(pieces).count(b"\n")


def test_lines_that_come_at_once_are_told_together_but_not_too_many() -> None:
    told: list[Sequence[str]] = []
    Lines(told.append).feed(b"a\nb\n" + b"\n" * 1000)
    assert [len(lines) for lines in told] == [256, 256, 256, 234]
    assert told[0][:3] == ["a", "b", ""]


async def test_data_goes_in_and_comes_out_whole_beyond_what_the_guest_takes_at_once(place: Place) -> None:
    guest = FakeGuest()
    guest.packed = b"out" * 20000
    place.fake.qemu.guest = lambda _: guest  # type: ignore[method-assign]
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    _, conversation = await daemon.vms.talk("otter")
    chunks = [bytes([number]) * 70000 for number in range(20)]
    await lay(conversation, {"op": "unpack", "path": "/"}, chunks)
    assert guest.unpacked[0][1] == b"".join(chunks)
    came = bytearray()
    await fetch(conversation, {"op": "pack"}, came.extend)
    assert bytes(came) == guest.packed
    with pytest.raises(GuestFailed, match="no operation nothing"):
        await lay(conversation, {"op": "nothing"}, chunks)
    with pytest.raises(NoCommand):
        await run(conversation, {"argv": ["nothing"]}, lambda _: None)


def test_an_end_is_told_in_words() -> None:
    assert [ended.trouble for ended in (Ended(), Ended(exit=2), Ended(signal="KILL"))] == ["", "ended with status 2", "was ended by SIGKILL"]
