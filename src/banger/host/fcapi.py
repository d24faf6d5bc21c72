"""Firecracker's API: the bodies that banger uses, strict in what is sent, and requests over its Unix socket (HTTP/1.1, JSON).

Names and meanings are those of Firecracker's published specification (`firecracker.yaml`). A machine's configuration is the same bodies in one file,
read by Firecracker when it starts. Each request is a connection of its own, so nothing is kept; Firecracker answers one at a time. Owns nothing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TypeVar

import h11
import msgspec

from banger.host.stream import Dialer, Stream
from banger.model.errors import TimedOut, VmmFailed

LIMIT = 1 << 20
T = TypeVar("T")


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is sent."""


class BootSource(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/boot-source`: absolute paths of the kernel (ELF) and the initramfs, and the kernel's command line, to which Firecracker adds its devices."""

    kernel_image_path: str
    initrd_path: str
    boot_args: str


class Drive(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/drives/ID`: a raw file. The guest sees drives in their order: vda, vdb. With `Writeback` what the guest flushes is on the host's disk."""

    drive_id: str
    path_on_host: str
    is_read_only: bool
    is_root_device: bool = False
    cache_type: str = "Writeback"


class MachineConfig(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/machine-config`."""

    vcpu_count: int
    mem_size_mib: int


class Vsock(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/vsock`: the one vsock device. `uds_path` is relative to the folder that Firecracker runs in; the context id is known in the guest only."""

    guest_cid: int
    uds_path: str


class NetworkInterface(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/network-interfaces/ID`: `host_dev_name` is a TAP, opened by its name in the network namespace that Firecracker runs in."""

    iface_id: str
    guest_mac: str
    host_dev_name: str


class Entropy(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/entropy`: a virtio-rng device."""


class MetricsConfig(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/metrics`: the named pipe to which reports are written, a line each."""

    metrics_path: str


class Action(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`/actions`: with `FlushMetrics` a report is in the pipe once this is answered."""

    action_type: str


class Configuration(Body, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """The file for `--config-file`."""

    boot_source: BootSource
    machine_config: MachineConfig
    drives: tuple[Drive, ...]
    vsock: Vsock
    metrics: MetricsConfig
    network_interfaces: tuple[NetworkInterface, ...] = ()
    entropy: Entropy = Entropy()


class InstanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /`: `state` is "Not started", "Running" or "Paused". What newer versions add is ignored."""

    id: str
    state: str
    vmm_version: str


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What a refusal says."""

    fault_message: str = "it gave no reason"


async def get(dialer: Dialer, socket: Path, path: str, kind: type[T], *, timeout: float) -> T:
    """Ask for a record; VmmFailed when it is refused or the protocol broken, TimedOut after `timeout` seconds, GuestFailed when nobody listens."""
    return _decode(await exchange(dialer, socket, "GET", path, b"", timeout=timeout), kind, path)


async def send(dialer: Dialer, socket: Path, method: str, path: str, body: Body, *, timeout: float) -> None:
    """Send a body by PUT or PATCH; errors as with `get`."""
    await exchange(dialer, socket, method, path, msgspec.json.encode(body), timeout=timeout)


async def exchange(dialer: Dialer, socket: Path, method: str, path: str, body: bytes, *, timeout: float) -> bytes:
    """One request and its answer's body."""
    try:
        async with asyncio.timeout(timeout):
            stream = await dialer.unix(socket)
            try:
                return await _converse(stream, method, path, body)
            finally:
                stream.close()
    except TimeoutError:
        raise TimedOut(f"Firecracker did not answer {method} {path} within {timeout:g} s") from None
    except h11.RemoteProtocolError as error:
        raise VmmFailed(f"Firecracker broke the protocol on {method} {path}: {error}") from error


async def _converse(stream: Stream, method: str, path: str, body: bytes) -> bytes:
    http = h11.Connection(h11.CLIENT)
    headers = [("Host", "localhost"), ("Accept", "application/json")]
    if body:
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    request = http.send(h11.Request(method=method, target=path, headers=headers)) or b""
    content = (http.send(h11.Data(data=body)) or b"") if body else b""
    await stream.write(request + content + (http.send(h11.EndOfMessage()) or b""))
    status, answer = 0, b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.read(1 << 16))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            answer += bytes(event.data)
            if len(answer) > LIMIT:
                raise VmmFailed(f"Firecracker answered {method} {path} with more than {LIMIT} bytes")
        elif isinstance(event, h11.EndOfMessage):
            break
        elif isinstance(event, h11.ConnectionClosed):
            raise VmmFailed(f"Firecracker closed the connection on {method} {path}")
    if not 200 <= status < 300:
        raise VmmFailed(f"Firecracker refused {method} {path}: {_decode(answer or b'{}', Fault, path).fault_message}")
    return answer


def _decode(data: bytes, kind: type[T], path: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise VmmFailed(f"Firecracker's answer to {path} makes no sense: {error}") from error
