"""Inits beside systemd and busybox's are process 1, the agent lives on under them, and `vm stop` has them end the machine in their own order.

The programs are Debian's own (unpacked, not configured); what they run at boot and at the end is brief, and leaves a trace on the machine's disk.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.host.ext4 import root_command
from banger.model.catalog import ImageConfig
from banger.model.inits import init_of
from tests.vm.shelved import MIB, Node, lay, write_manifest
from tests.world import World, until

QUICK = ("--network", "none", "--memory", "192M")
PACKAGES = ("sysvinit-core", "openrc", "runit", "dash", "coreutils", "mount", "util-linux", "sed", "grep", "debianutils")
BEGAN, ENDED = b"#!/bin/sh\necho $$ > /began\n", b"sleep 1; echo in order; echo ended >> /ended; sync\n"
SERVICE = b"#!/sbin/openrc-run\nstart() {\n    echo $$ > /began\n}\nstop() {\n    sleep 1; echo in order; echo ended >> /ended; sync\n}\n"
LAID: dict[str, Node] = {
    "etc/passwd": b"root:x:0:0:root:/:/bin/sh\n",
    "etc/group": b"root:x:0:\nuucp:x:10:\n",
    "etc/inittab": b"id:2:initdefault:\nsi::sysinit:/etc/init.d/rcS\nl0:0:wait:/etc/init.d/rc 0\nl6:6:wait:/etc/init.d/rc 6\n",
    "etc/init.d/rcS": BEGAN,
    "etc/init.d/rc": b"#!/bin/sh\n" + ENDED + b"exec halt -d -f -p\n",
    "etc/init.d/trace": SERVICE,
    "etc/runlevels/default/trace": "/etc/init.d/trace",
    "etc/runit/1": b"#!/bin/sh\ninstall -m000 /dev/null /run/runit.stopit; install -m000 /dev/null /run/runit.reboot\n",
    "etc/runit/2": BEGAN + b"exec sleep 1000000\n",
    "etc/runit/3": b"#!/bin/sh\n" + ENDED,
    "sbin/runit-init": "/lib/runit/runit-init",
}
KINDS = {
    "sysvinit": (ImageConfig(), "/sbin/init"),
    "openrc": (ImageConfig(cmd=("/sbin/openrc-init",)), "/sbin/openrc-init"),
    "runit": (ImageConfig(cmd=("/sbin/runit-init",)), "/sbin/runit"),
}


@pytest.fixture(scope="module")
def zoo(shelf: None) -> Iterator[World]:
    """A world with an image for each init; the file is one."""
    folder = Path(tempfile.mkdtemp(prefix="banger-test-", dir="/tmp"))
    tree, rootfs = folder / "tree", folder / "rootfs.ext4"
    tree.mkdir(mode=0o755)
    options = ("--quiet", "--variant=extract", "--dpkgopt=path-exclude=/usr/share/*", f"--include={','.join(PACKAGES)}")
    subprocess.run(["mmdebstrap", *options, "bookworm", str(folder / "all.tar")], check=True)
    subprocess.run(["tar", "-C", str(tree), "--exclude=./dev/*", "-xpf", str(folder / "all.tar")], check=True)
    for name in ("runlevels", "init.d", "runit"):
        shutil.rmtree(tree / "etc" / name, ignore_errors=True)
    lay(tree, LAID)
    for level in ("sysinit", "boot", "shutdown"):
        (tree / "etc" / "runlevels" / level).mkdir()
    with rootfs.open("xb") as file:
        file.truncate(256 * MIB)
    subprocess.run(root_command(rootfs, tree, "inits"), check=True)
    init = init_of(frozenset(str(path.relative_to(tree)) for path in tree.rglob("*")))
    for name, (config, _) in KINDS.items():
        place = folder / "images" / name
        place.mkdir(parents=True)
        (place / "rootfs.ext4").symlink_to(rootfs)
        write_manifest(place, init=init, config=config)
    world = World(folder, images_dir=str(folder / "images"), stop_timeout="30")
    yield world
    world.close()
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_an_init_is_process_1_and_ends_the_machine_in_its_own_order(zoo: World, kind: str) -> None:
    zoo.ok("vm", "create", "--name", kind, "--image", kind, "--wait", "boot", *QUICK)
    assert zoo.ok("vm", "exec", kind, "--", "readlink", "/proc/1/exe") == f"{KINDS[kind][1]}\n"
    until(
        lambda: zoo.banger("vm", "exec", kind, "--", "cat", "/began").stdout.strip().isdigit(),
        "what it runs at boot",
        instead=lambda: zoo.ok("vm", "logs", kind),
    )
    zoo.ok("vm", "stop", kind)
    assert "in order" in zoo.ok("vm", "logs", kind)
    assert f"{kind} did not power off" not in zoo.log()
    zoo.ok("vm", "start", kind)
    assert zoo.ok("vm", "exec", kind, "--", "cat", "/ended") == "ended\n"
    zoo.ok("vm", "delete", kind)
