"""The reference page is what the code declares."""

from __future__ import annotations

from pathlib import Path

from banger.frontends.cli.reference import page

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "reference.md"


def test_the_page_in_the_guide_is_the_generated_one() -> None:
    assert PAGE.read_text() == page(), "write it anew: banger reference > docs/guide/reference.md"
