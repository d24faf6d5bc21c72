"""Files on a real file system, and on one that is full."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.host import files
from banger.host.files import RealFiles
from banger.model.errors import HostLacks, NoSpace, NotFound

FILES = RealFiles()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("root is needed to mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_missing_file_reads_as_none_and_another_failure_as_itself(tmp_path: Path) -> None:
    assert FILES.read(tmp_path / "no") is None
    assert FILES.size(tmp_path / "no") is None
    assert FILES.used_bytes(tmp_path / "no") == 0
    with pytest.raises(IsADirectoryError):
        FILES.read(tmp_path)


@pytest.mark.parametrize("durable", [True, False])
def test_a_write_replaces_the_whole_file_and_leaves_no_other(tmp_path: Path, durable: bool) -> None:
    (tmp_path / "file").write_text("a long former content")
    FILES.write_atomic(tmp_path / "file", b"new", durable=durable)
    assert FILES.read(tmp_path / "file") == b"new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_copy_has_the_same_bytes_and_the_same_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(1 << 30)
        for at in (0, 5 << 20, (1 << 30) - 4096):
            file.seek(at)
            file.write(b"x" * 4096)
    FILES.copy_sparse(source, target)
    assert target.stat().st_size == 1 << 30
    assert FILES.used_bytes(target) <= FILES.used_bytes(source) + 65536
    with target.open("rb") as file:
        for at in (0, 5 << 20, (1 << 30) - 4096):
            file.seek(at)
            assert file.read(4096) == b"x" * 4096
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_copy_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"a")
    (tmp_path / "target").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        FILES.copy_sparse(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"b"


def test_a_full_file_system_is_told_and_nothing_is_left(small: Path, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (1 << 20))
    with pytest.raises(NoSpace, match="target"):
        FILES.copy_sparse(tmp_path / "big", small / "target")
    with pytest.raises(NoSpace, match="record"):
        FILES.write_atomic(small / "record", b"x" * (1 << 20))
    assert list(small.iterdir()) == []
    assert FILES.free_bytes(small / "not" / "there") <= 256 << 10


def test_removing_takes_all_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "alias").symlink_to(tmp_path / "outside")
    for path in (tree, tmp_path / "alias", tmp_path / "missing"):
        FILES.remove_tree(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside"]
    assert (tmp_path / "outside" / "kept").exists()


def test_only_an_empty_folder_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").touch()
    FILES.remove_if_empty(folder)
    assert folder.exists()
    (folder / "file").unlink()
    FILES.remove_if_empty(folder)
    FILES.remove_if_empty(folder)
    assert not folder.exists()


def test_a_private_folder_is_ours_alone(tmp_path: Path) -> None:
    open_ = tmp_path / "open"
    open_.mkdir(mode=0o755)
    assert FILES.private_folder(open_).stat().st_mode & 0o777 == 0o700
    assert FILES.private_folder(tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(open_)
    with pytest.raises(HostLacks, match="not a folder of this user"):
        FILES.private_folder(tmp_path / "link")
    if os.geteuid() == 0:
        os.chown(open_, 65534, 65534)
        with pytest.raises(HostLacks):
            FILES.private_folder(open_)


def test_a_finished_file_gets_its_name_over_whatever_had_it(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "name").write_text("old")
    FILES.replace(tmp_path / "new", tmp_path / "name")
    assert (tmp_path / "name").read_text() == "new"


@pytest.fixture(params=["in one step", "in two, where names cannot be exchanged"])
def swapping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to replace a folder."""

    def refused(one: Path, other: Path) -> None:
        raise FileNotFoundError if not other.exists() else OSError(errno.EINVAL, "no")

    if request.param != "in one step":
        monkeypatch.setattr(files, "_exchange", refused)
    return str(request.param)


def folder(path: Path, content: str) -> Path:
    """A folder with a file."""
    path.mkdir()
    (path / "file").write_text(content)
    return path


