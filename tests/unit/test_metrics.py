"""`vm metrics` with a pretended Firecracker: asked at once, once more if need be, and refused where there is nothing to tell."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from banger.backends.vmm import Metered
from banger.backends.vmm.firecracker import API, Firecracker
from banger.backends.vmm.qemu import Qemu
from banger.host.meters import PIPE
from banger.host.stream import Stream
from banger.model.errors import GuestFailed, VmmFailed, WrongState
from banger.testing import FakeHost
from tests.place import OTTER, Place, result, until
from tests.unit.test_firecracker import PART, VM

REPORT = b'{"utc_timestamp_ms":1,"block":{"write_bytes":4096}}\n'


class Flushed:
    """A Firecracker that has these reports to give, one at each flush, and then refuses."""

    def __init__(self, root: Path) -> None:
        self.fake = FakeHost(root)
        self.backend = Firecracker(self.fake.host)
        self.reports: list[bytes] = []
        self.heard: list[bytes] = []
        self.folder = self.fake.paths.vm_run(VM)
        self.folder.mkdir(parents=True)
        self.fake.dialer.listen(self.folder / API, self.serve)

    def begin(self) -> None:
        self.fake.host.meters.prepare(VM)
        assert self.fake.host.meters.start(VM)
        self.pipe = os.open(self.folder / PIPE, os.O_RDWR | os.O_NONBLOCK)

    async def serve(self, stream: Stream) -> None:
        self.heard.append(await stream.read(1 << 16))
        if self.reports:
            os.write(self.pipe, self.reports.pop(0))
            await stream.write(b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n")
        else:
            body = b'{"fault_message":"no room"}'
            await stream.write(b"HTTP/1.1 400 \r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@pytest.fixture
async def firecracker(tmp_path: Path) -> AsyncIterator[Flushed]:
    made = Flushed(tmp_path)
    yield made
    made.fake.host.meters.remove(VM)
    await made.fake.dialer.aclose()


async def test_a_report_is_asked_for_and_added(firecracker: Flushed) -> None:
    firecracker.begin()
    firecracker.reports = [REPORT, REPORT]
    first = await firecracker.backend.metrics(PART)
    assert (first.reports, first.disk_written_bytes) == (1, 4096)
    assert (await firecracker.backend.metrics(PART)).disk_written_bytes == 8192
    head, _, body = firecracker.heard[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /actions HTTP/1.1")
    assert body == b'{"action_type":"FlushMetrics"}'


async def test_after_a_full_pipe_it_is_asked_once_more(firecracker: Flushed) -> None:
    firecracker.begin()
    firecracker.reports = [b'{"utc_timestamp_ms":1,"bl' + REPORT, REPORT]
    assert (await firecracker.backend.metrics(PART)).disk_written_bytes == 4096


async def test_nonsense_and_refusals_are_told(firecracker: Flushed) -> None:
    firecracker.begin()
    firecracker.reports = [b"x\n", b"y\n"]
    with pytest.raises(VmmFailed, match="reports make no sense"):
        await firecracker.backend.metrics(PART)
    with pytest.raises(VmmFailed, match="refused PUT /actions: no room"):
        await firecracker.backend.metrics(PART)


async def test_one_that_was_started_without_says_so(firecracker: Flushed) -> None:
    with pytest.raises(WrongState, match="did not read metrics"):
        await firecracker.backend.metrics(PART)
    assert firecracker.heard == []


async def test_one_that_has_gone_says_so(firecracker: Flushed) -> None:
    firecracker.begin()
    firecracker.fake.dialer.deaf(firecracker.folder / API)
    with pytest.raises(GuestFailed, match="cannot reach"):
        await firecracker.backend.metrics(PART)


async def test_what_counts_nothing_says_so_and_what_does_not_run_too(place: Place) -> None:
    assert isinstance(Firecracker(place.host), Metered)
    assert not isinstance(Qemu(place.host), Metered)
    daemon = await place.daemon()
    made = await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    with pytest.raises(WrongState, match="machine otter runs in qemu, which counts nothing"):
        await daemon.vms.metrics("otter")
    await daemon.vms.kill("otter", signal="STOP")
    with pytest.raises(WrongState, match="machine otter is frozen"):
        await daemon.vms.metrics("otter")
    await daemon.vms.delete("otter")
    await until(lambda: not place.fake.paths.vm_run(made.id).exists())
