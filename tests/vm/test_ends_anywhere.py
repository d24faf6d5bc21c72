"""A daemon dies before any change that it makes of the host, while it creates, starts, stops or deletes a machine; or its machine's VMM does.

What test_sudden_ends.py tells of stages, with guests that work, is told here of every step between them. A VMM is really started each time, its guest
is not waited for: by then all is done that the daemon does to the host. So a place costs a quarter of a second, and none is left out because nobody
thought of it. What the guest wrote before is there after.

Which modes: disks and networks do not know each other, each has one part in a machine's coming and one in its going, and all other steps are the same
in every mode. So every disk and every network is met in one mode at least, and not each with each; `overlay` on `none` has no step of its own. What
only the lab machine has is met there: device-mapper, and Firecracker with its jail, its control group and its networks. There one place in several is
come to: those of device-mapper itself are come to one by one in tests/lab/inside/test_devmapper.py, those of the bridge in
tests/contract/test_helper_ends.py.

The helper makes changes of links, firewall and maps and nothing else, and machines of other modes have none. Before each change and before each answer
it dies in tests/contract/test_helper_ends.py (bridge) and tests/lab/inside/test_helper_ends.py (device-mapper); in the midst of a creation, a stop, a
start, a change and a deletion, with both, in tests/lab/inside/test_system.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from banger.model.errors import BangerError
from tests.doomed import Doomed
from tests.vm.modes import Stage, staged
from tests.world import each_event, until

#: The modes, and of how many places one is come to. In the lab machine a place takes ten times as long.
HERE = {("overlay", "bridge"): 1, ("overlay", "user"): 1, ("reflink", "none"): 1}
LAB = {("devmapper", "bridge"): 11, ("overlay", "user"): 26}
STEPS = LAB if os.environ.get("BANGER_LAB") else HERE
#: So many places there are at least.
LEAST = {"vm.create": 7, "vm.start": 4, "vm.stop": 5, "vm.delete": 8}


def nothing() -> None:
    """What needs to be done before."""


class Ends:
    """A machine, daemons that come to an end, and the host as it was before there was any machine, and with one that does not run."""

    def __init__(self, stage: Stage, daemons: Doomed, step: int) -> None:
        self.stage, self.world, self.daemons, self.step = stage, stage.world, daemons, step
        self.none = self.stopped = stage.before

    def begin(self, operation: str, **parameters: object) -> bool:
        """Whether it comes to where a VMM runs and its guest is waited for; somebody's end is the only reason why not."""
        with suppress(BangerError, OSError, ValueError):
            for event in each_event(self.world.client().stream(operation, **parameters)):
                if event["stage"] == "agent":
                    return True
        return False

    def call(self, operation: str, **parameters: object) -> bool:
        """Whether it is done."""
        with suppress(BangerError, OSError, ValueError):
            self.world.client().call(operation, vm="otter", **parameters)
            return True
        return False

    def make(self) -> None:
        """A machine that does not run."""
        for _ in self.world.client().stream("vm.create", name="otter", start=False):
            pass
        self.stopped = self.stage.seen()

    def write(self) -> None:
        """Something is on its disk that must not be lost."""
        self.world.ok("vm", "start", "otter")
        self.world.ok("vm", "exec", "otter", "--", "sh", "-c", "echo kept > /root/kept")
        self.world.ok("vm", "stop", "otter")
        self.stopped = self.stage.seen()

    def read(self) -> None:
        """It is there; the guest is waited for by another daemon than the one that started it."""
        self.run()
        assert self.world.ok("vm", "exec", "otter", "--", "cat", "/root/kept") == "kept\n"
        assert self.call("vm.stop", force=True)

    def run(self) -> None:
        """It runs, and the daemon has nothing else to do: it has found it like that."""
        assert self.begin("vm.start", vm="otter")
        self.daemons.next()
        assert self.state() == "running"

    def state(self) -> str:
        """The machine's state; empty when there is none."""
        return next((str(row["state"]) for row in self.world.rows()), "")

    def clean(self, place: int) -> None:
        """Nothing is on the host but what a machine that does not run has, if there is one: its disk, and what it said on its console."""
        self.stage.before = self.stopped if self.state() else self.none
        console = {"files": [f"state/banger/vms/{row['id']}/console.log" for row in self.world.rows()]}
        until(lambda: self.stage.left() in ({}, console), "a clean host", instead=lambda: f"place {place}: {self.stage.left()}")

    def each(self, operation: str, come: Callable[[], bool], after: Callable[[], None], before: Callable[[], None] = nothing) -> None:
        """Die at each place of an operation, and after each second one again on the way back; then see what is."""
        place = 1 - self.step
        while True:
            place += self.step
            before()
            self.daemons.die_at(*((place, 1 + place % 5) if place % 2 else (place,)))
            came = come()
            died = self.daemons.next()
            assert came or died, f"{operation} failed at place {place}: {self.world.log()[-3000:]}"
            after()
            self.clean(place)
            if not died:
                break
        assert place > LEAST[operation], place

    def each_of_the_vmm(self, come: Callable[[], bool], after: Callable[[], None]) -> None:
        """Its VMM is killed at each place of an operation at which there is one; whoever wants it gone does not mind."""
        place = 1 - (self.step + 1) // 2
        while True:
            place += (self.step + 1) // 2
            self.run()
            self.daemons.kill_vmm_at(place)
            assert come(), f"place {place}: {self.world.log()[-3000:]}"
            killed = self.daemons.carried_out()
            after()
            self.clean(place)
            if not killed:
                break
        assert place > 1

    def vmm_while_it_boots(self, operation: str, after: Callable[[], None], **parameters: object) -> None:
        """It is killed as soon as there is one, and once its guest is waited for."""
        for stage in ("machine", "agent"):
            with pytest.raises(BangerError):
                self.stage.kill_vmm_at(stage, operation, **parameters)
            after()
            self.clean(0)


