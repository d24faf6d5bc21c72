"""How a command that is refused must look: one error in words, the next step, its exit status, at once, and no traceback."""

from __future__ import annotations

from tests.world import World

BAD_REQUEST, NOT_FOUND, CONFLICT, HOST_LACKS, GUEST_FAILED, BROKEN, NOT_EXECUTABLE, NO_COMMAND = 120, 121, 122, 123, 124, 125, 126, 127
QUICKLY = 10.0


def refused(world: World, *arguments: str, status: int = BAD_REQUEST, says: str = "", hints: str = "", data: bytes = b"") -> str:
    """The command fails with that exit status and in those words, in no time, says one error and shows no traceback; its stderr."""
    done = world.banger(*arguments, data=data, timeout=QUICKLY)
    said = done.stderr.decode()
    assert done.returncode == status, f"{arguments}: {done.returncode}\n{said}"
    assert says in said
    assert hints in said.partition("hint: ")[2]
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if line.startswith("error: ")]
    assert not done.stdout
    return said
