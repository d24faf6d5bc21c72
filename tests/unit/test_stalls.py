"""A machine that a full disk has halted, on a pretended host."""

from __future__ import annotations

import pytest

from banger.daemon import stalls
from banger.model.errors import NoSpace
from banger.model.vm import VmState
from tests.place import OTTER, Place, result, until


async def test_a_machine_that_a_full_disk_has_halted_says_so_and_goes_on_when_there_is_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalls, "PAUSE", 0.01)
    monkeypatch.setattr(stalls, "ROOM", 1 << 80)
    daemon = await place.daemon()
    status = await result(await daemon.vms.create(OTTER, start=True, wait="agent"))
    halt = place.fake.qemu.halts[status.id]
    await until(lambda: len(halt.followers) == 1)
    await halt.set(True)
    await until(lambda: daemon.vms.show("otter").state is VmState.PAUSED)
    assert "no space left for" in daemon.vms.show("otter").note
    with pytest.raises(NoSpace, match="machine otter is paused"):
        await daemon.vms.open("otter", {"op": "exec"})
    successor = await place.daemon()
    await until(lambda: successor.vms.show("otter").state is VmState.PAUSED)
    monkeypatch.setattr(stalls, "ROOM", 0)
    await until(lambda: successor.vms.show("otter").state is VmState.RUNNING)
    assert (halt.halted, successor.vms.show("otter").note) == (False, "")
    await successor.vms.delete("otter")
    await until(lambda: halt.followers == [])