@pytest.fixture(params=STEPS, ids="-".join)
def ends(request: pytest.FixtureRequest, short_path: Path, shelf: None) -> Iterator[Ends]:
    """Each mode's in turn."""
    if os.geteuid() != 0:
        pytest.skip("root is needed for the bridge, btrfs and device-mapper")
    with staged(short_path, *request.param) as stage, Doomed(stage.world) as daemons:
        daemons.next()
        stage.before = stage.seen()
        yield Ends(stage, daemons, STEPS[request.param])


def test_whoever_dies_wherever_leaves_a_whole_machine_or_none_and_it_can_be_done_again(ends: Ends) -> None:
    def create() -> bool:
        return ends.begin("vm.create", name="otter")

    def start() -> bool:
        return ends.begin("vm.start", vm="otter")

    def stop() -> bool:
        return ends.call("vm.stop", force=True)

    def delete() -> bool:
        return ends.call("vm.delete")

    def gone() -> None:
        until(lambda: ends.state() == "", "the end of what is not whole")

    def stopped() -> None:
        """Or it runs on, and can be stopped."""
        assert ends.state() in ("running", "stopped")
        assert stop()
        assert ends.state() == "stopped"

    def made() -> None:
        """It is gone, or is still there and can be deleted; there is another one."""
        assert not ends.state() or delete()
        ends.make()

    ends.each("vm.create", create, gone)
    ends.vmm_while_it_boots("vm.create", gone, name="otter")
    ends.make()
    ends.write()
    ends.each("vm.start", start, stopped)
    ends.vmm_while_it_boots("vm.start", stopped, vm="otter")
    ends.each("vm.stop", stop, stopped, before=ends.run)
    ends.each_of_the_vmm(stop, stopped)
    ends.read()
    ends.each("vm.delete", delete, made, before=ends.run)
    ends.each_of_the_vmm(delete, made)
