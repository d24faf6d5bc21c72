"""What a command in a machine runs as: what was asked for, else what the image says; and what an image's configuration makes process 1."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from banger.daemon.plan import HostSize, Resolved, configuration, fitting, identity, resolve
from banger.model.catalog import ImageConfig, ImageManifest
from banger.model.commands import Asked, request, stop_signal
from banger.model.config import Settings
from banger.model.errors import BadRequest, HostLacks
from banger.model.ids import VmId
from banger.model.inits import UNKNOWN, first, runs
from banger.model.parts import DiskPart, MachinePart, NicPart
from banger.model.vm import VmPlan, VmSpec

BUILT = datetime(2026, 1, 1, tzinfo=UTC)
VM = VmId("0123456789ab")
NGINX = ImageConfig(env={"A": "1", "B": "2"}, workdir="/srv", user="web:web", entrypoint=("/start.sh",), cmd=("nginx", "-g"))


def plan_of(config: ImageConfig, init: str = "") -> VmPlan:
    disk, nic = DiskPart(backend="overlay", vm=VM, base="/b", size=1), NicPart(backend="none", vm=VM, mac="")
    machine = MachinePart(backend="qemu", vm=VM, vcpu=1, memory_mib=256, accelerator="tcg", reason="", kernel="/k", initramfs="/i", disk=disk, nic=nic)
    return VmPlan(
        **{"id": VM, "name": "otter", "image": "box", "image_digest": "sha256:1", "kernel": "linux", "created": BUILT, "rm": False},
        **{"machine_id": "0" * 32, "disk": disk, "nic": nic, "machine": machine, "config": config, "init": first(init, config)},
    )


def given(*, env: dict[str, str] | None = None, cwd: str | None = None, user: str | None = None, attended: bool = False) -> Resolved:
    spec = VmSpec(env=env or {}, cwd=cwd, user=user, attended=attended)
    return resolve(spec, Settings(), HostSize(cpus=4, memory_mib=4096), name="otter")


NOTHING = {"op": "exec", "argv": [], "env": {}, "cwd": None, "user": None, "tty": None, "stdin": True}


def box(*, config: ImageConfig = NGINX, architecture: str = "") -> ImageManifest:
    return ImageManifest(
        **{"name": "box", "source": "oci", "digest": "sha256:1", "size_bytes": 1, "built": BUILT, "kernel": "linux", "used_bytes": 1, "packages": 1},
        **{"init": "", "architecture": architecture, "config": config},
    )


def wanted(plan: VmPlan, asked: Asked) -> dict[str, object]:
    return request(asked, plan.config, plan.init)


def asked(*argv: str, entrypoint: bool = False, env: dict[str, str] | None = None, cwd: str | None = None, user: str | None = None) -> Asked:
    return Asked(argv=argv, entrypoint=entrypoint, env=env or {}, cwd=cwd, user=user)


def test_a_command_has_nothing_put_before_it_and_runs_as_the_image_says() -> None:
    found = wanted(plan_of(NGINX), asked("ls", "-l"))
    assert found == NOTHING | {"argv": ["ls", "-l"], "env": {"A": "1", "B": "2"}, "cwd": "/srv", "user": "web:web"}


def test_what_is_asked_for_wins() -> None:
    found = wanted(plan_of(NGINX), asked("ls", env={"B": "3", "C": "4"}, cwd="/tmp", user="root"))
    assert (found["env"], found["cwd"], found["user"]) == ({"A": "1", "B": "3", "C": "4"}, "/tmp", "root")


def test_an_image_that_says_nothing_leaves_it_to_the_guest() -> None:
    assert wanted(plan_of(ImageConfig()), asked()) == NOTHING


@pytest.mark.parametrize(
    ("config", "init", "argv", "runs"),
    [
        (NGINX, "", (), ["/start.sh", "nginx", "-g"]),
        (NGINX, "", ("apache",), ["/start.sh", "apache"]),
        (NGINX, "systemd", (), ["/start.sh", "nginx", "-g"]),
        (ImageConfig(cmd=("bash",)), "", (), ["bash"]),
        (ImageConfig(cmd=("bash",)), "systemd", (), []),
        (ImageConfig(cmd=("/sbin/init",)), "systemd", (), []),
        (ImageConfig(), "", (), []),
        (ImageConfig(), "", ("ls",), ["ls"]),
    ],
)
def test_what_an_image_runs(config: ImageConfig, init: str, argv: tuple[str, ...], runs: list[str]) -> None:
    found = wanted(plan_of(config, init), asked(*argv, entrypoint=True))
    assert found["argv"] == runs
    if runs and not config.workdir:
        assert found["cwd"] == "/"


@pytest.mark.parametrize(
    ("init", "config", "becomes"),
    [
        ("systemd", ImageConfig(), None),
        ("systemd", ImageConfig(cmd=("/bin/bash",)), None),
        ("systemd", ImageConfig(cmd=("nginx",)), ()),
        ("systemd", ImageConfig(entrypoint=("/start.sh",)), ()),
        ("systemd", ImageConfig(cmd=("/usr/lib/systemd/systemd", "--system")), ("/usr/lib/systemd/systemd", "--system")),
        ("", ImageConfig(entrypoint=("/init",), cmd=("run",)), ("/init", "run")),
        ("", ImageConfig(entrypoint=("/sbin/tini", "--"), cmd=("/sbin/init",)), ()),
        ("", ImageConfig(cmd=("/bin/sh",)), ()),
        ("", ImageConfig(), ()),
        (UNKNOWN, ImageConfig(), None),
    ],
)
def test_the_agent_stays_process_1_where_an_image_is_for_a_command(init: str, config: ImageConfig, becomes: tuple[str, ...] | None) -> None:
    assert first(init, config) == becomes


def test_the_guest_is_told_what_process_1_becomes() -> None:
    assert identity(plan_of(NGINX), time_ns=1, entropy="x")["init"] == {"argv": (), "env": {"A": "1", "B": "2"}, "cwd": "/srv"}


def test_an_image_that_has_more_to_say_than_can_be_passed_on_is_refused() -> None:
    image = box(config=ImageConfig(env={"A": "x" * 50_000}))
    with pytest.raises(BadRequest, match=r"the configuration of image box .* has 50[0-9]* bytes"):
        fitting(image, "x86_64", given())


def test_what_is_asked_for_beside_it_counts_where_it_is_passed_on() -> None:
    long = {"A": "x" * 50_000}
    with pytest.raises(BadRequest, match=r"the configuration of image box .* has 50[0-9]* bytes"):
        fitting(box(), "x86_64", given(env=long))
    assert fitting(box(config=ImageConfig()), "x86_64", given(env=long, attended=True)).name == "box"


def test_an_image_for_another_kind_of_processor_is_refused() -> None:
    image = box(architecture="arm64")
    with pytest.raises(HostLacks, match="image box is for arm64, and this host is x86_64"):
        fitting(image, "x86_64", given())
    assert fitting(msgspec.structs.replace(image, architecture="x86_64"), "x86_64", given()).name == "box"


@pytest.mark.parametrize(
    ("config", "by_itself"),
    [
        (NGINX, True),
        (ImageConfig(cmd=("nginx",)), True),
        (ImageConfig(entrypoint=("/start.sh",), cmd=("bash",)), True),
        (ImageConfig(cmd=("/bin/bash",)), False),
        (ImageConfig(cmd=("/sbin/init",)), False),
        (ImageConfig(entrypoint=("/init",), cmd=("run",)), False),
        (ImageConfig(), False),
    ],
)
def test_an_image_runs_something_by_itself_unless_that_is_a_shell_or_an_init(config: ImageConfig, by_itself: bool) -> None:
    assert runs(config) == by_itself


def test_a_machine_is_told_what_its_image_runs_where_it_is_to_be_started() -> None:
    plan = msgspec.structs.replace(plan_of(NGINX), entrypoint=True)
    command = {"command": ("/start.sh", "nginx", "-g"), "user": "web:web"}
    assert identity(plan, time_ns=1, entropy="x")["init"] == {"argv": (), "env": {"A": "1", "B": "2"}, "cwd": "/srv", **command}
    assert identity(plan, time_ns=1, entropy="x", entrypoint=False)["init"] == {"argv": (), "env": {"A": "1", "B": "2"}, "cwd": "/srv"}


def test_what_is_asked_for_a_machine_wins_over_its_image() -> None:
    asked = given(env={"B": "3"}, cwd="data", user="0")
    found = configuration(asked, NGINX)
    assert (found.env, found.workdir, found.user, found.cmd) == ({"A": "1", "B": "3"}, "/data", "0", NGINX.cmd)
    attended = msgspec.structs.replace(asked, attended=True)
    assert configuration(attended, NGINX) == found
    assert configuration(attended, ImageConfig(cmd=("sh",))) == ImageConfig(cmd=("sh",)), "then it was for the one shell"


@pytest.mark.parametrize("env", [{"": "a"}, {"A=B": "c"}, {"A\0": "b"}, {"A": "\0"}])
def test_a_variable_that_no_process_could_have_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match="there can be no variable"):
        given(env=env)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("", 15), ("SIGTERM", 15), ("SIGQUIT", 3), ("quit", 3), ("SIGRTMIN+3", 37), ("RTMIN", 34), ("9", 9), ("SIGRTMIN+31", 15), ("SIGRTMIN+x", 34)),
        *(("SIG", 15), ("0", 15), ("65", 15), ("1" * 5000, 15), ("٣", 15), ("nonsense", 15), ("-1", 15)),
    ],
)
def test_the_signal_that_stops_what_an_image_runs(text: str, number: int) -> None:
    assert stop_signal(ImageConfig(stop_signal=text)) == number
