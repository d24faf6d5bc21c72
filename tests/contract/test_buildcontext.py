"""What of a folder a build copies: patterns, what is left out, digests, and tar archives that are taken apart."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path

import pytest

from banger.host.buildcontext import Content, Context, Packing, digest_of, ignored_in, is_archive, plain, read_text
from banger.model.dockerignore import Ignored
from banger.model.errors import BadRequest, NotFound


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A context of a little of everything."""
    place = tmp_path / "context"
    for name in ("src/deep", "build/keep", "empty"):
        (place / name).mkdir(parents=True)
    for name, text in {"a.txt": "a", "b.txt": "b", "src/main.c": "main", "src/deep/x": "x", "build/out": "o", "build/keep/it": "k"}.items():
        (place / name).write_text(text)
    (place / "src/main.c").chmod(0o755)
    (place / "src/link").symlink_to("../../outside")
    (place / "way").symlink_to("src")
    (place / "out").symlink_to("/etc")
    return place


def taken(place: Path, *sources: str, into: bool = False, unpack: bool = False) -> Content:
    return Context(place, ignored_in(place, place / "Dockerfile")).content(sources, into=into, unpack=unpack, named=repr)


def names(content: Content) -> list[str]:
    return [picked.name for picked in content.picked]


def members(content: Content) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(Packing(content).chunks()))) as archive:
        return {member.name: member for member in archive}


def test_patterns_pick_files_and_the_content_of_folders(folder: Path) -> None:
    assert (names(taken(folder, "?.txt")), taken(folder, "?.txt").into) == (["a.txt", "b.txt"], True)
    assert (names(taken(folder, "/src/../a.txt")), taken(folder, "a.txt").into) == (["a.txt"], False)
    assert names(taken(folder, "s*/")) == ["deep", "deep/x", "link", "main.c"]
    assert names(taken(folder, "way")) == names(taken(folder, "src"))
    assert "build/keep/it" in names(taken(folder, "."))
    assert (names(taken(folder, "empty")), taken(folder, "empty").into) == ([], True)


@pytest.mark.parametrize("source", ["none", "a.txt/x", "*.md", "empty/*"])
def test_what_is_not_there_is_told(folder: Path, source: str) -> None:
    with pytest.raises(NotFound, match="nothing in the context fits"):
        taken(folder, "a.txt", source)


def test_a_link_out_of_the_context_is_copied_as_one_but_not_followed(folder: Path) -> None:
    link = members(taken(folder, "src"))["link"]
    assert (link.type, link.linkname) == (tarfile.SYMTYPE, "../../outside")
    with pytest.raises(BadRequest, match="'out' leads outside"):
        taken(folder, "out")


def test_what_is_ignored_is_not_there_but_for_exceptions(folder: Path) -> None:
    (folder / ".dockerignore").write_text("build\n*.txt\n!b.txt\n!build/keep\n")
    assert names(taken(folder, "*.txt")) == ["b.txt"]
    assert [name for name in names(taken(folder, ".")) if name.startswith("b")] == ["b.txt", "build", "build/keep", "build/keep/it"]
    assert names(taken(folder, "build")) == ["keep", "keep/it"]
    with pytest.raises(NotFound):
        taken(folder, "a.txt")
    (folder / "Dockerfile.dockerignore").write_text("b.txt\n")
    assert names(taken(folder, "*.txt")) == ["a.txt"]


def test_the_digest_follows_names_modes_links_and_bytes_only(folder: Path) -> None:
    before = digest_of(taken(folder, "src"))
    os.utime(folder / "src/main.c", (1, 1))
    assert digest_of(taken(folder, "src")) == before
    seen = {before, digest_of(taken(folder, "src/main.c")), digest_of(taken(folder, "src/main.c", into=True))}
    for change in (
        lambda: (folder / "src/main.c").chmod(0o644),
        lambda: (folder / "src/main.c").write_text("niam"),
        lambda: (folder / "src/deep/x").rename(folder / "src/deep/y"),
        lambda: (folder / "src/new").mkdir(),
    ):
        change()
        seen.add(digest_of(taken(folder, "src")))
    assert len(seen) == 7


