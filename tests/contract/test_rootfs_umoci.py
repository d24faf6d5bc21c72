"""Images of many shapes have, as our ext4, the very tree that umoci unpacks: paths, types, modes, owners, times, links, attributes, contents.

Where they differ it is meant (docs/adr/0020-layers-are-written-by-libext2fs.md). With pytest's `-s` this prints a table of what was compared.
"""

from __future__ import annotations

import os
import random
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from banger.host.proc import RealProc
from banger.host.rootfs import Layer, RealRootFs
from banger.model.errors import Corrupt
from tests.layers import Item, file, folder, held, item, layer, layout, link, mounted, sound, symlink, tar, unpacked
from tests.world import SHELF, SLIM

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to mount, and for umoci to keep owners")
Layers = list[list[Item] | bytes]
ROOT = folder("./", mtime=1_600_000_000)
BUSYBOX = Path("/bin/busybox")
#: Folders that umoci gives the time of the unpacking, although the image says another: those from which an opaque folder above them takes something.
UNTIMELY = {b"p/kept"}
CAPABLE = bytes.fromhex("0100000200040000000000000000000000000000")
ACL = bytes.fromhex("02000000") + b"".join(
    tag.to_bytes(2, "little") + mode.to_bytes(2, "little") + who.to_bytes(4, "little")
    for tag, mode, who in ((1, 6, 0xFFFFFFFF), (2, 4, 1000), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF))
)


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def busybox() -> Layers:
    """One program with many names, as Docker's image has them: hard links; and a second layer over it."""
    names = [link(f"bin/{name}", "bin/busybox") for name in ("sh", "ls", "cat", "[", "mount", "vi")]
    base = [ROOT, folder("bin/"), file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755), *names, folder("tmp", mode=0o1777), folder("root", mode=0o700)]
    return [base, [folder("etc"), file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"), file(".dockerenv")]]


def alpine() -> Layers:
    """Symbolic links to one program, relative and absolute ones, and owners of all sorts."""
    links = [symlink(f"bin/{name}", "/bin/busybox") for name in ("sh", "ls", "cat")]
    base = [
        ROOT,
        folder("bin"),
        file("bin/busybox", BUSYBOX.read_bytes(), mode=0o4755),
        *links,
        folder("var"),
        symlink("var/run", "/run"),
        folder("run"),
    ]
    return [base, [folder("home"), folder("home/app", owner=(1000, 1000)), file("home/app/x", b"x", owner=(70_000, 4_000_000_000))]]


def distroless() -> Layers:
    """One static binary, with its folders."""
    return [[ROOT, folder("app", mode=0o755), file("app/server", BUSYBOX.read_bytes(), mode=0o755)]]


def merged_usr() -> Layers:
    """Later layers put files through symbolic links of earlier ones, relative and absolute."""
    base = [
        ROOT,
        folder("usr"),
        folder("usr/lib"),
        symlink("lib", "usr/lib"),
        symlink("lib64", "/usr/lib"),
        folder("run"),
        folder("var"),
        symlink("var/run", "/run"),
    ]
    return [base, [file("lib/libx.so.1", b"x1"), symlink("lib/libx.so", "libx.so.1"), file("lib64/liby.so", b"y"), file("var/run/pid", b"1")]]


def whiteouts() -> Layers:
    """Files, folders and links that go, one that comes back, and one that was never there."""
    base = [
        ROOT,
        folder("a"),
        file("a/1", b"1"),
        file("a/2", b"2"),
        folder("a/b"),
        file("a/b/3", b"3"),
        symlink("s", "a"),
        file("gone", b"!"),
        folder("d"),
        file("d/x", b"x"),
    ]
    second = [file(".wh.gone"), folder("a"), file("a/.wh.1"), file("a/.wh.b"), file(".wh.s"), file(".wh.nothing"), file("n/.wh.nothing"), file(".wh.d")]
    return [base, second, [folder("a/b"), file("a/b/4", b"4"), file("gone", b"back")]]


def opaque() -> Layers:
    """A folder that begins anew, the mark before and after what its own layer puts there; and one below another."""
    base = [
        ROOT,
        folder("o"),
        file("o/old", b"o"),
        folder("o/deep"),
        file("o/deep/old", b"o"),
        folder("p"),
        file("p/old", b"p"),
        folder("p/kept"),
        file("p/kept/old"),
    ]
    second = [
        folder("o"),
        file("o/.wh..wh..opq"),
        file("o/new", b"n"),
        folder("p"),
        file("p/new", b"n"),
        folder("p/kept"),
        file("p/kept/new"),
        file("p/.wh..wh..opq"),
    ]
    return [base, second, [file("o/newer", b"n")]]


def hard_links() -> Layers:
    """Across layers; a name that goes while another stays; a link to a symbolic link; one whose first name is replaced."""
    base = [ROOT, file("a", b"content"), link("b", "a"), symlink("s", "a"), folder("d"), file("d/x", b"first")]
    return [base, [link("c", "a"), link("t", "s"), link("d/y", "d/x")], [file(".wh.a"), file("d/x", b"second")]]


def replaced() -> Layers:
    """Each kind by another."""
    base = [ROOT, folder("d"), file("d/x", b"x"), file("f", b"f"), symlink("l", "d"), folder("e"), file("e/y", b"y")]
    second = [file("d", b"now a file"), folder("f"), file("f/z", b"z"), folder("l"), file("l/own", b"own"), symlink("e", "f")]
    return [base, second, [folder("d"), file("d/again", b"again"), file("l/own", b"changed", mode=0o600)]]


def special() -> Layers:
    """Devices, pipes, set-uid and sticky bits, times of all sorts."""
    nodes = [item("dev/null", tarfile.CHRTYPE, device=(1, 3), mode=0o666), item("dev/sda", tarfile.BLKTYPE, device=(8, 0), mode=0o660, owner=(0, 6))]
    nodes += [item("dev/large", tarfile.CHRTYPE, device=(300, 70_000)), item("pipe", tarfile.FIFOTYPE, mode=0o622)]
    modes = [file(f"mode-{mode:o}", b"", mode=mode) for mode in (0, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777, 0o444)]
    times = [file(f"time-{number}", b"", mtime=time) for number, time in enumerate((0, -1000.5, 1.5, 2**31, 2**32 + 0.75, 2**33 - 1))]
    return [[ROOT, folder("dev"), *nodes, *modes, *times, folder("shared", mode=0o3777, owner=(1, 2))]]


def attributes() -> Layers:
    """Capabilities, access lists, attributes of users, in the inode and in a block of their own; folders lose theirs."""
    first = [
        ROOT,
        file("ping", b"ping", mode=0o755, xattrs={"security.capability": CAPABLE}),
        file("acl", b"", xattrs={"system.posix_acl_access": ACL}),
    ]
    first += [
        file("many", b"", xattrs={f"user.name{number}": noise(100, number) for number in range(20)}),
        folder("d", xattrs={"user.d": b"d", "trusted.t": b"t"}),
    ]
    first += [file(f"shared{number}", b"", xattrs={"user.same": b"s" * 1000}) for number in range(3)]
    return [first, [folder("d"), file("ping2", b"", xattrs={"security.capability": CAPABLE, "user.empty": b""})]]


def names() -> Layers:
    """Long, longer, and in no known encoding; names with every odd byte."""
    long = "/".join(["long" * 60] * 4)
    parts = [folder("/".join(["long" * 60] * count)) for count in range(1, 5)]
    odd = [
        file(name, name.encode("utf-8", "surrogateescape"))
        for name in ("\udcff\udcfe", "tab\there", "line\nbreak", "späß", "日本語", " ", "-rf", "a" * 255)
    ]
    return [[ROOT, *parts, file(f"{long}/file", b"deep"), symlink("to", "t" * 59), symlink("too", "t" * 60), symlink("far", "f/" * 1500), *odd]]


def old_tars() -> Layers:
    """GNU's and POSIX's first forms."""
    items = [ROOT, folder("d" * 90), file("d" * 90 + "/" + "e" * 90, b"e"), symlink("s" * 120, "t" * 200), link("h" * 120, "d" * 90 + "/" + "e" * 90)]
    short = [folder("q"), file("q/" + "w" * 90, b"w"), file("q/x", b"x", owner=(5, 6))]
    whole: Layers = [tar([(_whole(info), data) for info, data in items], form=tarfile.GNU_FORMAT)]
    return [*whole, tar([(_whole(info), data) for info, data in short], form=tarfile.USTAR_FORMAT)]


def _whole(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.mtime, info.pax_headers = int(info.mtime), {}
    return info


def sparse() -> Layers:
    """Files with holes as GNU tar packs them, in the three forms that umoci knows, and zeros that are simply there."""
    found: Layers = [
        [
            ROOT,
            file("zeros", bytes(3 << 20)),
            file("inner", noise(5000) + bytes(1 << 20) + noise(5000) + bytes(1 << 19) + b"e"),
            file("end", b"x" + bytes(1 << 20)),
        ]
    ]
    for form in (["--format=posix"], ["--format=posix", "--sparse-version=0.1"], ["--format=posix", "--sparse-version=0.0"]):
        found.append(_gnu_tar(form, f"holes{form[-1][-3:]}"))
    return found


def _gnu_tar(form: list[str], name: str) -> bytes:
    place = Path(os.environ["PYTEST_PLACE"])
    with (place / name).open("wb") as writer:
        for at in range(7):
            writer.seek(at * 1_000_000 + at)
            writer.write(noise(10_000, at))
        writer.truncate(9_000_000)
    os.utime(place / name, (1_500_000_000, 1_500_000_000))
    command = ["tar", "--sparse", *form, "--owner=0", "--group=0", "--mode=0640", f"--directory={place}", "--create", name]
    return subprocess.run(command, capture_output=True, check=True).stdout


def crowded() -> Layers:
    """A folder with thousands of names, one with thousands of folders, and thirty layers."""
    base = [ROOT, folder("many"), *(file(f"many/file-{number:05}-{'x' * (number % 40)}", b"%d" % number) for number in range(6000))]
    base += [folder("dirs"), *(folder(f"dirs/{number}") for number in range(3000))]
    return [base, *([file(f"layer-{number}", b"x"), file(f"many/.wh.file-{number:05}-{'x' * (number % 40)}")] for number in range(30))]


def large() -> Layers:
    """More than one group of blocks, and a file of more than one extent."""
    return [[ROOT, file("large", noise(1 << 20) * 150), file("second", noise(1 << 20, 2) * 40)], [file("after", b"after")]]


def host() -> Layers:
    """A piece of this host's own system, as tar has it."""
    return [[ROOT, folder("usr"), folder("usr/share"), folder("usr/lib")], _tree(Path("/"), "etc", "usr/share/perl", "usr/lib/python3")]


def debian() -> Layers:
    """A whole Debian, made by mmdebstrap; and a layer as those have it who want it smaller."""
    with mounted(SHELF / "images" / SLIM / "rootfs.ext4", Path(os.environ["PYTEST_PLACE"]) / SLIM) as root:
        whole = _tree(root, ".")
    return [whole, [folder("usr/share/doc"), file("usr/share/doc/.wh..wh..opq"), file("usr/share/.wh.man"), file("etc/hostname", b"smaller\n")]]


def _tree(root: Path, *parts: str) -> bytes:
    attributes = ["--xattrs", "--xattrs-include=*", "--format=posix", "--pax-option=delete=atime,delete=ctime", "--numeric-owner"]
    command = ["tar", *attributes, "--ignore-failed-read", "--warning=no-file-changed", "--exclude=./lost+found", "-C", str(root), "-c", *parts]
    return subprocess.run(command, capture_output=True, check=False).stdout


SHAPES: list[Callable[[], Layers]] = [
    *(
        busybox,
        alpine,
        distroless,
        merged_usr,
        whiteouts,
        opaque,
        hard_links,
        replaced,
        special,
        attributes,
        names,
        old_tars,
        sparse,
        crowded,
        large,
        host,
        debian,
    ),
]


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[object, ...]]]:
    """Rows: shape, layers, names, what differs."""
    rows: list[tuple[object, ...]] = [("shape", "layers", "names", "differs from umoci's"), ("---", "---:", "---:", "---")]
    yield rows
    print("", *("| " + " | ".join(map(str, row)) + " |" for row in rows), sep="\n")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where shapes are made."""
    (tmp_path / "place").mkdir()
    monkeypatch.setenv("PYTEST_PLACE", str(tmp_path / "place"))


def blobs(layers: Layers, place: Path) -> list[Layer]:
    """Packed in turn in each way that there is."""
    made = [each if isinstance(each, bytes) else tar(each) for each in layers]
    return [layer(place, data, ("gzip", "zstd", "tar")[number % 3]) for number, data in enumerate(made)]


@pytest.mark.usefixtures("shelf", "place")
@pytest.mark.parametrize("shape", SHAPES)
async def test_an_image_is_what_umoci_makes_of_it(shape: Callable[[], Layers], tmp_path: Path, table: list[tuple[object, ...]]) -> None:
    layers = blobs(shape(), tmp_path)
    path = tmp_path / "rootfs.ext4"
    written = await RealRootFs(RealProc(os.environ["PATH"])).write(path, layers, label=shape.__name__)
    assert sound(path) == ""
    theirs = held(unpacked(layout(tmp_path / "image", layers), tmp_path / "bundle"))
    with mounted(path, tmp_path / "mounted") as root:
        ours = held(root)
    different = {name for name in theirs | ours if ours.get(name) != theirs.get(name)}
    meant = different & UNTIMELY
    assert {name: ours.get(name) for name in different - meant} == {name: theirs.get(name) for name in different - meant}
    assert written.entries == len(ours) - 1
    told = ", ".join(sorted(f"the time of {os.fsdecode(name)}: the image's own, not that of the unpacking" for name in meant))
    table.append((shape.__name__, len(layers), written.entries, told or "in nothing"))


@pytest.mark.usefixtures("place")
async def test_a_link_that_climbs_above_the_root_is_refused_where_umoci_stops_at_the_root(tmp_path: Path, table: list[tuple[object, ...]]) -> None:
    layers = blobs([[ROOT, folder("a"), symlink("a/up", "../../outside")], [file("a/up/file", b"x")]], tmp_path)
    with pytest.raises(Corrupt, match="climbs above the root"):
        await RealRootFs(RealProc(os.environ["PATH"])).write(tmp_path / "rootfs.ext4", layers, label="climbing")
    assert b"outside/file" in held(unpacked(layout(tmp_path / "image", layers), tmp_path / "bundle"))
    table.append(("climbing", len(layers), "-", "refused, with the entry's name; umoci stops at the root"))


@pytest.mark.usefixtures("place")
async def test_gnus_oldest_form_of_sparse_files_is_read_where_umoci_does_not(tmp_path: Path, table: list[tuple[object, ...]]) -> None:
    layers = blobs([[ROOT], _gnu_tar(["--format=gnu"], "holes")], tmp_path)
    path = tmp_path / "rootfs.ext4"
    written = await RealRootFs(RealProc(os.environ["PATH"])).write(path, layers, label="oldest")
    with mounted(path, tmp_path / "mounted") as root:
        assert (root / "holes").read_bytes() == (tmp_path / "place" / "holes").read_bytes()
    with pytest.raises(AssertionError, match=r"unknown typeflag '.x53'"):
        unpacked(layout(tmp_path / "image", layers), tmp_path / "bundle")
    table.append(("oldest sparse", len(layers), written.entries, "read; umoci does not"))
