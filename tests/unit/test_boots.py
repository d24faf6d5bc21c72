"""What a guest is booted with: one archive for all that is alike, a new one for an agent that was replaced."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from banger.daemon.boots import MODULES, Boots
from banger.model.catalog import KernelManifest
from banger.model.errors import HostLacks
from banger.testing import FakeHost

KERNEL = KernelManifest(
    name="k",
    source="folder",
    release="6.1",
    digest="sha256:1",
    size_bytes=1,
    architecture="x86_64",
    built=datetime(2026, 1, 1, tzinfo=UTC),
    builtin=MODULES,
)


@pytest.fixture
def boots(tmp_path: Path) -> Boots:
    agent = tmp_path / "agent"
    agent.write_bytes(b"one")
    return Boots(FakeHost(tmp_path).host, agent)


def test_what_is_alike_is_made_once(boots: Boots) -> None:
    made = boots.initramfs(KERNEL)
    before = made.stat()
    assert b"one" in made.read_bytes()
    assert boots.initramfs(KERNEL) == made
    assert made.stat().st_mtime_ns == before.st_mtime_ns


def test_another_agent_has_an_archive_of_its_own_though_it_is_as_long(boots: Boots) -> None:
    made = boots.initramfs(KERNEL)
    boots.agent.write_bytes(b"two")
    os.utime(boots.agent, ns=(0, 1))
    other = boots.initramfs(KERNEL)
    assert other != made
    assert b"two" in other.read_bytes()


def test_an_agent_that_is_missing_is_told_and_looked_for_again(boots: Boots) -> None:
    boots.agent.unlink()
    with pytest.raises(HostLacks, match="agent is missing"):
        boots.initramfs(KERNEL)
    boots.agent.write_bytes(b"three")
    assert b"three" in boots.initramfs(KERNEL).read_bytes()
