"""Installing into a system: what is written, that it is done once, what is removed, and what is left alone. systemctl is a list here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

import banger
from banger.daemon.system import MAIN, UNITS, Installation, Place, Step, System, owner_in, quoted, rendered
from banger.host.files import RealFiles
from banger.host.frozen import is_frozen, refusal
from banger.model.errors import AlreadyExists, BadRequest, HostLacks
from banger.testing.proc import FakeProc
from banger.testing.stream import FakeDialer

TEMPLATES = Path(banger.__file__).parent / "catalog" / "units"
ADA = Installation(
    owner="ada",
    uid=1000,
    gid=1001,
    roots=("/home/ada/.local/state/banger", "/srv/my images"),
    python="/usr/bin/python3.11",
    daemon=("/home/ada/100%/.venv/bin/python", "-P", "-m", "banger.bangerd", "replace"),
    environment={"XDG_RUNTIME_DIR": "/run/bangerd"},
)


class Setup:
    """A system below a folder, and what was asked of systemctl."""

    def __init__(self, root: Path) -> None:
        self.asked: list[str] = []
        self.place = Place(units=root / "units", code=root / "lib" / "code", run=(root / "run",), booted=root / "booted")
        for folder in (self.place.units, self.place.booted, root / "package"):
            folder.mkdir(parents=True)
        self.packages = [root / "package"]
        (root / "package" / "module.py").write_text("x = 1\n")
        proc = FakeProc(FakeDialer())
        proc.commands["systemctl"] = self._systemctl
        self.system = System(RealFiles(), proc, TEMPLATES, self.place)

    async def _systemctl(self, argv: Sequence[str], cwd: Path | None) -> bytes:
        self.asked.append(" ".join(argv[1:]))
        return b"active\n"

    async def perform(self, steps: list[Step]) -> list[str]:
        self.asked.clear()
        for step in steps:
            await step.act()
        return [step.words for step in steps]

    async def install(self, wanted: Installation = ADA) -> list[str]:
        return await self.perform(self.system.plan(wanted, self.packages))


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


async def test_everything_is_written_then_systemd_is_told(setup: Setup) -> None:
    said = await setup.install()
    assert {path.name for path in setup.place.units.iterdir()} == set(UNITS)
    assert is_frozen(setup.packages, setup.place.code, MAIN)
    assert setup.asked == ["daemon-reload", "enable banger-helper.socket bangerd.service", "restart banger-helper.socket bangerd.service"]
    assert len(said) == 7
    assert setup.system.installed_for() == "ada"


async def test_a_second_time_nothing_is_written_and_nothing_restarted(setup: Setup) -> None:
    await setup.install()
    await setup.install()
    assert setup.asked == ["enable --now banger-helper.socket bangerd.service"]


async def test_new_code_is_copied_and_the_services_are_restarted(setup: Setup) -> None:
    await setup.install()
    (setup.packages[0] / "module.py").write_text("x = 22\n")
    said = await setup.install()
    assert said[0].startswith("copy")
    assert setup.asked[1] == "stop banger-helper.socket banger-helper.service"
    assert (setup.place.code / "package" / "module.py").read_text() == "x = 22\n"


async def test_it_is_for_one_user(setup: Setup) -> None:
    await setup.install()
    with pytest.raises(AlreadyExists, match="ada"):
        setup.system.plan(Installation(owner="bob", uid=1, gid=1, roots=(), python="", daemon=()), setup.packages)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_of_somebody_else_is_left_alone(setup: Setup, unit: str) -> None:
    (setup.place.units / unit).write_text("[Unit]\n")
    with pytest.raises(AlreadyExists, match="not banger's"):
        setup.system.plan(ADA, setup.packages)
    assert setup.system.plan_removal() == []


def test_code_of_somebody_else_is_left_alone(setup: Setup) -> None:
    setup.place.code.mkdir(parents=True)
    with pytest.raises(AlreadyExists, match="not banger's"):
        setup.system.plan(ADA, setup.packages)
    assert setup.system.plan_removal() == []


async def test_what_was_installed_is_removed_and_nothing_else(setup: Setup) -> None:
    (setup.place.units / "other.service").write_text("[Unit]\n")
    await setup.install()
    setup.place.run[0].mkdir()
    await setup.perform(setup.system.plan_removal())
    assert [path.name for path in setup.place.units.iterdir()] == ["other.service"]
    assert not setup.place.code.exists()
    assert not setup.place.run[0].exists()
    assert setup.asked == ["disable --now bangerd.service banger-helper.service banger-helper.socket", "daemon-reload"]
    assert setup.system.plan_removal() == []


async def test_half_an_installation_is_removed_too(setup: Setup) -> None:
    await setup.install()
    (setup.place.units / UNITS[0]).unlink()
    await setup.perform(setup.system.plan_removal())
    assert list(setup.place.units.iterdir()) == []


async def test_the_standing_names_the_user_and_the_units(setup: Setup) -> None:
    assert (await setup.system.standing(setup.packages)).owner == ""
    await setup.install()
    found = await setup.system.standing(setup.packages)
    assert (found.owner, found.current, found.units) == ("ada", True, dict.fromkeys(UNITS, "active"))


def test_without_systemd_there_is_nothing_to_install_into(setup: Setup) -> None:
    setup.place.booted.rmdir()
    with pytest.raises(HostLacks, match="systemd"):
        setup.system.plan(ADA, setup.packages)


def unit(name: str) -> dict[str, str]:
    """The lines `key=value` of a rendered unit."""
    text = rendered((TEMPLATES / name).read_text(), ADA, Path("/usr/local/lib/banger-helper"))
    assert owner_in(text) == "ada"
    assert "@" not in text.replace("@system-service", "").replace("~@clock", "").replace(" @", " ")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def test_the_helpers_socket_is_its_users_alone() -> None:
    found = unit("banger-helper.socket")
    assert (found["SocketUser"], found["SocketMode"]) == ("ada", "0600")
    assert found["ListenSequentialPacket"] == "/run/banger-helper/helper.sock"


def test_the_helper_runs_a_copy_with_few_capabilities() -> None:
    found = unit("banger-helper.service")
    words = shlex.split(found["ExecStart"])
    assert words[:5] == ["/usr/bin/python3.11", "-I", "-S", "-B", "/usr/local/lib/banger-helper"]
    assert words[5:] == ["--owner", "1000:1001", "--root", "/home/ada/.local/state/banger", "--root", "/srv/my images"]
    assert found["NoNewPrivileges"] == "yes"
    assert "CAP_NET_ADMIN" in found["CapabilityBoundingSet"].split()


def test_machines_outlive_the_daemons_service() -> None:
    found = unit("bangerd.service")
    assert (found["KillMode"], found["SendSIGKILL"], found["RuntimeDirectoryPreserve"]) == ("process", "no", "yes")
    assert found["User"] == "ada"
    assert found["ExecStart"].startswith("/home/ada/100%%/.venv/bin/python -P -m banger.bangerd replace")
    assert found["Environment"] == "XDG_RUNTIME_DIR=/run/bangerd"


@pytest.mark.parametrize(
    ("word", "there"), [("plain-1.2/x", "plain-1.2/x"), ("a b", '"a b"'), ('a"b', '"a\\"b"'), ("50%", "50%%"), ("$HOME", '"$$HOME"'), ("", '""')]
)
def test_a_word_stands_in_a_unit_as_it_is(word: str, there: str) -> None:
    assert quoted(word) == there


@pytest.mark.parametrize("word", ["a\nExecStart=/bin/sh", "a\0", "\x1b[0m"])
def test_a_word_that_would_be_more_than_one_is_refused(word: str) -> None:
    with pytest.raises(BadRequest):
        quoted(word)


def test_what_others_can_change_is_not_for_root_to_run(tmp_path: Path) -> None:
    place = tmp_path / "python"
    place.touch()
    place.chmod(0o777)
    assert "can be changed by others than root" in refusal(place)
    assert refusal(Path("/proc/version")) == ""
