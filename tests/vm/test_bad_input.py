"""What cannot be meant is refused at once, with the reason and the next step, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest

from banger.model.errors import BadRequest
from tests.vm.refusal import BAD_REQUEST, CONFLICT, GUEST_FAILED, NO_COMMAND, NOT_EXECUTABLE, NOT_FOUND, refused
from tests.world import KERNEL, SHELF, SLIM, World, until

NAMES = (
    *("", "-", "-a", "a-", "Otter", "a" * 64, "a.b", "a_b", "a/b", "../a", "a b", "ötter", "a\n", "\u0430bc", "a\x1b[31m", "--", "*", "$(id)"),
    *(".", "..", "%2e"),
)


@pytest.fixture(autouse=True)
def _nothing_new(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests with the shared machine leave it as the only one."""
    shared = request.getfixturevalue("shared") if "shared" in request.fixturenames else None
    yield
    if shared is not None:
        row = shared.row("otter")
        assert (len(shared.rows()), row["state"]) == (1, "running")
        assert {path.split("/")[3] for path in shared.machine_files() if path.count("/") > 2} == {row["id"]}


# --- names and sizes


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_dns_label_is_refused(shared: World, name: str) -> None:
    said = refused(shared, "vm", "create", f"--name={name}", says="is not a machine name", hints="1 to 63")
    assert "\x1b" not in said


@pytest.mark.parametrize("name", ["a", "0", "a" * 63, "a-1", "1-a"])
def test_every_dns_label_is_a_name(world: World, name: str) -> None:
    assert world.ok("vm", "create", "--name", name, "--no-start") == f"{name}\n"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--vcpu", "0"), "0 virtual CPUs"),
        (("--vcpu=-1",), "-1 virtual CPUs"),
        (("--vcpu", "65"), "65 virtual CPUs"),
        (("--vcpu", "9" * 30), "--vcpu"),
        (("--image", "\udcff"), "not UTF-8"),
        (("--vcpu", "1.5"), "--vcpu"),
        (("--vcpu", "many"), "--vcpu"),
        (("--memory", "0"), "memory"),
        (("--memory=-1G",), "-1G"),
        (("--memory", "1M"), "1 MiB of memory"),
        (("--memory", "1023T"), "memory"),
        (("--memory", "lots"), "lots"),
        (("--memory", "1e400"), "1e400"),
        (("--memory", "nan"), "nan"),
        (("--disk-size", "0"), "0"),
        (("--disk-size=-8G",), "-8G"),
        (("--disk-size", "1"), "a disk of 1B"),
        (("--disk-size", "17T"), "a disk of 17T"),
        (("--disk-size", "9999999T"), "9999999T"),
        (("--disk-size", "67108865"), "67108865 bytes"),
        (("--disk-size", "8X"), "8X"),
        (("--disk-size", ""), ""),
        (("--wait", "forever"), "forever"),
        (("--network", "bridged"), "bridged"),
        (("--vmm", "xen"), "xen"),
        (("--vm", "x"), "--vm"),
        (("--nmae", "x"), "--nmae"),
        (("otter",), "otter"),
        (("--rm",), "--rm"),
        (("--image", "../etc"), "../etc"),
        (("--image", "a//b"), "a//b"),
        (("--image", "\x1b[2J"), "image"),
    ],
    ids=lambda value: " ".join(value).replace("\x1b", "ESC")[:30] if isinstance(value, tuple) else "",
)
def test_sizes_choices_and_flags_that_cannot_be_meant_are_refused(shared: World, flags: tuple[str, ...], says: str) -> None:
    said = refused(shared, "vm", "create", "--name", "wren", *flags, says=says)
    assert "hint: " in said
    assert "\x1b" not in said


def test_a_flag_that_nearly_fits_is_suggested(shared: World) -> None:
    refused(shared, "vm", "create", "--nmae", "x", hints="--name")
    refused(shared, "vm", "crate", hints="create")
    refused(shared, "vm", "create", "--network", "usr", hints="user")


# --- what is not there


def test_an_unknown_image_is_an_error_that_names_both_places_and_close_matches(shared: World) -> None:
    said = refused(shared, "vm", "create", "--image", "debian-bokworm", status=NOT_FOUND, says="'debian-bokworm'", hints="debian-bookworm")
    assert str(SHELF / "images") in said
    assert "catalog" in said
    assert "stage: " not in said, "it is told before anything begins"
    refused(shared, "image", "pull", "debian-bokworm", status=NOT_FOUND, hints="debian-bookworm")
    refused(shared, "kernel", "pull", "debian-6.2", status=NOT_FOUND, hints=KERNEL)


def test_what_is_in_use_is_not_removed(shared: World) -> None:
    refused(shared, "image", "delete", SLIM, status=CONFLICT, says="otter")
    refused(shared, "kernel", "delete", KERNEL, status=CONFLICT, says="otter")
    refused(shared, "image", "pull", "--force", SLIM, status=CONFLICT, says="otter")


@pytest.mark.parametrize("reference", ["oter", "000000000000", "../../x", "a b", "ö", "%2e%2e", "?x=1"])
def test_a_machine_that_is_not_there_is_not_found(shared: World, reference: str) -> None:
    for command in (("show",), ("start",), ("stop",), ("restart",), ("kill",), ("delete",), ("logs",), ("exec",), ("dial",)):
        rest = {"exec": ("true",), "dial": ("22",)}.get(command[0], ())
        refused(shared, "vm", *command, reference, *rest, status=NOT_FOUND, says="there is no machine")


