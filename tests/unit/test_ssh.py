"""Logging in by ssh: whose keys are believed, what ssh is told, and whose lines a configuration file keeps."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from banger.daemon import Daemon
from banger.daemon.ssh import finding
from banger.frontends.cli import main, sshconfig
from banger.frontends.cli.parse import Given, parse
from banger.frontends.cli.ssh import configuration, written
from banger.frontends.cli.sshconfig import BEGIN, END, edit, fenced
from banger.model.errors import BadRequest, GuestFailed, HostLacks, NoCommand, WrongState
from banger.model.finding import Level
from banger.model.ssh import fingerprint, is_public_key, parse_known_hosts, render_known_hosts, sound_keys
from banger.testing import FakeGuest
from tests.place import OTTER, Place, result


def key(kind: str = "ssh-ed25519", tail: bytes = bytes(36)) -> str:
    return f"{kind} {base64.b64encode(len(kind).to_bytes(4, 'big') + kind.encode() + tail).decode()}"


ONE, TWO = key(), key(tail=b"\1" * 36)

# -- keys that a guest tells ------------------------------------------------------------------------------------------------------------------------

HOSTILE = [
    "",
    "ssh-ed25519",
    f"{ONE}\n* {TWO}",
    f"{ONE} comment",
    f"@cert-authority * {ONE}",
    f"*.vm {ONE}",
    f"command=x {ONE}",
    key("ssh-dss"),
    key("ssh-ed25519", b""),
    f"ssh-rsa {ONE.split()[1]}",
    ONE + "=",
    ONE.replace(" ", "  "),
    "ssh-ed25519 ñ",
    key(tail=bytes(5000)),
]


@pytest.mark.parametrize("line", HOSTILE)
def test_only_a_plain_public_key_is_one(line: str) -> None:
    assert not is_public_key(line)
    assert sound_keys([line, 7, None, {}, ONE]) == (ONE,)


@pytest.mark.parametrize("said", [None, "ssh-ed25519", {ONE: ONE}, 3, [[ONE]]])
def test_what_is_no_list_of_keys_is_none(said: object) -> None:
    assert sound_keys(said) == ()


def test_a_guest_has_few_keys() -> None:
    assert len(sound_keys([ONE] * 10_000)) == 8


@given(st.dictionaries(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True), st.lists(st.sampled_from([ONE, TWO]), min_size=1)))
def test_the_file_of_known_hosts_is_read_as_it_was_written(keys: dict[str, list[str]]) -> None:
    held = {name: tuple(lines) for name, lines in keys.items()}
    assert parse_known_hosts(render_known_hosts(held)) == held


@given(st.text())
def test_a_damaged_file_of_known_hosts_holds_only_keys(text: str) -> None:
    assert all(is_public_key(one) for keys in parse_known_hosts(f"{text}\nweb.vm {ONE}\n{text}").values() for one in keys)


def test_a_fingerprint_is_as_ssh_shows_it() -> None:
    # made by: ssh-keygen -lf
    known = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    assert fingerprint(known) == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"


# -- the daemon --------------------------------------------------------------------------------------------------------------------------------------


def guest_with(place: Place, *keys: object) -> FakeGuest:
    """The guest of machines yet to be started."""
    guest = FakeGuest()
    guest.host_keys = list(keys)
    place.fake.qemu.guest = lambda _: guest  # type: ignore[method-assign]
    return guest


def known(place: Place) -> str:
    path = place.fake.paths.known_hosts
    return path.read_text() if path.exists() else ""


async def restart(daemon: Daemon) -> None:
    await result(daemon.vms.restart("otter", wait="agent"))


async def test_a_machines_keys_are_pinned_at_its_boot_and_go_with_it(place: Place) -> None:
    guest_with(place, ONE)
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    assert known(place) == f"otter.vm {ONE}\n"
    await daemon.vms.delete("otter")
    assert known(place) == ""


async def test_the_next_machine_of_that_name_has_its_own_keys(place: Place) -> None:
    daemon = await place.daemon()
    for told in (ONE, TWO):
        guest_with(place, told)
        await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
        assert known(place) == f"otter.vm {told}\n"
        await daemon.vms.delete("otter")


async def test_keys_change_at_a_boot_and_at_no_other_time(place: Place) -> None:
    guest = guest_with(place, ONE)
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    guest.host_keys = [TWO]
    login = await daemon.ssh.login("otter", "root")
    assert (login.host, login.fingerprints) == ("otter.vm", (fingerprint(ONE),))
    assert daemon.vms.show("otter").ssh_fingerprints == (fingerprint(ONE),)
    assert known(place) == f"otter.vm {ONE}\n"
    await restart(daemon)
    assert known(place) == f"otter.vm {TWO}\n"
    assert daemon.vms.show("otter").ssh_fingerprints == (fingerprint(TWO),)


async def test_pins_outlive_the_daemon_but_not_their_machine(place: Place) -> None:
    guest_with(place, ONE)
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    place.fake.paths.known_hosts.write_text(f"gone.vm {TWO}\notter.vm {ONE}\nwhatever\n")
    later = await place.daemon()
    assert known(place) == f"otter.vm {ONE}\n"
    assert (await later.ssh.login("otter", "root")).fingerprints == (fingerprint(ONE),)


async def test_an_ssh_server_that_comes_later_is_asked_for_its_keys_once(place: Place) -> None:
    guest = guest_with(place)
    guest.host_keys = None
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    with pytest.raises(NoCommand, match="no ssh server"):
        await daemon.ssh.login("otter", "root")
    guest.host_keys = [ONE]
    await (await daemon.ssh.connect("otter", "root")).aclose()
    guest.host_keys = [TWO]
    await (await daemon.ssh.connect("otter", "root")).aclose()
    assert known(place) == f"otter.vm {ONE}\n"


async def test_a_guest_without_a_key_to_believe_is_not_logged_in_to(place: Place) -> None:
    guest_with(place, f"{ONE}\n*.vm {TWO}", ["x"], 1)
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    with pytest.raises(GuestFailed, match="no host key"):
        await daemon.ssh.login("otter", "root")
    assert known(place) == ""


async def test_a_stopped_machine_says_how_to_start_it(place: Place) -> None:
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=False, wait="agent"))
    for work in (daemon.ssh.login("otter", "root"), daemon.ssh.connect("otter", "root")):
        with pytest.raises(WrongState) as raised:
            await work
        assert raised.value.hint == "run: banger vm start otter"


@pytest.mark.parametrize("user", ["", "-oProxyCommand=x", "a\nb"])
async def test_what_is_no_user_is_refused(place: Place, user: str) -> None:
    with pytest.raises(BadRequest):
        await (await place.daemon()).ssh.login("otter", user)


async def test_the_key_is_made_once_and_given_with_each_connection(place: Place) -> None:
    guest = guest_with(place, ONE)
    daemon = await place.daemon()
    await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    found = await asyncio.gather(daemon.ssh.access(), daemon.ssh.access())
    later = await place.daemon()
    await (await later.ssh.connect("otter", "root")).aclose()
    assert {each.public_key for each in found} == {(await later.ssh.access()).public_key}
    assert guest.requests[-1] == {"op": "ssh", "user": "root", "authorized_keys": [found[0].public_key]}
    assert len([words for words in place.fake.proc.log if words[0] == "ssh-keygen"]) == 1
    assert sorted(path.name for path in place.fake.paths.ssh.iterdir()) == ["id_ed25519", "id_ed25519.pub", "known_hosts"]


@pytest.mark.parametrize("damaged", ["id_ed25519", "id_ed25519.pub"])
async def test_half_a_key_is_made_anew(place: Place, damaged: str) -> None:
    daemon = await place.daemon()
    first = await daemon.ssh.access()
    (place.fake.paths.ssh / damaged).write_text("")
    second = await daemon.ssh.access()
    assert first.public_key != second.public_key
    assert (place.fake.paths.ssh / "id_ed25519.pub").read_text().startswith(second.public_key)


async def test_a_host_without_ssh_keygen_is_told_what_it_lacks(place: Place) -> None:
    del place.fake.proc.commands["ssh-keygen"]
    with pytest.raises(HostLacks, match="ssh-keygen") as raised:
        await (await place.daemon()).ssh.access()
    assert "openssh-client" in raised.value.hint
    row = finding(place.host)
    assert (row.level, row.packages, row.message) == (Level.WARN, ("openssh-client",), "ssh and ssh-keygen not installed: no banger vm ssh")


# -- what ssh is told --------------------------------------------------------------------------------------------------------------------------------


def line(text: str, word: str) -> str:
    return next(one.strip().partition(" ")[2] for one in text.splitlines() if one.strip().startswith(f"{word} "))


def test_the_configuration_believes_and_offers_nothing_but_ours() -> None:
    text = configuration("/s", ["/py", "-m", "banger"], {"XDG_RUNTIME_DIR": "/run/user/1", "XDG_STATE_HOME": "relative", "HOME": "/h"})
    assert line(text, "ProxyCommand") == "/usr/bin/env XDG_RUNTIME_DIR=/run/user/1 /py -m banger vm sshd --user '%r' '%h'"
    assert {line(text, word) for word in ("StrictHostKeyChecking", "IdentitiesOnly")} == {"yes"}
    assert {line(text, word) for word in ("ForwardAgent", "ForwardX11", "AddKeysToAgent", "UpdateHostKeys")} == {"no"}
    assert (line(text, "IdentityFile"), line(text, "UserKnownHostsFile")) == ('"/s/id_ed25519"', '"/s/known_hosts"')


def test_odd_paths_reach_ssh_and_its_shell_as_they_are() -> None:
    text = configuration("/a b%c", ["/p y/it's 100%"], {})
    assert line(text, "ProxyCommand") == "'/p y/it'\"'\"'s 100%%' vm sshd --user '%r' '%h'"
    assert line(text, "IdentityFile") == '"/a b%%c/id_ed25519"'


@pytest.mark.parametrize("folder", ['/a"b', "/a\nb", "/${HOME}"])
def test_a_folder_that_ssh_cannot_name_is_refused(folder: str) -> None:
    with pytest.raises(HostLacks):
        configuration(folder, ["/py"], {})


def test_the_configuration_is_written_when_it_differs(tmp_path: Path) -> None:
    path = Path(written(str(tmp_path)))
    assert path.stat().st_mode & 0o777 == 0o600
    first = path.stat().st_ino
    assert Path(written(str(tmp_path))).stat().st_ino == first
    path.write_text("Host *\n")
    assert "Host *.vm" in Path(written(str(tmp_path))).read_text()


def parsed(*words: str) -> Given:
    command, _ = main.lookup(["vm", "ssh"])
    assert command is not None
    return parse(command, list(words))


@pytest.mark.parametrize(
    ("words", "parameters", "rest"),
    [
        ("web", {"vm": "web"}, ""),
        ("web -- ls -l", {"vm": "web"}, "-- ls -l"),
        ("web uname -a", {"vm": "web"}, "uname -a"),
        ("web -N -L 1:h:2 -- x --user y", {"vm": "web"}, "-N -L 1:h:2 -- x --user y"),
        ("web -luser", {"vm": "web"}, "-luser"),
        ("--user wren web -v", {"vm": "web", "user": "wren"}, "-v"),
        ("web --user=wren -v", {"vm": "web", "user": "wren"}, "-v"),
    ],
)
def test_words_after_the_name_are_sshs(words: str, parameters: dict[str, str], rest: str) -> None:
    found = parsed(*words.split())
    assert (found.parameters, " ".join(found.rest)) == (parameters, rest)


@pytest.mark.parametrize("words", ["", "-A web", "--usr wren web"])
def test_options_of_sshs_before_the_name_are_refused(words: str) -> None:
    with pytest.raises(BadRequest):
        parsed(*words.split())


# -- a file that is not ours -------------------------------------------------------------------------------------------------------------------------

PIECES = st.one_of(
    st.binary(max_size=40), st.sampled_from([b"Host *\n", b"  User me\r\n", b"# no newline", b"\r", b"\n", b"# >>> banger\n", b"\0", b"\xff\n"])
)
FOREIGN = st.lists(PIECES, max_size=8).map(b"".join).filter(lambda text: not {BEGIN, END} & {line.strip() for line in text.split(b"\n")})
CONFIG = b"/home/wren/.local/state/banger/ssh/config"
BLOCK = b'# >>> banger: machines as NAME.vm >>>\nInclude "/c"\n# <<< banger <<<\n'


@given(FOREIGN)
@example(b"")
@example(b"Host a\r\n  User b\r\n")
def test_what_is_not_ours_is_kept_byte_for_byte(text: bytes) -> None:
    with_us = fenced(text, CONFIG)
    assert with_us.endswith(text)
    assert with_us.startswith(BEGIN)
    assert fenced(with_us, CONFIG) == with_us
    assert fenced(with_us, b"") == text
    assert fenced(text, b"") == text


@given(FOREIGN.filter(lambda text: not text or text.endswith(b"\n")), FOREIGN)
def test_a_block_that_was_moved_comes_back_to_the_top(before: bytes, after: bytes) -> None:
    assert fenced(before + BLOCK + after, b"/c").endswith(before + after)
    assert fenced(before + BLOCK + after, b"") == before + after


def test_the_block_has_the_line_ends_of_the_file() -> None:
    assert fenced(b"Host a\r\n", b"/c") == BLOCK.replace(b"\n", b"\r\n") + b"Host a\r\n"
    assert fenced(b"Host a\n", b"/c") == BLOCK + b"Host a\n"


@pytest.mark.parametrize("text", [BEGIN, END, BLOCK + END, END + b"\n" + BEGIN + b"\n", BEGIN + b"\n" + BLOCK])
def test_a_fence_that_stands_alone_is_for_the_user_to_mend(text: bytes) -> None:
    with pytest.raises(WrongState, match="half"):
        fenced(text, CONFIG)


def test_a_new_file_is_private_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / ".ssh" / "config"
    assert edit(str(path), b"/c")
    assert (path.read_bytes(), path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (BLOCK, 0o600, 0o700)
    path.chmod(0o644)
    path.write_bytes(b"Host a")
    assert edit(str(path), b"/c")
    assert not edit(str(path), b"/c")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (BLOCK + b"Host a", 0o644)
    assert edit(str(path), b"")
    assert not edit(str(path), b"")
    assert path.read_bytes() == b"Host a"
    assert os.listdir(path.parent) == ["config"]


def test_taking_out_what_was_never_put_in_makes_nothing(tmp_path: Path) -> None:
    assert not edit(str(tmp_path / ".ssh" / "config"), b"")
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    kept, path = tmp_path / "dotfiles" / "ssh", tmp_path / "config"
    kept.parent.mkdir()
    kept.write_bytes(b"Host a\n")
    path.symlink_to(kept)
    assert edit(str(path), b"/c")
    assert path.is_symlink()
    assert kept.read_bytes() == BLOCK + b"Host a\n"


def test_what_may_not_or_cannot_be_changed_is_left_with_the_line_to_add(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"Host a\n")
    path.chmod(0o400)
    with pytest.raises(HostLacks, match="read-only") as raised:
        edit(str(path), b"/c")
    assert raised.value.hint == "do it by hand; its first line: Include /c"
    assert path.read_bytes() == b"Host a\n"
    for wrong in (tmp_path, tmp_path / "config" / "below", tmp_path / "no" / "such" / "file"):
        with pytest.raises(HostLacks):
            edit(str(wrong), b"/c")


def test_a_file_of_somebody_elses_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"")
    monkeypatch.setattr(sshconfig.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(HostLacks, match="belongs to user"):
        edit(str(path), b"/c")
