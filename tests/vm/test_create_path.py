"""Creating a machine starts its VMM (and what its network consists of) and no other process: each start of one is what makes creation slow."""

from __future__ import annotations

import re

from tests.vm.modes import Stage

#: How many processes of its own each network has.
OF_NETWORK = {"none": 0, "user": 1, "bridge": 0}


def test_the_daemon_starts_no_process_but_the_vmm_and_the_networks_own(stage: Stage) -> None:
    before = len(stage.world.log())
    stage.world.ok("vm", "create", "--name", "otter")
    lines = stage.world.log()[before:].splitlines()
    ran = [line for line in lines if re.search(r"banger\.host\.proc: (run|spawn in .*?): ", line)]
    assert len(ran) == 1 + OF_NETWORK[str(stage.world.row("otter")["network"])], "\n".join(ran)
    machine = [line for line in ran if re.search(r"(qemu-system-x86_64|firecracker|jailer) ", line)]
    assert len(machine) == 1, "\n".join(ran)