def test_a_running_machines_name_is_taken_and_its_id_stays_its_own(shared: World) -> None:
    refused(shared, "vm", "create", "--name", "otter", status=CONFLICT, says="there is a machine otter already", hints="banger vm delete otter")
    refused(shared, "vm", "run", "--rm", "--name", "otter", "--", "true", status=CONFLICT, says="there is a machine otter already")
    refused(shared, "vm", "create", "--name", "otter", "--no-start", status=CONFLICT)


def test_the_id_of_a_deleted_machine_never_means_a_later_one(world: World) -> None:
    world.ok("vm", "create", "--name", "otter", "--no-start")
    identity = str(world.row("otter")["id"])
    world.ok("vm", "delete", identity)
    world.ok("vm", "create", "--name", "otter", "--no-start")
    for command in ("show", "start", "delete", "logs"):
        refused(world, "vm", command, identity, status=NOT_FOUND, says=identity)
    assert world.row("otter")["id"] != identity


# --- commands in a guest


def test_bytes_pass_both_ways_as_they_are(shared: World) -> None:
    sent = random.Random(2).randbytes(3_000_017) + bytes(range(256)) + b"\xff\xfe\x00\xc3\x28"
    done = shared.banger("vm", "exec", "-i", "otter", "--", "cat", data=sent)
    assert (done.returncode, len(done.stdout), hashlib.sha256(done.stdout).digest()) == (0, len(sent), hashlib.sha256(sent).digest())
    both = shared.banger("vm", "exec", "otter", "--", "sh", "-c", r"printf '\377\000\033[2J'; printf '\376\000' >&2")
    assert (both.stdout, both.stderr) == (b"\xff\x00\x1b[2J", b"\xfe\x00")


def test_what_a_guest_prints_on_its_console_is_made_harmless(shared: World) -> None:
    shared.ok("vm", "exec", "otter", "--", "sh", "-c", r"printf 'begin \033]0;owned\007\033[2J\233\377\376\000\302\205\302\233 end\n' > /dev/console")
    until(lambda: " end\n" in shared.ok("vm", "logs", "otter"), "the console's line")
    done = shared.banger("vm", "logs", "otter")
    text = done.stdout.decode("utf-8")
    assert "begin " in text
    assert {sign for sign in text if not sign.isprintable()} <= {"\n", "\t"}


@pytest.mark.parametrize(
    ("flags", "argv", "status", "says"),
    [
        ((), ("no-such-command",), NO_COMMAND, "no-such-command"),
        ((), ("/no/such/command",), NO_COMMAND, "/no/such/command"),
        ((), ("/etc/passwd",), NOT_EXECUTABLE, "not executable"),
        ((), ("/etc",), NOT_EXECUTABLE, "/etc"),
        ((), ("",), BAD_REQUEST, "empty"),
        ((), ("echo", "\udcff"), BAD_REQUEST, "not UTF-8"),
        (("-u", "nobody-here"), ("true",), NOT_FOUND, "nobody-here"),
        (("-u", "0:nogroup-here"), ("true",), NOT_FOUND, "nogroup-here"),
        (("-u", "99999999999"), ("true",), NOT_FOUND, "99999999999"),
        (("-w", "/no/such/folder"), ("true",), NOT_FOUND, "/no/such/folder"),
        (("-w", "/etc/passwd"), ("true",), NOT_FOUND, "/etc/passwd"),
        (("-e", "A"), ("true",), BAD_REQUEST, "KEY=VALUE"),
        (("-e", "=b"), ("true",), BAD_REQUEST, "KEY=VALUE"),
        (("-e", ""), ("true",), BAD_REQUEST, "KEY=VALUE"),
        ((), (), BAD_REQUEST, "needs a command"),
        (("-t",), ("true",), BAD_REQUEST, "terminal"),
    ],
)
def test_a_command_that_cannot_run_is_an_error_of_its_kind(
    shared: World, flags: tuple[str, ...], argv: tuple[str, ...], status: int, says: str
) -> None:
    refused(shared, "vm", "exec", *flags, "otter", "--", *argv, status=status, says=says)


def test_a_request_that_does_not_fit_is_refused_and_the_machine_answers_on(shared: World) -> None:
    words = ["x" * 100_000] * 15
    assert shared.ok("vm", "exec", "otter", "--", "echo", *words).split() == words
    argv = ["echo", *("x" * 100_000 for _ in range(22))]
    with pytest.raises(BadRequest, match=r"the request does not fit: it has 2200[0-9]{3} bytes"):
        shared.client().duplex("vm.exec", vm="otter", argv=argv)
    assert shared.ok("vm", "exec", "otter", "--", "echo", "here") == "here\n"


def test_the_environment_may_hold_anything_but_a_nul(shared: World) -> None:
    given = ("A=", "B=b=c", "C= d ", "D=ö", "E=a\nb", "F=-e", "A=second")
    flags = [word for pair in given for word in ("-e", pair)]
    lines = shared.ok("vm", "exec", *flags, "otter", "--", "env", "-0").split("\0")
    assert {"A=second", "B=b=c", "C= d ", "D=ö", "E=a\nb", "F=-e"} <= set(lines)
    assert "A=" not in lines


@pytest.mark.parametrize("name", ["NOPE", "", "0", "99", "KILL TERM", "sigstop!"])
def test_a_signal_that_there_is_not_is_refused(shared: World, name: str) -> None:
    refused(shared, "vm", "kill", f"--signal={name}", "otter", hints="KILL")


@pytest.mark.parametrize("port", ["0", "-1", "65536", "http", ""])
def test_a_port_that_there_is_not_is_refused(shared: World, port: str) -> None:
    refused(shared, "vm", "dial", "--", "otter", port)


def test_dialling_where_nobody_listens_is_refused_by_the_guest(shared: World) -> None:
    refused(shared, "vm", "dial", "otter", "9", status=GUEST_FAILED, says="refused")
