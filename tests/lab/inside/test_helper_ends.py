"""The privileged helper is killed before each change that it makes for a mapped disk, and before each answer: nobody notices, nothing is lost."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from banger.backends.disk.devmapper import DeviceMapper
from banger.host.dm import Dm, RealDm, node
from banger.host.remote import Line, remote
from banger.model.ids import VmId
from banger.testing import FakeHost
from tests.inventory import take
from tests.mortal import Mortal

VM = VmId("0123456789ab")
NAME = f"banger-{VM}"
SIZE = 64 << 20
#: So many places there are at least: three steps for each of two maps, their removal, three answers.
LEAST = 11


async def test_a_helper_that_dies_anywhere_leaves_a_disk_that_can_be_mapped_and_let_go(short_path: Path) -> None:
    with Mortal(short_path) as helper:
        async with FakeHost(short_path) as fake:
            image = fake.paths.image("slim") / "rootfs.ext4"
            image.parent.mkdir(parents=True)
            image.write_bytes(b"base" * (1 << 20))
            disk = DeviceMapper(dataclasses.replace(fake.host, dm=remote(Dm, "dm", Line(helper.path))))
            part = disk.plan(VM, base=image, size=SIZE)
            await disk.ensure(part)
            before, place = take(short_path), 0
            while not helper.alive:
                place += 1
                helper.die_at(place)
                await disk.attach(part)
                assert take(short_path).maps - before.maps == {NAME, f"{NAME}-base"}, f"mapped, place {place}"
                with node(NAME).open("r+b", buffering=0) as device:
                    assert os.pread(device.fileno(), 4096, 4096) == (b"mine" * 1024 if place > 1 else b"base" * 1024)
                    os.pwrite(device.fileno(), b"mine" * 1024, 4096)
                    os.fsync(device.fileno())
                await disk.detach(part)
                left = take(short_path).beyond(before)
                assert {kind: left[kind] for kind in ("maps", "loops") if kind in left} == {}, f"let go, place {place}"
                assert not node(NAME).exists()
            assert place > LEAST
            await disk.remove(part)
    assert await RealDm(0).names() == []
