"""What ssh itself makes of the configuration that banger writes, and of a user's own that includes it (`ssh -G` connects to nothing)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from banger.frontends.cli.ssh import written
from banger.frontends.cli.sshconfig import edit


def effective(config: Path | str, host: str) -> dict[str, list[str]]:
    """Every option that holds for a host."""
    done = subprocess.run(["ssh", "-G", "-F", str(config), host], capture_output=True, text=True, timeout=20, check=True)
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("name", ["plain", "with blank and 100%", "it's"])
def test_ssh_reads_what_was_written(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    found = effective(written(str(folder)), "web.vm")
    assert found["user"] == ["root"]
    assert [value.strip('"').replace("%%", "%") for value in found["identityfile"]] == [f"{folder}/id_ed25519"]
    assert found["userknownhostsfile"][0].replace("%%", "%") == f"{folder}/known_hosts"
    assert found["stricthostkeychecking"] == ["true"]
    assert found["identitiesonly"] == ["yes"]
    assert found["proxycommand"][0].endswith("vm sshd --user '%r' '%h'")
    assert "proxycommand" not in effective(written(str(folder)), "elsewhere.org")


USERS = b"Host *.vm\n  User me\nHost *\n  ForwardAgent yes\n  Port 2222\n  StrictHostKeyChecking no\n  ProxyJump bastion\n  User you"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_included_it_comes_before_what_the_user_says_and_changes_nothing_for_others(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "users"
    path.write_bytes(USERS.replace(b"\n", end))
    before = effective(path, "elsewhere.org")
    edit(str(path), written(str(tmp_path)).encode())
    found = effective(path, "web.vm")
    assert (found["user"], found["port"], found["forwardagent"], found["stricthostkeychecking"]) == (["root"], ["22"], ["no"], ["true"])
    assert "proxyjump" not in found
    assert effective(path, "elsewhere.org") == before
