"""Metrics through a real pipe, as Firecracker writes them: whole, in pieces, hostile, and while nobody reads."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from banger.host.files import RealFiles
from banger.host.meters import CHUNKS, LINE, PIPE, SUMS, RealMeters
from banger.model.ids import VmId
from banger.model.metrics import MOST, Metrics
from banger.testing import FakeHost
from banger.testing.clock import FakeClock
from tests.place import until

VM = VmId("0123456789ab")
FULL = json.dumps({
    "utc_timestamp_ms": 1541591155180,
    "api_server": {"process_startup_time_us": 7},
    "block_upper": {"write_bytes": 999},
    "block": {"read_bytes": 10, "read_count": 1, "write_bytes": 20, "write_count": 2, "read_agg": {"min_us": 1}},
    "net": {"rx_bytes_count": 30, "rx_packets_count": 3, "rx_fails": 4, "tx_bytes_count": 50, "tx_packets_count": 5, "tx_fails": 6,
            "tap_read_fails": 7, "tap_write_fails": 8},
    "seccomp": {"num_faults": 1},
    "vcpu": {"exit_io_in": 11, "failures": 9},
    "vsock": {"rx_bytes_count": 60, "tx_bytes_count": 70},
}).encode() + b"\n"  # fmt: skip


class Reporting:
    """A VMM at the other end of the pipe, which it holds open for reading and writing."""

    def __init__(self, root: Path) -> None:
        self.paths, self.clock = FakeHost(root).paths, FakeClock()
        self.folder = self.paths.vm_run(VM)
        self.folder.mkdir(parents=True)
        self.meters = RealMeters(self.paths, RealFiles(), self.clock)
        assert self.meters.prepare(VM) == self.folder / PIPE
        self.began = self.clock.now()
        self.vmm = os.open(self.folder / PIPE, os.O_RDWR | os.O_NONBLOCK)

    def say(self, data: bytes) -> None:
        os.write(self.vmm, data)

    def sums(self) -> Metrics:
        found = self.meters.read(VM)
        assert found is not None
        return found


@pytest.fixture
def vmm(tmp_path: Path) -> Iterator[Reporting]:
    made = Reporting(tmp_path)
    yield made
    os.close(made.vmm)


async def test_reports_are_added_up_by_who_is_always_there(vmm: Reporting) -> None:
    assert vmm.meters.read(VM) is None
    assert vmm.meters.start(VM)
    assert vmm.meters.start(VM)
    assert vmm.sums() == Metrics(since=vmm.began)
    vmm.say(FULL)
    await until(lambda: json.loads((vmm.folder / SUMS).read_bytes())["reports"] == 1)  # nobody has asked
    vmm.say(FULL)
    assert vmm.sums() == Metrics(
        since=vmm.began, reports=2, disk_read_bytes=20, disk_reads=2, disk_written_bytes=40, disk_writes=4, net_received_bytes=60,
        net_received_packets=6, net_receive_fails=8, net_sent_bytes=100, net_sent_packets=10, net_send_fails=12, net_tap_fails=30,
        vsock_received_bytes=120, vsock_sent_bytes=140, vcpu_failures=18, seccomp_faults=1,
    )  # fmt: skip
    vmm.meters.remove(VM)


async def test_a_line_may_come_in_pieces(vmm: Reporting) -> None:
    vmm.meters.start(VM)
    for place in range(len(FULL)):
        vmm.say(FULL[place : place + 1])
        assert vmm.sums().reports == (place == len(FULL) - 1)
    vmm.meters.remove(VM)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"utc_timestamp_ms": 1',
        b'{"utc_timestamp_ms": 1' + FULL[:-1],
        b'{"utc_timestamp_ms": -1}',
        b'{"utc_timestamp_ms": 1, "block": {"read_bytes": 1.5}}',
        b'{"utc_timestamp_ms": 1, "block": {"read_bytes": 99999999999999999999999}}',
        b'{"utc_timestamp_ms": 1, "net": []}',
        b'{"utc_timestamp_ms": 1, "x": ' + b"[" * 60000,
        b'{"utc_timestamp_ms": 1, "net": {"rx_fails": "\xff"}}',
        b" " * LINE + b"{}",
        b"\xff\x00\x1b[2J",
    ],
)
async def test_what_makes_no_sense_is_skipped_and_logged_once(vmm: Reporting, line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    vmm.meters.start(VM)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for place in range(0, len(line) + 1, 4096):
                vmm.say((line + b"\n")[place : place + 4096])
                assert vmm.sums().reports == 0
    vmm.say(FULL.replace(b'"num_faults": 1', b'"num_faults": 0'))
    assert vmm.sums().reports == 1
    (record,) = caplog.records
    assert VM in record.getMessage()
    assert len(record.getMessage()) < 300
    vmm.meters.remove(VM)


async def test_sums_stop_at_what_json_can_hold_everywhere(vmm: Reporting) -> None:
    vmm.meters.start(VM)
    vmm.say(b'{"utc_timestamp_ms": 1, "block": {"read_bytes": %d}}\n' % MOST * 3)
    assert (vmm.sums().reports, vmm.sums().disk_read_bytes) == (3, MOST)
    vmm.meters.remove(VM)


async def test_a_line_without_end_takes_no_memory(vmm: Reporting) -> None:
    vmm.meters.start(VM)
    for _ in range(100):
        vmm.say(b"x" * 60000)
        vmm.sums()
    assert len(vmm.meters.meters[VM].rest) <= LINE + 1
    vmm.say(b"\n" + FULL)
    assert vmm.sums().reports == 1
    vmm.meters.remove(VM)


async def test_who_floods_the_pipe_is_read_a_bounded_time(vmm: Reporting, monkeypatch: pytest.MonkeyPatch) -> None:
    vmm.meters.start(VM)
    meter = vmm.meters.meters[VM]
    reads = 0

    def endless() -> bool:
        nonlocal reads
        reads += 1
        return True

    monkeypatch.setattr(meter, "move", endless)
    vmm.sums()
    assert reads == CHUNKS
    monkeypatch.undo()
    vmm.meters.remove(VM)


async def test_the_next_daemon_goes_on_where_the_former_ended(vmm: Reporting) -> None:
    vmm.meters.start(VM)
    vmm.say(FULL)
    assert vmm.sums().reports == 1
    vmm.meters.meters[VM].close()  # as the kernel does for who is killed
    whole = 0
    with suppress(BlockingIOError):
        while True:
            vmm.say(FULL)
            whole += 1
    vmm.clock.advance(3600)
    later = RealMeters(vmm.paths, RealFiles(), vmm.clock)
    assert later.start(VM)
    found = later.read(VM)
    assert found is not None
    assert (found.since, found.reports, found.disk_reads) == (vmm.began, whole + 1, whole + 1)
    later.remove(VM)
    assert list(vmm.folder.iterdir()) == []


@pytest.mark.parametrize("there", [None, b"", b"{", b'{"reports": 3}'])
async def test_sums_that_are_lost_begin_anew(vmm: Reporting, there: bytes | None) -> None:
    (vmm.folder / SUMS).unlink()
    if there is not None:
        (vmm.folder / SUMS).write_bytes(there)
    vmm.clock.advance(3600)
    vmm.meters.start(VM)
    assert vmm.sums() == Metrics(since=vmm.clock.now())
    vmm.meters.remove(VM)


async def test_the_pipe_is_ours_alone_and_nothing_else_is_read_in_its_place(vmm: Reporting) -> None:
    assert stat.S_IMODE((vmm.folder / PIPE).stat().st_mode) == 0o600
    aside = vmm.folder / "aside"
    (vmm.folder / PIPE).rename(aside)
    assert not vmm.meters.start(VM)
    (vmm.folder / PIPE).symlink_to(aside)
    assert not vmm.meters.start(VM)
    (vmm.folder / PIPE).unlink()
    (vmm.folder / PIPE).write_bytes(FULL)
    assert not vmm.meters.start(VM)
    assert vmm.meters.read(VM) is None


async def test_what_a_vmm_said_that_has_gone_counts_and_nothing_is_left_of_it(vmm: Reporting) -> None:
    before = os.listdir("/proc/self/fd")
    vmm.meters.start(VM)
    os.close(vmm.vmm)
    assert vmm.sums().reports == 0  # that nobody has it open for writing, yet or any more, is not its end
    vmm.vmm = os.open(vmm.folder / PIPE, os.O_WRONLY | os.O_NONBLOCK)
    vmm.say(FULL)
    os.close(vmm.vmm)
    assert vmm.sums().reports == 1
    vmm.vmm = os.open("/dev/null", os.O_RDONLY)
    for _ in range(2):
        vmm.meters.remove(VM)
    assert list(vmm.folder.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_a_forbidden_system_call_is_told_though_it_is_the_last_that_is_heard(vmm: Reporting, caplog: pytest.LogCaptureFixture) -> None:
    vmm.meters.start(VM)
    vmm.say(FULL * 2)
    with caplog.at_level(logging.WARNING):
        vmm.meters.remove(VM)
    (record,) = caplog.records
    assert f"the Firecracker of {VM} made a system call that is forbidden" in record.getMessage()


async def test_sums_that_cannot_be_written_down_are_told_all_the_same(vmm: Reporting) -> None:
    vmm.meters.start(VM)
    (vmm.folder / SUMS).unlink()
    (vmm.folder / SUMS).mkdir()
    vmm.say(FULL)
    assert vmm.sums().reports == 1
    (vmm.folder / SUMS).rmdir()
    vmm.meters.remove(VM)
