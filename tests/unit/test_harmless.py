"""What a guest prints, as a terminal gets to see it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.host.console import CONTROLS, cut, harmless


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        (b"line\r\nline\r\r\nline\rover", "line\nline\nline\nover"),
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07after", "after"),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1bP1$r0m\x1b\\x", "x"),
        (b"\x1b(B\x1b=\x1b7\x1bcx", "x"),
        (b"\x1b[?25l\x1b[2J\x1b[10;20H", ""),
        (b"\x1b", "\\x1b"),
        (b"\x1b]never ends", "\\x1b]never ends"),
        (b"bell\x07 null\x00 del\x7f", "bell\\x07 null\\x00 del\\x7f"),
        (b"\xff\xfe bytes", "\\xff\\xfe bytes"),
        ("Grüße, 世界".encode(), "Grüße, 世界"),
        ("c1 \x9b31m".encode(), "c1 \\x9b31m"),
        ("abc\u202edef".encode(), "abc\\x202edef"),
    ],
)
def test_it_is_harmless(data: bytes, text: str) -> None:
    assert harmless(data) == text


@given(st.binary(max_size=300))
def test_nothing_that_a_terminal_obeys_is_left(data: bytes) -> None:
    text = harmless(data)
    assert not CONTROLS.search(text)
    assert "\x1b" not in text


def test_an_escape_sequence_inside_another_leaves_none() -> None:
    assert "\x1b" not in harmless(b"\x1b\x1b[31m[31mx")


def test_an_unfinished_line_is_held_back_unless_it_is_long() -> None:
    assert cut(b"one\ntwo") == (b"one\n", b"two")
    assert cut(b"two") == (b"", b"two")
    assert cut(b"x" * 5000) == (b"x" * 5000, b"")
