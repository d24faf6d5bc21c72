"""What a Debian image is made of, as far as it is decided before anything is done."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from banger.backends.image import debian as image
from banger.backends.kernel import debian as kernel
from banger.host import Host
from banger.host.mmdebstrap import Progress, Request, check_room, command, validate
from banger.host.unshare import mapped, secluded, subordinate
from banger.model.catalog import ImageEntry, KernelEntry
from banger.model.errors import BadRequest, NoSpace, ToolFailed
from banger.model.event import Event, listening

ENTRY = ImageEntry(name="x", source="debian", kernel="k", suite="bookworm", variant="minbase", packages=("git", "libc6"))
MIB = 1 << 20


def host(machine: str = "x86_64") -> Host:
    return cast(Host, SimpleNamespace(facts=SimpleNamespace(architecture=lambda: machine)))


def members(*, systemd: bool, sshd: bool) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(image.settings_tar(systemd=systemd, sshd=sshd))) as archive:
        return {member.name: member for member in archive}


def heard(*lines: str) -> list[Event]:
    events: list[Event] = []
    progress = Progress()
    with listening(events.append):
        for line in lines:
            progress(line)
    return events


def test_packages_and_options_become_one_argument_each() -> None:
    argv = command(["pre"], Request(suite="bookworm", variant="minbase", packages=("a", "b"), options=("--x",)), Path("/t/tree"))
    assert argv[:2] == ["pre", "mmdebstrap"]
    assert {"--include=a,b", "--format=directory", "--variant=minbase", "--mode=root"} <= set(argv)
    assert argv[-3:] == ["--x", "bookworm", "/t/tree"]


@pytest.mark.parametrize(
    "change",
    [
        {"suite": "book worm"},
        {"suite": "-o"},
        {"suite": ""},
        {"variant": "huge"},
        {"packages": ("git,vim",)},
        {"packages": ("--x",)},
        {"packages": ("./a.deb",)},
        {"kernel": ""},
        {"size_mib": 0},
        {"size_mib": 1 << 40},
    ],
)
def test_entries_that_cannot_be_meant_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        image.backend(host()).plan(msgspec.structs.replace(ENTRY, **change), Path("/i"))


def test_the_kernels_package_follows_the_architecture() -> None:
    entry = KernelEntry(name="k", source="debian", suite="bookworm", package="linux-image-cloud-{arch}")
    assert kernel.backend(host("aarch64")).plan(entry, Path("/k")).entry.package == "linux-image-cloud-arm64"
    assert kernel.backend(host()).plan(entry, Path("/k")).entry.package == "linux-image-cloud-amd64"
    with pytest.raises(BadRequest, match="riscv64"):
        kernel.backend(host("riscv64")).plan(entry, Path("/k"))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("boot/vmlinuz-6.1", "boot/vmlinuz-6.1"),
        ("boot/config-6.1", "config/config-6.1"),
        ("boot/System.map-6.1", None),
        ("lib/modules/6.1/kernel/a.ko", "modules/6.1/kernel/a.ko"),
        ("usr/lib/modules/6.1/modules.builtin", "modules/6.1/modules.builtin"),
        ("lib/modules/loose", None),
        ("etc/passwd", None),
        ("usr", None),
    ],
)
def test_what_is_taken_of_a_kernels_package(name: str, place: str | None) -> None:
    assert kernel.chosen(PurePosixPath(name)) == (PurePosixPath(place) if place else None)


def test_the_size_is_a_floor() -> None:
    assert image.image_size(100 * MIB, 768 * MIB) == 768 * MIB
    assert image.image_size(1000 * MIB, 768 * MIB) == 1132 * MIB


def test_every_file_laid_over_belongs_to_root_and_comes_after_its_folder() -> None:
    found = members(systemd=True, sshd=True)
    order = list(found)
    for name, member in found.items():
        assert (member.uid, member.gid) == (0, 0)
        assert all(order.index(str(parent)) < order.index(name) for parent in PurePosixPath(name).parents[:-1])
    assert {member.mode for member in found.values() if member.isdir()} == {0o755}


def test_the_machine_id_is_empty_and_sshd_takes_keys_only() -> None:
    assert members(systemd=True, sshd=True)["etc/machine-id"].size == 0
    with tarfile.open(fileobj=io.BytesIO(image.settings_tar(systemd=True, sshd=True))) as archive:
        content = archive.extractfile("etc/ssh/sshd_config.d/banger.conf")
        assert content is not None
        assert b"\nPasswordAuthentication no\n" in content.read()


def test_images_without_systemd_or_sshd_get_none_of_their_settings() -> None:
    assert not [name for name in members(systemd=False, sshd=False) if "systemd" in name or "ssh" in name]


def test_progress_counts_bytes_and_packages() -> None:
    events = heard(
        "I: running apt-get update...",
        "Get:1 http://deb.example bookworm InRelease [151 kB]",
        "I: downloading packages with apt...",
        "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
        "Need to get 3,000 kB/29.7 MB of archives.",
        "Get:1 http://deb.example bookworm/main amd64 libc6 amd64 2.36 [2000 kB]",
        "Get:2 http://deb.example bookworm/main amd64 git amd64 2.39 [1000 kB]",
        "Unpacking libc6:amd64 (2.36) ...",
        "Setting up libc6:amd64 (2.36) ...",
        "I: success in 3 seconds",
    )
    assert [(event.detail, event.done, event.total) for event in events] == [
        ("update package lists", None, None),
        ("download package lists", 151_000, None),
        ("download", None, None),
        ("download", 2_000_000, 29_700_000),
        ("download", 3_000_000, 29_700_000),
        ("unpack", 1, 2),
        ("configure", 1, 2),
    ]


def test_errors_are_told_instead_of_the_last_lines() -> None:
    progress = Progress()
    progress("E: Unable to locate package nope")
    progress("W: something else")
    failure = progress.explain(ToolFailed("mmdebstrap failed with status 25", tail=("W: something else",)), "image x")
    assert str(failure) == "image x could not be made: E: Unable to locate package nope"


def test_a_full_disk_is_told_as_such() -> None:
    progress = Progress()
    progress("dpkg: error: cannot write: No space left on device")
    assert isinstance(progress.explain(ToolFailed("failed"), "image x"), NoSpace)


def test_room_is_checked_before_anything_is_fetched() -> None:
    from banger.host.files import RealFiles

    class Full(RealFiles):
        def free_bytes(self, path: Path) -> int:
            return 10 * MIB

    with pytest.raises(NoSpace, match=r"needs about 1\.5G in /i, and 10M are free"):
        check_room(Full(), Path("/i"), 1536 * MIB, "image x")


def test_root_needs_no_user_namespace() -> None:
    assert mapped(True) == []
    assert "--map-auto" in mapped(False)
    assert "--map-auto" not in secluded(True)
    assert "--kill-child" in secluded(True)


def test_subordinate_ids_are_found_by_name_or_number() -> None:
    text = "other:100000:65536\nme:165536:1000\n1000:200000:65536\nbroken\n"
    assert subordinate(text, "me", 1000) == 65536
    assert subordinate(text, "me", 7) == 1000
    assert subordinate(text, "nobody", 8) == 0


def test_a_validated_request_is_the_request() -> None:
    request = image.request(ENTRY)
    assert validate(request) is request