def test_a_finished_folder_gets_its_name_and_the_former_one_is_handed_back(swapping: str, tmp_path: Path) -> None:
    fresh, name = folder(tmp_path / "fresh", "new"), tmp_path / "name"
    FILES.exchange(fresh, name)
    assert [path.name for path in tmp_path.iterdir()] == ["name"]
    FILES.exchange(folder(fresh, "newer"), name)
    assert (name / "file").read_text() == "newer"
    assert (fresh / "file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "name"]


def test_what_cannot_be_exchanged_leaves_the_name_as_it_was(swapping: str, tmp_path: Path) -> None:
    name = folder(tmp_path / "name", "old")
    with pytest.raises(FileNotFoundError):
        FILES.exchange(tmp_path / "missing", name)
    assert (name / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_at_no_moment_of_an_exchange_has_nobody_the_name(tmp_path: Path) -> None:
    fresh, name = folder(tmp_path / "fresh", "x"), folder(tmp_path / "name", "x")
    missed: list[OSError] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            try:
                (name / "file").read_text()
            except OSError as error:
                missed.append(error)

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(300):
        FILES.exchange(fresh, name)
    over.set()
    watcher.join()
    assert missed == []


def test_whoever_is_killed_while_he_exchanges_leaves_both(tmp_path: Path) -> None:
    fresh, name = folder(tmp_path / "fresh", "a"), folder(tmp_path / "name", "b")
    code = "import sys; from pathlib import Path; from banger.host.files import RealFiles; print(flush=True)\n"
    code += "while True: RealFiles().exchange(Path(sys.argv[1]), Path(sys.argv[2]))"
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code, fresh, name], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.kill()
        assert {(path / "file").read_text() for path in tmp_path.iterdir()} == {"a", "b"}
        assert name.exists()


def test_a_copy_to_another_file_system_keeps_bytes_and_holes(small: Path, tmp_path: Path) -> None:
    with (tmp_path / "source").open("wb") as file:
        file.truncate(1 << 24)
        file.seek(1 << 23)
        file.write(b"x" * 8192)
    FILES.copy_sparse(tmp_path / "source", small / "target")
    assert (small / "target").stat().st_size == 1 << 24
    assert (small / "target").read_bytes().count(b"x") == 8192
    assert FILES.used_bytes(small / "target") < 128 << 10


def test_a_sparse_file_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "file.new").write_bytes(b"half")
    FILES.make_sparse(tmp_path / "file", 1 << 30)
    assert (FILES.size(tmp_path / "file"), FILES.used_bytes(tmp_path / "file")) == (1 << 30, 0)
    with pytest.raises(OverflowError):
        FILES.make_sparse(tmp_path / "other", 1 << 63)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_kind_of_a_file_system_is_that_of_what_is_mounted_last(small: Path) -> None:
    assert FILES.kind(small / "not" / "there") == "tmpfs"
    assert FILES.kind(Path("/proc")) == "proc"


def test_where_files_cannot_be_cloned_the_file_system_is_named_and_nothing_is_left(small: Path) -> None:
    (small / "a").write_bytes(b"a")
    with pytest.raises(HostLacks, match=r"tmpfs at .* cannot clone files") as caught:
        FILES.clone(small / "a", small / "b", 4096)
    assert "--disk overlay" in caught.value.hint
    assert [path.name for path in small.iterdir()] == ["a"]


def test_a_second_name_is_the_same_file_and_must_be_free(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    FILES.link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").samefile(tmp_path / "b")
    with pytest.raises(FileExistsError):
        FILES.link(tmp_path / "a", tmp_path / "b")


def test_the_beginning_of_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert FILES.head(tmp_path / "a", 2) == b"ab"
    assert FILES.head(tmp_path / "a", 9) == b"abc"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "nothing", Path("/dev/zero")):
        with pytest.raises(NotFound):
            FILES.head(path, 1)


def test_files_on_two_file_systems_cannot_be_clones(small: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with pytest.raises(HostLacks, match="two file systems"):
        FILES.clone(tmp_path / "a", small / "b", 4096)


def test_a_clone_shares_its_blocks_and_is_lengthened(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("root is needed to mount a small file system")
    (tmp_path / "image").write_bytes(b"")
    os.truncate(tmp_path / "image", 256 << 20)
    place = tmp_path / "btrfs"
    place.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", tmp_path / "image"], check=True)
    subprocess.run(["mount", "-o", "loop", tmp_path / "image", place], check=True)
    try:
        (place / "a").write_bytes(b"a" * (1 << 20))
        FILES.clone(place / "a", place / "b", 4 << 20)
        assert FILES.kind(place) == "btrfs"
        assert (place / "b").read_bytes() == b"a" * (1 << 20) + bytes(3 << 20)
        (place / "b").write_bytes(b"b")
        assert (place / "a").read_bytes() == b"a" * (1 << 20)
    finally:
        subprocess.run(["umount", place], check=True)
