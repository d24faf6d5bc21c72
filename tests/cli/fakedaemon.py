"""A daemon of canned records behind the real operations and the real HTTP server, as a process: what the CLI's tests talk to.

`python fakedaemon.py ROWS` listens where the environment says, prints `ready`, and ends when its stdin does. What it was asked is told by the machine
`calls`: its `note` lists the operations called so far.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec

from banger.client import socket_path
from banger.frontends.http.server import Service, serving
from banger.model.build import build_id
from banger.model.catalog import ImageConfig
from banger.model.commands import Asked, request
from banger.model.errors import Busy, Cancelled, GuestFailed, NoCommand, NotFound, WrongState
from banger.model.event import Event
from banger.model.ids import OperationId, VmId
from banger.model.metrics import Metrics
from banger.model.operation import DaemonStatus, Operation, TargetResult, Text
from banger.model.ssh import SshAccess, SshLogin
from banger.model.vm import VmSpec, VmState, VmStatus
from banger.ops import every_op
from banger.wire import CONTROL, CREDIT, DATA, END, EOF, OPENED, RESET, STDERR, Frame, Meter, decode_credit, decode_json

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
calls: list[str] = []


def machine(number: int, name: str, state: VmState = VmState.RUNNING, *, rm: bool = False) -> VmStatus:
    return VmStatus(
        id=VmId(f"{number:012x}"), name=name, state=state, image="debian-bookworm", kernel="debian-6.1", vcpu=2, memory_mib=2048, disk="overlay",
        disk_bytes=8 << 30, disk_used_bytes=1 << 20, network="user", address="10.0.2.15/24", host_access=False, nat=True, vmm="qemu",
        accelerator="tcg", reason="no kvm", rm=rm, created=NOW, pid=1, boot_id="b", note=" ".join(calls) if name == "calls" else "",
    )  # fmt: skip


class Exec:
    """A stream whose guest is this class: what it does is its argv."""

    def __init__(self, request: dict[str, object]) -> None:
        self.request = request
        self.out: asyncio.Queue[Frame | None] = asyncio.Queue()
        self.credit = asyncio.Event()
        self.meter = Meter()
        self.input: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.controls: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self.task = asyncio.get_running_loop().create_task(self.play())

    async def receive(self) -> Frame | None:
        return await self.out.get()

    async def send(self, kind: int, payload: bytes) -> None:
        if kind == CREDIT:
            self.meter.grant(decode_credit(payload))
            self.credit.set()
        elif kind == DATA:
            self.input.put_nowait(payload)
            self.put(CREDIT, len(payload).to_bytes(4, "big"))
        elif kind == EOF:
            self.input.put_nowait(None)
        elif kind == CONTROL:
            self.controls.put_nowait(decode_json(payload))
        assert kind != RESET

    async def aclose(self) -> None:
        self.task.cancel()

    def put(self, kind: int, payload: bytes) -> None:
        self.out.put_nowait(Frame((kind, 1, payload)))

    async def write(self, data: bytes, kind: int = DATA) -> None:
        while data:
            while not self.meter.available:
                self.credit.clear()
                await self.credit.wait()
            piece = data[: min(65536, self.meter.available)]
            self.meter.spend(len(piece))
            self.put(kind, piece)
            data = data[len(piece) :]

    async def play(self) -> None:
        self.put(OPENED, b"{}")
        self.put(CREDIT, (262144).to_bytes(4, "big"))
        end = await self.act()
        self.put(EOF, b"")
        self.put(END, end)
        self.out.put_nowait(None)

    async def act(self) -> bytes:
        words = self.request["argv"]
        assert isinstance(words, list)
        return await getattr(self, f"do_{words[0] if words else 'shell'}")(*words[1:]) or b'{"ok":{"exit":0}}'

    async def do_cat(self) -> None:
        while (data := await self.input.get()) is not None:
            await self.write(data)

    async def do_spew(self, count: str) -> None:
        for _ in range(int(count) // 65536):
            await self.write(bytes(65536))

    async def do_exit(self, status: str) -> bytes:
        return b'{"ok":{"exit":%s}}' % status.encode()

    async def do_both(self) -> None:
        await self.write(b"out\xff\x00\n")
        await self.write(b"err\n", STDERR)

    async def do_wait(self) -> bytes:
        await self.write(b"waiting\n")
        return b'{"ok":{"signal":"%s"}}' % str((await self.controls.get())["signal"]).encode()

    async def do_hang(self) -> None:
        await self.write(b"waiting\n")
        await asyncio.get_running_loop().create_future()

    async def do_absent(self) -> bytes:
        return b'{"error":{"code":"no-command","message":"there is no command absent"}}'

    async def do_size(self) -> None:
        await self.write(f"{self.request['tty']}\r\n".encode())
        await self.write(f"{await self.controls.get()}\r\n".encode())

    async def do_request(self) -> None:
        await self.write(repr(self.request).encode() + b"\n")

    async def do_shell(self) -> None:
        await self.write(b"$ ")
        while (data := await self.input.get()) not in (None, b"\x04"):
            await self.write(data or b"")


class Machines:
    def __init__(self, rows: int) -> None:
        self.all = {f"vm{number}": machine(number, f"vm{number}") for number in range(rows)}

    def rows(self) -> list[VmStatus]:
        return list(self.all.values())

    def show(self, vm: str) -> VmStatus:
        if vm == "calls":
            return machine(99, "calls")
        for one in self.all.values():
            if vm in (one.id, one.name):
                return one
        raise NotFound(f"there is no machine {vm}", hint="banger vm list")

    async def create(self, spec: VmSpec, *, start: bool, wait: str) -> AsyncIterator[object]:
        return self._created(spec)

    async def _created(self, spec: VmSpec) -> AsyncIterator[object]:
        name = spec.name or "calm-otter"
        calls.append(f"create:{name}")
        yield Operation(id=OperationId("op-1"), name="vm.create", subject=name, stage="", detail="", started=NOW)
        yield Event(stage="plan", detail="spec: 2 vcpu · 2048 MiB · 8G disk · qemu (tcg: no kvm) · network user")
        yield Event(stage="boot", detail="starting qemu", done=1 << 20, total=4 << 20, unit="bytes")
        if name == "slow":
            await cancelled.wait()
            calls.append("cancelled")
            raise Cancelled("vm.create was cancelled", stage="boot")
        if name == "broken":
            raise GuestFailed("the agent did not answer: nothing heard", hint="banger vm logs broken", stage="boot", tail=("kernel panic \x1b[2J",))
        self.all[name] = machine(4096, name, rm=spec.rm)
        if name == "asked":
            note = repr({"entrypoint": spec.entrypoint, "attended": spec.attended, "env": spec.env, "cwd": spec.cwd, "user": spec.user})
            self.all[name] = msgspec.structs.replace(self.all[name], note=note)
        try:
            yield self.all[name]
            if spec.rm:
                await asyncio.get_running_loop().create_future()
        finally:
            if spec.rm:
                self.all.pop(name, None)
                calls.append("released")

    async def start(self, vm: str, *, wait: str) -> AsyncIterator[object]:
        yield Operation(id=OperationId("op-2"), name="vm.start", subject=vm, stage="", detail="", started=NOW)
        yield Event(stage="boot", detail=f"starting {vm}")
        yield self.show(vm)

    async def stop(self, vm: str, *, force: bool) -> VmStatus:
        calls.append(f"stop:{vm}")
        if vm == f"{2:012x}" or vm == "vm2":
            raise Busy(f"{vm} is busy", hint="later")
        return self.show(vm)

    async def delete(self, vm: str) -> None:
        calls.append(f"delete:{vm}")
        self.all.pop(self.show(vm).name)

    async def logs(self, vm: str, *, follow: bool) -> AsyncIterator[Text]:
        yield Text(text="first\n")
        yield Text(text="second\n")

    async def metrics(self, vm: str) -> Metrics:
        if self.show(vm).name == "vm2":
            raise WrongState("machine vm2 runs in qemu, which counts nothing", hint="create it with --vmm firecracker")
        return Metrics(since=NOW, reports=3, disk_written_bytes=4096)

    async def prune(self) -> list[TargetResult]:
        return [TargetResult(target="vm1", ok=True)]

    async def open(self, vm: str, wanted: dict[str, object]) -> Exec:
        self.show(vm)
        return Exec({"argv": ["cat"]})

    async def execute(self, vm: str, asked: Asked) -> Exec:
        self.show(vm)
        return Exec(request(asked, ImageConfig(), ()))


cancelled = asyncio.Event()


class Underway:
    def rows(self) -> list[Operation]:
        return []

    async def cancel(self, operation: str) -> Operation:
        cancelled.set()
        return Operation(id=OperationId(operation), name="vm.create", subject="slow", stage="boot", detail="", started=NOW, finished=NOW)


class Ssh:
    def __init__(self, machines: Machines) -> None:
        self.machines, self.folder = machines, os.path.join(os.environ["XDG_STATE_HOME"], "ssh")

    async def access(self) -> SshAccess:
        os.makedirs(self.folder, exist_ok=True)
        return SshAccess(folder=self.folder, public_key="ssh-ed25519 AAAA")

    async def login(self, vm: str, user: str) -> SshLogin:
        await self.access()
        if self.machines.show(vm).name == "vm2":
            raise NoCommand("ssh-keys in vm2: the image has no ssh server: sshd is not found")
        return SshLogin(folder=self.folder, host=f"{self.machines.show(vm).name}.vm", user=user, fingerprints=())

    async def connect(self, vm: str, user: str) -> Exec:
        return await self.machines.open(vm, {"op": "ssh"})


class Daemon:
    def __init__(self, rows: int) -> None:
        self.vms, self.operations = Machines(rows), Underway()
        self.ssh = Ssh(self.vms)

    def status(self) -> DaemonStatus:
        return DaemonStatus(
            pid=os.getpid(),
            version="0",
            build=build_id(),
            socket="s",
            log="l",
            state="x",
            started=NOW,
            machines=len(self.vms.all),
            operations=0,
            names="off",
        )


async def serve(rows: int) -> None:
    path = socket_path(os.environ)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(128)
        async with serving(Service(every_op(), Daemon(rows), build_id()), listener):
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
