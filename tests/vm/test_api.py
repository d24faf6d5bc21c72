"""The daemon's HTTP interface, spoken by hand over its socket: what a program without our client relies on."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import subprocess
from collections.abc import Iterator

import pytest

from banger.ops import every_op
from tests.world import World, until

SECONDS = 60
SMALL = {"network": "none", "memory_mib": 128, "vcpu": 1}


class Wire(http.client.HTTPConnection):
    """The standard library's HTTP over the daemon's socket."""

    def __init__(self, world: World) -> None:
        super().__init__("banger", timeout=SECONDS)
        self.path = str(world.socket)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self.path)


def ask(world: World, method: str, target: str, body: object = None, *, raw: bytes | None = None) -> tuple[int, dict[str, object]]:
    """One request: the status, and the object in the answer."""
    wire = Wire(world)
    try:
        wire.request(method, target, body=raw if raw is not None else None if body is None else json.dumps(body))
        answer = wire.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else {}
    finally:
        wire.close()


def lines(wire: Wire) -> Iterator[dict[str, object]]:
    """The objects of a stream, as they come."""
    answer = wire.getresponse()
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    while line := answer.readline():
        yield json.loads(line)


def code_of(answer: dict[str, object]) -> str:
    error = answer["error"]
    assert isinstance(error, dict)
    assert error["message"]
    return str(error["code"])


def test_the_description_has_every_operation(shared: World) -> None:
    status, found = ask(shared, "GET", "/openapi.json")
    assert (status, found["openapi"]) == (200, "3.1.0")
    paths = found["paths"]
    assert isinstance(paths, dict)
    described = {(way["operationId"], method.upper(), path) for path, ways in paths.items() for method, way in ways.items()}
    assert described == {(op.name, op.method, op.path) for op in every_op().values()}
    assert all(way["summary"].endswith(".") for ways in paths.values() for way in ways.values())


def test_machines_are_listed_and_shown(shared: World) -> None:
    wire = Wire(shared)
    wire.request("GET", "/vms")
    rows = json.loads(wire.getresponse().read())
    assert [row["name"] for row in rows] == ["otter"]
    wire.request("GET", f"/vms/{rows[0]['id']}")  # the same connection serves again
    assert json.loads(wire.getresponse().read())["id"] == rows[0]["id"]
    wire.close()


def test_a_creation_is_a_stream_of_operation_events_and_result(shared: World) -> None:
    wire = Wire(shared)
    wire.request("POST", "/vms", body=json.dumps(SMALL | {"name": "wren"}))
    found = list(lines(wire))
    wire.close()
    kinds = [next(iter(line)) for line in found]
    assert all(len(line) == 1 for line in found)
    assert kinds == ["operation", *["event"] * (len(found) - 2), "result"]
    result = found[-1]["result"]
    assert isinstance(result, dict)
    assert (result["name"], result["state"]) == ("wren", "running")
    assert ask(shared, "DELETE", f"/vms/{result['id']}") == (204, {})
    assert ask(shared, "GET", "/vms/wren")[0] == 404


def test_an_operation_can_be_taken_back_from_another_connection(shared: World) -> None:
    wire = Wire(shared)
    wire.request("POST", "/vms", body=json.dumps(SMALL | {"name": "wren"}))
    stream = lines(wire)
    operation = next(stream)["operation"]
    assert isinstance(operation, dict)
    for line in stream:
        event = line["event"]
        assert isinstance(event, dict)
        if event["stage"] == "agent":
            break
    status, seen = ask(shared, "DELETE", f"/operations/{operation['id']}")
    assert status == 200
    assert seen["finished"]
    assert [code_of(line) for line in stream if "event" not in line] == ["cancelled"]
    wire.close()
    assert ask(shared, "GET", "/vms/wren")[0] == 404
    assert list((shared.state / "vms").iterdir()) == [shared.state / "vms" / str(shared.row("otter")["id"])]


def test_a_machine_bound_to_a_stream_goes_with_it(shared: World) -> None:
    wire = Wire(shared)
    wire.request("POST", "/vms", body=json.dumps(SMALL | {"name": "wren", "rm": True}))
    for line in lines(wire):
        if "result" in line:
            break
    assert ask(shared, "GET", "/vms/wren")[0] == 200
    wire.close()
    until(lambda: ask(shared, "GET", "/vms/wren")[0] == 404, "the machine's end")


def test_a_reader_of_a_creation_that_leaves_does_not_end_it(shared: World) -> None:
    wire = Wire(shared)
    wire.request("POST", "/vms", body=json.dumps(SMALL | {"name": "wren"}))
    next(lines(wire))
    wire.close()
    until(lambda: ask(shared, "GET", "/vms/wren")[1].get("state") == "running", "the machine")
    assert ask(shared, "DELETE", "/vms/wren")[0] == 204


@pytest.mark.parametrize(
    ("method", "target", "raw", "status", "code"),
    [
        ("POST", "/vms", b'{"name": ', 400, "bad-request"),
        ("POST", "/vms", b"[]", 400, "bad-request"),
        ("POST", "/vms", b"\xff\xfe", 400, "bad-request"),
        ("POST", "/vms", b'{"nmae": "wren"}', 400, "bad-request"),
        ("POST", "/vms", b'{"vcpu": "two"}', 400, "bad-request"),
        ("POST", "/vms", b'{"vcpu": 99999}', 400, "bad-request"),
        ("POST", "/vms", b'{"name": "otter"}', 409, "already-exists"),
        ("POST", "/vms?name=wren", b"", 400, "bad-request"),
        ("GET", "/vms?all=1", None, 400, "bad-request"),
        ("PUT", "/vms", b"{}", 400, "bad-request"),
        ("GET", "/nowhere", None, 404, "not-found"),
        ("GET", "/vms/nobody", None, 404, "not-found"),
        ("DELETE", "/operations/op-0", None, 404, "not-found"),
        ("POST", "/vms/otter/exec", b'{"argv": ["true"]}', 400, "bad-request"),
        ("GET", "/vms/%ff", None, 400, "bad-request"),
    ],
)
def test_what_cannot_be_meant_is_an_error_with_code_and_status(
    shared: World, method: str, target: str, raw: bytes | None, status: int, code: str
) -> None:
    found, answer = ask(shared, method, target, raw=raw)
    assert (found, code_of(answer)) == (status, code)


def test_what_is_no_http_is_refused_and_the_daemon_lives(shared: World) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(SECONDS)
        raw.connect(str(shared.socket))
        raw.sendall(b"\x16\x03\x01\x02\x00 nonsense\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert ask(shared, "GET", "/vms")[0] == 200


def test_a_half_sent_request_makes_nobody_wait(shared: World) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(shared.socket))
        raw.sendall(b"POST /vms HTTP/1.1\r\nHost: banger\r\nContent-Length: 100\r\n\r\n{")
        assert ask(shared, "GET", "/vms")[0] == 200


def test_exec_is_an_upgraded_connection(shared: World) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(SECONDS)
        raw.connect(str(shared.socket))
        body = b'{"argv": ["echo", "here"], "stdin": false}'
        head = b"POST /vms/otter/exec HTTP/1.1\r\nHost: banger\r\nConnection: Upgrade\r\nUpgrade: banger-wire\r\nContent-Length: %d\r\n\r\n" % len(body)
        credit = b"\0\0\0\4\0\0\0\1\7\0\0\0\0\4\0\0\0\0\0\1"
        raw.sendall(head + body + credit)
        text = b""
        while b'"exit"' not in text and (data := raw.recv(4096)):
            text += data
    assert text.startswith(b"HTTP/1.1 101 ")
    assert b"here\n" in text
    assert b'{"ok":{"exit":0}}' in text


# -- who may ask ------------------------------------------------------------------------------------------------------------------------------------


def test_the_socket_and_its_folder_are_the_users_alone(shared: World) -> None:
    assert stat.S_IMODE(shared.socket.stat().st_mode) == 0o600
    assert stat.S_ISSOCK(shared.socket.stat().st_mode)
    assert stat.S_IMODE(shared.socket.parent.stat().st_mode) == 0o700
    assert {path.stat().st_uid for path in (shared.socket, shared.socket.parent)} == {os.geteuid()}


def test_what_lies_on_disk_is_the_users_alone(shared: World) -> None:
    assert stat.S_IMODE(shared.state.stat().st_mode) == 0o700
    open_to_others = [path for path in (*shared.state.rglob("*"), *shared.run.rglob("*")) if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert open_to_others == []


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to become somebody else")
def test_another_user_cannot_connect(shared: World) -> None:
    """Even with every folder on the way opened, the socket's own permissions keep others out."""
    folders = [shared.socket.parent, *list(shared.socket.parents)[1:3]]
    before = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in folders}
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    stranger = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "/usr/bin/python3", "-c", script, str(shared.socket)]
    closed = subprocess.run(stranger, capture_output=True, timeout=SECONDS, check=False)
    try:
        for folder in folders:
            folder.chmod(before[folder] | 0o055)
        opened = subprocess.run(stranger, capture_output=True, timeout=SECONDS, check=False)
    finally:
        for folder, mode in before.items():
            folder.chmod(mode)
    for done in (closed, opened):
        assert b"PermissionError" in done.stderr
