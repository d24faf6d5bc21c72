"""What Firecracker counts, read from a named pipe in the machine's run folder: a line of JSON each minute and whenever it is told to flush.

Its counters start again with each line, so they are added up here, by a reader that is there as long as the daemon is: the event loop calls it, without
a task or polling. The sums are in a file beside the pipe, so that the next daemon goes on; what comes meanwhile waits in the pipe (64 KiB, some
minutes), and what has no room there is lost. Firecracker opens the pipe for reading too, so it neither waits for a reader nor blocks.
A guest may own its VMM: only our own name of the pipe is opened, lines and numbers are bounded, and what makes no sense is skipped and logged once.
Names are those of Firecracker's `src/vmm/src/logger/metrics.rs` and its devices' `metrics.rs`. Owns its descriptors, the pipe and the file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Protocol

import msgspec

from banger.host.clock import Clock
from banger.host.files import Files
from banger.model.codec import decode, encode
from banger.model.errors import Corrupt, NoSpace
from banger.model.ids import VmId
from banger.model.metrics import MOST, Metrics
from banger.model.paths import Paths

log = logging.getLogger(__name__)
PIPE, SUMS = "metrics.pipe", "metrics.json"
#: An honest line has some 6 KiB.
LINE = 1 << 16
#: How much of a flood keeps the event loop at a time; and the most that a pipe holds (pipe(7), 1 MiB), all of which is read when somebody asks.
CHUNK, CHUNKS = 1 << 14, 1 << 6

Count = Annotated[int, msgspec.Meta(ge=0, le=MOST)]


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """`block`: all drives together."""

    read_bytes: Count = 0
    read_count: Count = 0
    write_bytes: Count = 0
    write_count: Count = 0


class Net(msgspec.Struct, frozen=True, kw_only=True):
    """`net`: all network cards together; rx is what the guest receives."""

    rx_bytes_count: Count = 0
    rx_packets_count: Count = 0
    rx_fails: Count = 0
    tx_bytes_count: Count = 0
    tx_packets_count: Count = 0
    tx_fails: Count = 0
    tap_read_fails: Count = 0
    tap_write_fails: Count = 0


class Vsock(msgspec.Struct, frozen=True, kw_only=True):
    """`vsock`: rx is what the guest receives."""

    rx_bytes_count: Count = 0
    tx_bytes_count: Count = 0


class Vcpu(msgspec.Struct, frozen=True, kw_only=True):
    """`vcpu`."""

    failures: Count = 0


class Seccomp(msgspec.Struct, frozen=True, kw_only=True):
    """`seccomp`: of all that is read, the one value that does not start again with each line."""

    num_faults: Count = 0


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One report, as far as it is used; all else in it is ignored."""

    utc_timestamp_ms: Count
    block: Block = Block()
    net: Net = Net()
    vsock: Vsock = Vsock()
    vcpu: Vcpu = Vcpu()
    seccomp: Seccomp = Seccomp()


def added(sums: Metrics, line: Line) -> Metrics:
    """The sums with one more report."""
    block, net = line.block, line.net
    return Metrics(
        since=sums.since,
        reports=_sum(sums.reports, 1),
        disk_read_bytes=_sum(sums.disk_read_bytes, block.read_bytes),
        disk_reads=_sum(sums.disk_reads, block.read_count),
        disk_written_bytes=_sum(sums.disk_written_bytes, block.write_bytes),
        disk_writes=_sum(sums.disk_writes, block.write_count),
        net_received_bytes=_sum(sums.net_received_bytes, net.rx_bytes_count),
        net_received_packets=_sum(sums.net_received_packets, net.rx_packets_count),
        net_receive_fails=_sum(sums.net_receive_fails, net.rx_fails),
        net_sent_bytes=_sum(sums.net_sent_bytes, net.tx_bytes_count),
        net_sent_packets=_sum(sums.net_sent_packets, net.tx_packets_count),
        net_send_fails=_sum(sums.net_send_fails, net.tx_fails),
        net_tap_fails=_sum(sums.net_tap_fails, net.tap_read_fails, net.tap_write_fails),
        vsock_received_bytes=_sum(sums.vsock_received_bytes, line.vsock.rx_bytes_count),
        vsock_sent_bytes=_sum(sums.vsock_sent_bytes, line.vsock.tx_bytes_count),
        vcpu_failures=_sum(sums.vcpu_failures, line.vcpu.failures),
        seccomp_faults=max(sums.seccomp_faults, line.seccomp.num_faults),
    )


def _sum(*numbers: int) -> int:
    return min(sum(numbers), MOST)


