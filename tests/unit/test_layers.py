"""What layers amount to, and what of them is refused: with the entry's name, before anything is written."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from banger.host.rootfs import Limits
from banger.host.rootfs.plan import Plan
from banger.host.rootfs.scan import Budget, scan_all
from banger.host.rootfs.tree import Tree
from banger.model.errors import BangerError, Corrupt
from tests.layers import Item, file, folder, item, layer, link, packed, symlink, tar

TIGHT = Limits(size=1 << 20, entries=50, depth=8, path=100, xattrs=100)


def tree(place: Path, *layers: list[Item] | bytes, limits: Limits = TIGHT, how: str = "tar") -> Tree:
    """The layers, applied."""
    blobs = [layer(place, each if isinstance(each, bytes) else tar(each), how) for each in layers]
    made = Tree(limits)
    for number, scanned in enumerate(scan_all(blobs, place, Budget(limits, lambda _: None))):
        made.begin(number, f"layer {number}")
        for entry in scanned:
            made.apply(entry)
        scanned.close()
    return made


def paths(made: Tree) -> set[str]:
    """All that is left, from the root."""
    plan = Plan(made)
    found, waiting = set(), [(1, "")]
    by_number = {number: index for index, number in enumerate(plan.number) if number}
    while waiting:
        place, prefix = waiting.pop()
        for name, number, mode in plan.children(place):
            if name != b"lost+found":
                found.add(prefix + name.decode())
                waiting += [(by_number[number], prefix + name.decode() + "/")] if mode >> 12 == 4 else []
    return found


EVIL = symlink("evil", "../../etc")
REFUSED: dict[str, tuple[list[list[Item] | bytes], str]] = {
    "dots": ([[file("../x")]], r"'../x' leads outside: its name has \.\."),
    "dots within": ([[file("a/../../x")]], r"'a/../../x' leads outside"),
    "absolute": ([[file("/etc/x")]], "'/etc/x' leads outside: its name begins with /"),
    "through a climbing link": ([[EVIL], [file("evil/passwd")]], "'evil/passwd' leads outside, through a symbolic link that climbs above the root"),
    "through a climbing link of the same layer": ([[EVIL, file("evil/passwd")]], "'evil/passwd' leads outside"),
    "through two links": ([[symlink("a", "b"), symlink("b", "../x")], [file("a/y")]], "'a/y' leads outside"),
    "whiteout through a climbing link": ([[EVIL], [file("evil/.wh.passwd")]], "leads outside"),
    "through a circle": ([[symlink("a", "b"), symlink("b", "a"), file("a/x")]], "'a/x' leads through a circle"),
    "hard link with dots": ([[link("a", "../etc/shadow")]], "'a' is a link that leads outside: '../etc/shadow'"),
    "hard link absolute": ([[link("a", "/etc/shadow")]], "'a' is a link that leads outside"),
    "hard link through a climbing link": ([[EVIL, link("a", "evil/shadow")]], "'a' leads outside"),
    "hard link to nothing": ([[link("a", "b")]], "'a' is a hard link to what is not there: 'b'"),
    "hard link to itself": ([[link("a", "a")]], "'a' is a hard link to what is not there"),
    "hard link to a folder": ([[folder("d"), link("a", "d")]], "'a' is a hard link to a folder"),
    "hard link to what is gone": ([[file("b")], [file(".wh.b"), link("a", "b")]], "'a' is a hard link to what is not there"),
    "below a file": ([[file("a"), file("a/b")]], "'a/b' is below 'a', which is no folder"),
    "root is a file": ([[file(".")]], "'' would make the root something else"),
    "root is a link": ([[symlink("./", "/etc")]], "'' would make the root something else"),
    "empty link": ([[symlink("a", "")]], "'a' is a link to what no file can be called"),
    "long link": ([[symlink("a", "x" * 4096)]], "'a' is a link to what no file can be called"),
    "long name": ([[file("a" * 256)]], "has a name of more than 100 bytes"),
    "long path": ([[file("abcdefghi/" * 7 + "x" * 40)]], "has a name of more than 100 bytes"),
    "deep": ([[file("a/" * 9 + "b")]], "is more than 8 folders deep"),
    "deep through links": ([[symlink("a", "x/" * 7), file("a/b/c")]], "is more than 8 folders deep"),
    "many entries": (
        [[file(f"{number}") for number in range(30)]] * 1 + [[file(f"x{number}") for number in range(30)]],
        "is one too many: an image may have 50",
    ),
    "many folders": (
        [[symlink(f"l{number}", f"{number}/2/3/4") for number in range(20)] + [file(f"l{number}/x") for number in range(20)]],
        "one too many",
    ),
    "large": ([[file("a", bytes(600_000))], [file("b", b"x" * 600_000)]], "unpacks to more than an image may be"),
    "attributes": ([[file("a", xattrs={"user.x": b"x" * 100})]], "'a' has attributes of more than 100 bytes"),
    "owner": ([[file("a", owner=(1 << 33, 0))]], "'a' has an owner that cannot be: uid"),
    "device": ([[item("a", tarfile.CHRTYPE, device=(5000, 0))]], "'a' is a device that cannot be: 5000:0"),
    "type": ([[item("a", b"9")]], "'a' is of the unknown type"),
    "cut short": ([tar([file("a", bytes(5000))])[:3000]], "not a sound tar archive: it is cut short"),
    "cut in a header": ([tar([file("a", b"x" * 5)])[:700]], "not a sound tar archive"),
    "sum": ([b"b" + tar([file("a")])[1:]], "not a sound tar archive: a header's sum is wrong"),
    "no tar": ([b"hello world" * 100], "not a sound tar archive"),
    "pax without end": ([tar([file("a" * 50 + "ä")])[:600]], "not a sound tar archive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_its_name(case: str, tmp_path: Path) -> None:
    layers, said = REFUSED[case]
    with pytest.raises(Corrupt, match=said):
        tree(tmp_path, *layers)


def test_a_name_that_only_its_folder_makes_too_long_for_ext4_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="has a name that no file system can have"):
        tree(tmp_path, [file("a" * 256)], limits=Limits())


def test_folders_that_nobody_mentions_are_there(tmp_path: Path) -> None:
    assert paths(tree(tmp_path, [file("a/b/c")])) == {"a", "a/b", "a/b/c"}


def test_an_absolute_link_leads_from_the_images_root(tmp_path: Path) -> None:
    assert paths(tree(tmp_path, [symlink("evil", "/etc")], [file("evil/passwd")])) == {"evil", "etc", "etc/passwd"}


def test_a_whiteout_takes_what_lower_layers_have_wherever_it_stands(tmp_path: Path) -> None:
    lower = [folder("d"), file("d/old")]
    for upper in ([file(".wh.d"), file("d/new")], [file("d/new"), file(".wh.d")], [folder("d"), file("d/new"), file("d/.wh..wh..opq")]):
        assert paths(tree(tmp_path, lower, upper)) == {"d", "d/new"}


def test_an_opaque_folder_hides_all_the_way_down_but_for_its_own_layer(tmp_path: Path) -> None:
    lower = [folder("p"), folder("p/q"), file("p/q/old")]
    assert paths(tree(tmp_path, lower, [file("p/q/new"), file("p/.wh..wh..opq")], [file("p/q/newer")])) == {"p", "p/q", "p/q/new", "p/q/newer"}


def test_what_was_hidden_does_not_come_back_with_its_name(tmp_path: Path) -> None:
    made = tree(tmp_path, [folder("d"), file("d/secret")], [file(".wh.d")], [folder("d"), file("d/x")])
    assert not made.leads(b"d/secret")
    assert paths(made) == {"d", "d/x"}


def test_paths_lead_through_links_inside_of_the_root(tmp_path: Path) -> None:
    made = tree(
        tmp_path, [folder("usr"), folder("usr/lib"), file("usr/lib/x"), symlink("lib", "usr/lib"), symlink("y", "/lib/x"), symlink("out", "../../x")]
    )
    assert [made.leads(path) for path in (b"lib/x", b"/y", b"lib/z", b"out", b"usr/lib")] == [True, True, False, False, True]


@pytest.mark.parametrize("how", ["gzip", "zstd", "tar"])
def test_a_layer_that_is_not_its_digest_is_refused(how: str, tmp_path: Path) -> None:
    one, other = layer(tmp_path, tar([file("a", b"one")]), how), layer(tmp_path, tar([file("a", b"two")]), how)
    Path(one.path).write_bytes(Path(other.path).read_bytes())
    with pytest.raises(Corrupt, match="is not what its digest says"):
        scan_all([one], tmp_path, Budget(TIGHT, lambda _: None))


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_blob_that_is_cut_short_or_changed_is_refused(how: str, tmp_path: Path) -> None:
    whole = layer(tmp_path, tar([file("a", bytes(range(256)) * 200)]), how)
    data = Path(whole.path).read_bytes()
    for broken in (data[:-9], data[: len(data) // 2], data[:100] + bytes(50) + data[150:], data + b"garbage behind"):
        Path(whole.path).write_bytes(broken)
        with pytest.raises(Corrupt):
            scan_all([whole], tmp_path, Budget(TIGHT, lambda _: None))


def test_several_members_and_padding_are_one_layer(tmp_path: Path) -> None:
    data = tar([file("a", b"x" * 3000)])
    whole = layer(tmp_path, data, "gzip")
    Path(whole.path).write_bytes(packed(data[:700], "gzip") + packed(data[700:], "gzip") + bytes(1000))
    assert sum(1 for _ in scan_all([whole], tmp_path, Budget(TIGHT, lambda _: None))[0]) == 1
    frames = layer(tmp_path, data, "zstd")
    Path(frames.path).write_bytes(packed(data[:700], "zstd") + packed(data[700:], "zstd"))
    assert sum(1 for _ in scan_all([frames], tmp_path, Budget(TIGHT, lambda _: None))[0]) == 1


@pytest.mark.parametrize(("magic", "kind"), [(b"BZh91AY", "bzip2"), (b"\xfd7zXZ\0", "xz")])
def test_other_ways_to_pack_are_named(magic: bytes, kind: str, tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match=f"is packed with {kind}, which is not supported"):
        tree(tmp_path, magic + bytes(600))


def test_a_bomb_ends_where_its_limit_is(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match=r"unpacks to more than an image may be \(1048576 bytes\), with the entry 'bomb'"):
        tree(tmp_path, [file("small"), file("bomb", bytes(50 << 20))], how="gzip")


def test_headers_that_are_too_long_are_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.XHDTYPE, 2 << 20
    with pytest.raises(BangerError, match="extended headers that are too long"):
        tree(tmp_path, info.tobuf(tarfile.USTAR_FORMAT) + io.BytesIO(bytes(2 << 20)).read(), limits=Limits())