def test_entries_are_roots_and_have_their_modes(folder: Path) -> None:
    found = members(taken(folder, "src"))
    assert (found["main.c"].mode, found["main.c"].uid, found["main.c"].size, found["deep"].isdir()) == (0o755, 0, 4, True)
    inline = Content(into=False, inline=(("note", b"text\n"),))
    assert (members(inline)["note"].size, digest_of(inline) != digest_of(Content(into=False))) == (5, True)


def test_names_that_are_long_or_no_text_come_through(folder: Path) -> None:
    odd = os.fsencode(folder) + b"/empty/\xff" + b"n" * 200
    Path(os.fsdecode(odd)).write_text("x")
    assert [os.fsencode(name) for name in members(taken(folder, "empty"))] == [b"\xff" + b"n" * 200]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_archives_are_taken_apart_when_they_are_added(folder: Path, pack: object) -> None:
    assert callable(pack)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.add(folder / "a.txt", "inside")
    (folder / "it.bin").write_bytes(pack(made.getvalue()))
    (folder / "no.gz").write_bytes(gzip.compress(b"no tar"))
    content = taken(folder, "it.bin", "no.gz", into=True, unpack=True)
    assert (names(content), is_archive(folder / "a.txt")) == (["no.gz"], False)
    (inner,) = Packing(content).archives()
    assert b"".join(inner) == made.getvalue()
    assert names(taken(folder, "it.bin")) == ["it.bin"]


def test_a_file_that_vanishes_and_a_fifo_are_told(folder: Path) -> None:
    content = taken(folder, "src")
    (folder / "src/deep/x").unlink()
    with pytest.raises(NotFound, match="has gone"):
        digest_of(content)
    os.mkfifo(folder / "src/fifo")
    with pytest.raises(BadRequest, match="no file, folder or link"):
        digest_of(taken(folder, "src"))


def test_a_dockerfile_is_text_of_a_file(folder: Path) -> None:
    (folder / "bad").write_bytes(b"\xff")
    for name, error in {"none": NotFound, "src": BadRequest, "bad": BadRequest}.items():
        with pytest.raises(error):
            read_text(folder / name, 10)
    with pytest.raises(BadRequest, match="more than 3 bytes"):
        read_text(folder / "src/main.c", 3)
    assert Context(folder, Ignored()).folder == folder


@pytest.mark.timeout(60)
def test_what_would_never_end_is_told(folder: Path) -> None:
    os.mkfifo(folder / "Dockerfile")
    (folder / "endless").symlink_to("/dev/zero")
    for name in ("Dockerfile", "endless"):
        with pytest.raises(BadRequest, match="is no file"):
            read_text(folder / name, 10)
    (folder / ".dockerignore").write_bytes(b"x" * (1 << 20) + b"x")
    with pytest.raises(BadRequest, match="more than 1048576 bytes"):
        ignored_in(folder, folder / "Dockerfile")
    (folder / ".dockerignore").write_text("**/*a*a/" * 400 + "b\n")
    assert not ignored_in(folder, folder / "Dockerfile")("aaaaa/" * 50 + "c")
    deep = folder / "empty"
    for _ in range(300):
        deep /= "d"
        deep.mkdir()
    with pytest.raises(BadRequest, match="more than 256 folders deep"):
        taken(folder, "empty")


def test_archives_may_have_several_streams_and_are_never_unpacked_as_a_whole(folder: Path) -> None:
    for pack in (bz2.compress, lzma.compress):
        (folder / "it").write_bytes(pack(bytes(5 << 20)) + pack(b"end"))
        chunks = list(plain(folder / "it"))
        assert b"".join(chunks) == bytes(5 << 20) + b"end"
        assert max(map(len, chunks)) <= 1 << 20
        (folder / "it").write_bytes(pack(os.urandom(1000))[:-40])
        with pytest.raises(EOFError):
            list(plain(folder / "it"))


def test_who_hears_what_is_read_can_end_it(folder: Path) -> None:
    heard: list[int] = []
    digest_of(taken(folder, "src"), heard.append)
    assert sum(heard) == len(b"".join(Packing(taken(folder, "src")).chunks()))

    def enough(_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        digest_of(taken(folder, "src"), enough)
    with pytest.raises(InterruptedError):
        Context(folder, Ignored(), enough).content(["src"], into=True, unpack=False, named=repr)
