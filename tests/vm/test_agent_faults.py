"""A guest's agent that sends garbage, too much, half of it, or nothing: bounded waits, clear errors, nobody else notices. The VMM is pretended."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.world import World, until

GUEST_FAILED = 124
BOOT_SECONDS = 3.0
VMM = Path(__file__).with_name("hostile_vmm.py")
BOOTS = {
    "boot-silent": "did not answer within 3 s",
    "boot-closed": "ended before its agent answered",
    "boot-garbage": "is no agent",
    "boot-zeros": "is no agent",
    "boot-oversized": "",
    "boot-half": "did not answer within 3 s",
    "boot-wrong-json": "",
    "boot-wrong-epoch": "",
    "boot-wrong-wire": "speaks wire 99",
    "boot-wrong-types": "is no agent",
    "boot-error": "the guest could not boot: the disk is",
}
EXECS = {
    "exec-garbage": "broke the protocol",
    "exec-oversized": "broke the protocol",
    "exec-half": "",
    "exec-wrong-tag": "broke the protocol",
    "exec-stranger": "broke the protocol",
    "exec-twice": "broke the protocol",
    "exec-flood": "broke the protocol",
    "exec-credit": "broke the protocol",
    "exec-no-json": "",
    "exec-wrong-end": "",
    "exec-ugly": "owned",
}


class Pretended:
    """A banger with the pretended VMM, one of whose machines, `wren`, means well."""

    def __init__(self, world: World) -> None:
        self.world, self.mood = world, world.root / "mood"
        folder = world.root / "bin"
        folder.mkdir()
        script = folder / "qemu-system-x86_64"
        command = f"exec {shlex.quote(sys.executable)} -P {shlex.quote(str(VMM))}"
        script.write_text(f'#!/bin/sh\n{command} "$@"\n')
        script.chmod(0o755)
        world.env |= {"PATH": f"{folder}:{world.env['PATH']}", "HOSTILE_MOOD": str(self.mood), "BANGER_BOOT_TIMEOUT": str(BOOT_SECONDS)}
        world.env |= {"BANGER_NETWORK": "none", "BANGER_KVM": "no"}
        self.mood.write_text("good")
        world.ok("vm", "create", "--name", "wren")

    def memory(self) -> int:
        """The most that the daemon has ever had, in MiB."""
        text = Path(f"/proc/{self.world.daemon_pid()}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")) >> 10

    def others_go_on(self) -> None:
        """The listing and the machine that means well answer at once."""
        began = time.monotonic()
        assert self.world.ok("vm", "exec", "wren", "--", "uname", "-r", timeout=5) == "6.1.0\n"
        self.world.ok("vm", "list", timeout=5)
        assert time.monotonic() - began < 3


@pytest.fixture
def pretended(world: World) -> Pretended:
    return Pretended(world)


def told(done: subprocess.CompletedProcess[bytes], words: str) -> str:
    """The command failed because of the guest, in those words and harmlessly; its stderr."""
    said = done.stderr.decode()
    assert done.returncode == GUEST_FAILED, f"{done.returncode}: {said}"
    assert words in said
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "Traceback" not in said
    assert len(said) < 5000
    return said


@pytest.mark.parametrize("mood", BOOTS)
def test_a_guest_without_a_sound_hello_is_given_up_in_time_and_leaves_nothing(pretended: Pretended, mood: str) -> None:
    world = pretended.world
    pretended.mood.write_text(mood)
    creating = world.begin("vm", "create", "--name", "otter")
    pretended.others_go_on()
    out, said = creating.communicate(timeout=BOOT_SECONDS + 5)
    text = told(subprocess.CompletedProcess("", creating.returncode, out, said), BOOTS[mood])
    assert "stage: agent" in text
    assert "last words" in text
    assert [row["name"] for row in world.rows()] == ["wren"]
    assert {path.split("/")[3] for path in world.machine_files() if path.count("/") > 2} == {world.row("wren")["id"]}
    assert pretended.memory() < 100
    pretended.mood.write_text("good")
    world.ok("vm", "create", "--name", "otter")


@pytest.mark.parametrize("mood", EXECS)
def test_a_guest_that_breaks_off_in_a_command_ends_that_conversation_only(pretended: Pretended, mood: str) -> None:
    world = pretended.world
    pretended.mood.write_text(mood)
    world.ok("vm", "create", "--name", "otter")
    told(world.banger("vm", "exec", "otter", "--", "true", timeout=10), EXECS[mood])
    pretended.others_go_on()
    assert pretended.memory() < 100
    pretended.mood.write_text("good")
    world.kill_daemon()
    world.ok("vm", "list")
    assert world.ok("vm", "exec", "otter", "--", "uname", "-r", timeout=10) == "6.1.0\n"


def test_what_a_hostile_guest_printed_is_harmless_in_the_log(pretended: Pretended) -> None:
    until(lambda: "last words" in pretended.world.ok("vm", "logs", "wren"), "the console")
    text = pretended.world.ok("vm", "logs", "wren")
    assert {sign for sign in text if not sign.isprintable()} <= {"\n", "\t"}


def test_a_machine_whose_agent_has_fallen_silent_is_stopped_in_time(pretended: Pretended) -> None:
    world = pretended.world
    world.env["BANGER_STOP_TIMEOUT"] = "2"
    world.kill_daemon()
    pretended.mood.write_text("boot-silent")
    began = time.monotonic()
    world.ok("vm", "list", timeout=5)
    world.ok("vm", "stop", "wren", timeout=20)
    assert time.monotonic() - began < 15
    assert world.row("wren")["state"] == "stopped"