class Meters(Protocol):
    """What the VMMs of all machines count, where they do."""

    def prepare(self, vm: VmId) -> Path:
        """Make the machine's pipe, and forget what an earlier VMM has counted; where it is."""

    def start(self, vm: VmId) -> bool:
        """Read the pipe from now on, unless that is so; False when there is none."""

    def read(self, vm: VmId) -> Metrics | None:
        """The sums, with what is in the pipe right now; None when nobody counts."""

    def remove(self, vm: VmId) -> None:
        """Let go of the pipe, and remove it and the sums. Missing is success."""


class Meter:
    """One pipe on its way into the sums; `keep` is told of them whenever they have changed."""

    def __init__(self, source: int, name: str, sums: Metrics, keep: Callable[[Metrics], None]) -> None:
        self.source, self.name, self.sums, self.keep = source, name, sums, keep
        self.rest, self.garbled = b"", False
        asyncio.get_running_loop().add_reader(source, self.move)

    def move(self) -> bool:
        """Take what is there, or a part of it; whether there was anything."""
        try:
            data = os.read(self.source, CHUNK)
        except BlockingIOError:
            return False
        before = self.sums
        *lines, rest = (self.rest + data).split(b"\n")
        self.rest = rest[: LINE + 1]  # enough to see at its end that it was too long
        for line in lines:
            self._add(line)
        if self.sums is not before:
            self.keep(self.sums)
        return True

    def _add(self, line: bytes) -> None:
        """A hostile VMM may nest its JSON as deep as it likes; an honest one whose pipe was full begins a line in the middle of another."""
        try:
            if len(line) > LINE:
                raise msgspec.DecodeError(f"it has more than {LINE} bytes")
            sums = added(self.sums, msgspec.json.decode(line, type=Line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if not self.garbled:
                log.warning("a report of the Firecracker of %s makes no sense, and is skipped as all such will be: %s", self.name, error)
            self.garbled = True
            return
        if sums.seccomp_faults and not self.sums.seccomp_faults:
            log.warning("the Firecracker of %s made a system call that is forbidden to it, which ends it: its guest may have taken it over", self.name)
        self.sums = sums

    def close(self) -> None:
        """Let go."""
        asyncio.get_running_loop().remove_reader(self.source)
        os.close(self.source)


class RealMeters:
    """Meters on named pipes."""

    def __init__(self, paths: Paths, files: Files, clock: Clock) -> None:
        self.paths, self.files, self.clock = paths, files, clock
        self.meters: dict[VmId, Meter] = {}

    def prepare(self, vm: VmId) -> Path:
        """See Meters."""
        self.remove(vm)
        pipe = self.paths.vm_run(vm) / PIPE
        os.mkfifo(pipe, 0o600)
        self._keep(vm, Metrics(since=self.clock.now()))
        return pipe

    def start(self, vm: VmId) -> bool:
        """See Meters. After a crash of the host's own, or a full disk, the sums may be missing: then they begin now."""
        if vm in self.meters:
            return True
        source = _open(self.paths.vm_run(vm) / PIPE)
        if source is not None:
            self.meters[vm] = Meter(source, vm, self._kept(vm) or Metrics(since=self.clock.now()), lambda sums: self._keep(vm, sums))
        return source is not None

    def read(self, vm: VmId) -> Metrics | None:
        """See Meters."""
        meter = self.meters.get(vm)
        if meter is None:
            return None
        for _ in range(CHUNKS):
            if not meter.move():
                break
        return meter.sums

    def remove(self, vm: VmId) -> None:
        """See Meters."""
        self.read(vm)  # its last report says why it has ended
        meter = self.meters.pop(vm, None)
        if meter is not None:
            meter.close()
        folder = self.paths.vm_run(vm)
        for path in (folder / PIPE, folder / SUMS, *folder.glob(f".{SUMS}.*.new")):  # the last of a daemon that was killed just then
            path.unlink(missing_ok=True)

    def _keep(self, vm: VmId, sums: Metrics) -> None:
        try:
            self.files.write_atomic(self.paths.vm_run(vm) / SUMS, encode(sums), durable=False)
        except (NoSpace, OSError) as error:
            log.warning("what %s has counted is known but not written down: %s", vm, error)

    def _kept(self, vm: VmId) -> Metrics | None:
        path = self.paths.vm_run(vm) / SUMS
        try:
            data = self.files.read(path)
            return None if data is None else decode(data, Metrics, what=str(path))
        except Corrupt as error:
            log.warning("%s", error)
            return None


def _open(path: Path) -> int | None:
    """A named pipe, or None where there is nothing, or something else. To be read; open for writing too it never ends, whoever comes later or goes."""
    try:
        found = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        log.debug("metrics %s: %s", path, error)
        return None
    if not stat.S_ISFIFO(os.fstat(found).st_mode):
        os.close(found)
        return None
    return found
