"""The baselines: what a person would run without banger. A bare QEMU with the same kernel, initramfs and disks; and ssh into the same machine."""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from banger import wire
from banger.client import Client
from banger.client.answer import Conversation

EPOCH = 0x0BADCAFE


def boot_to_first_frame(command: list[str], overlay: Path) -> float:
    """Seconds from the start of QEMU to the agent's hello. `command` is banger's own, from its log; here sockets are paths and nothing else runs."""
    with tempfile.TemporaryDirectory(prefix="banger-bare-", dir="/tmp") as name:
        folder = Path(name)
        subprocess.run(["cp", "--sparse=always", str(overlay), str(folder / "overlay.ext4")], check=True)
        begin = time.perf_counter()
        process = subprocess.Popen(bare(command, folder), cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _hello(folder / "agent.sock", process)
            return time.perf_counter() - begin
        finally:
            process.kill()
            process.wait()


def bare(command: list[str], folder: Path) -> list[str]:
    """The same machine without banger: sockets by path, no network, no name, a disk of its own."""
    words = []
    for word in command:
        served = re.match(r"socket,id=(\w+),fd=", word)
        if served:
            word = f"socket,id={served[1]},path={served[1]}.sock,server=on,wait=off"
        if word.startswith("if=none,id=upper,"):
            word = f"if=none,id=upper,file={folder}/overlay.ext4,format=raw,cache=writeback,discard=unmap"
        words.append(word)
    return words


def _hello(path: Path, process: subprocess.Popen[bytes]) -> None:
    with socket.socket(socket.AF_UNIX) as channel:
        while channel.connect_ex(str(path)):
            assert process.poll() is None, f"the bare QEMU ended at once: {process.returncode}"
            time.sleep(0.001)
        greet(channel)


def greet(channel: socket.socket) -> None:
    """Say hello to an agent, and wait for its own."""
    with channel:
        channel.settimeout(60)
        channel.sendall(wire.preamble() + wire.encode_json(wire.HELLO, 0, {"wire": 1, "epoch": EPOCH, "version": "0.1.0"}, tag=EPOCH))
        hunter = wire.Hunter(EPOCH)
        while hunter.feed(channel.recv(65536)) is None:
            pass


class Forward:
    """A loopback port that leads to a machine's ssh port, so that ssh itself needs no helper process of ours."""

    def __init__(self, client: Client, vm: str) -> None:
        self.client, self.vm = client, vm
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        guest = self.client.duplex("vm.dial", vm=self.vm, port=22)
        meter = wire.Meter()
        try:
            guest.send(wire.CREDIT, wire.WINDOW.to_bytes(4, "big"))
            guest.flush()
            sending = True
            while True:
                wanted: list[Conversation | socket.socket] = [guest, peer] if sending and meter.available else [guest]
                ready, _, _ = select.select(wanted, [], [])
                if peer in ready:
                    sending = self._up(peer, guest, meter)
                if guest in ready and not self._down(peer, guest, meter):
                    return
        finally:
            peer.close()
            guest.close()

    def _up(self, peer: socket.socket, guest: Conversation, meter: wire.Meter) -> bool:
        data = peer.recv(min(32768, meter.available))
        meter.spend(len(data))
        guest.send(wire.DATA if data else wire.EOF, data)
        guest.flush()
        return bool(data)

    def _down(self, peer: socket.socket, guest: Conversation, meter: wire.Meter) -> bool:
        for kind, _, payload in guest.receive() or ():
            if kind == wire.CREDIT:
                meter.grant(wire.decode_credit(payload))
            elif kind == wire.DATA:
                peer.sendall(payload)
                if count := meter.consume(len(payload)):
                    guest.send(wire.CREDIT, count.to_bytes(4, "big"))
                    guest.flush()
            elif kind == wire.END:
                return False
        return True

    def close(self) -> None:
        """Take no more connections."""
        self.listener.close()


@contextmanager
def ssh_into(client: Client, vm: str, banger: list[str], env: dict[str, str]) -> Iterator[list[str]]:
    """The ssh command into a machine: keys only, no connection sharing, host key checking off for this throwaway machine."""
    folder = Path(tempfile.mkdtemp(prefix="banger-ssh-", dir="/tmp"))
    forward = Forward(client, vm)
    try:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "id")], check=True)
        script = "mkdir -p -m 700 /root/.ssh; cat >> /root/.ssh/authorized_keys; chmod 600 /root/.ssh/authorized_keys"
        public = (folder / "id.pub").read_bytes()
        subprocess.run([*banger, "vm", "exec", "-i", vm, "--", "sh", "-c", script], input=public, env=env, check=True)
        options = (
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ControlMaster=no",
            "BatchMode=yes",
            "IdentitiesOnly=yes",
        )
        flags = [word for option in options for word in ("-o", option)]
        yield ["ssh", "-F", "/dev/null", *flags, "-i", str(folder / "id"), "-p", str(forward.port), "root@127.0.0.1"]
    finally:
        forward.close()
        shutil.rmtree(folder)


def memory_kib(pid: int, field: str) -> int:
    """A line of /proc/PID/status: VmRSS, or VmHWM (its peak)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise ValueError(f"process {pid} has no {field}")


def wake_ups(pid: int, during: float) -> int:
    """How often a process's threads were scheduled in that many seconds (voluntary context switches)."""
    before = _switches(pid)
    time.sleep(during)
    return _switches(pid) - before


def _switches(pid: int) -> int:
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        for line in Path(f"/proc/{pid}/task/{task}/status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total
