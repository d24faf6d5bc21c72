"""Intent: which machines there are to be, saved before the host is touched. What really is, the host says; nothing seen is stored here.

A row's phase says what a restarted daemon does with it: `creating` and `deleting` rows are undone, `kept` ones adopted.
"""

from __future__ import annotations

from enum import StrEnum

from banger.host.sqlite import Conflict, Database, Value
from banger.model import codec
from banger.model.errors import AlreadyExists, Corrupt
from banger.model.ids import VmId
from banger.model.vm import VmPlan

MIGRATIONS = ("CREATE TABLE vms (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, phase TEXT NOT NULL, plan BLOB NOT NULL) STRICT",)


class Phase(StrEnum):
    """How far a machine's intent has come."""

    CREATING = "creating"
    KEPT = "kept"
    DELETING = "deleting"


class Store:
    """The table of machines."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, plan: VmPlan) -> None:
        """Save a plan as `creating`; AlreadyExists when the name is taken."""
        values = (plan.id, plan.name, Phase.CREATING, codec.encode(plan))
        try:
            self.database.execute("INSERT INTO vms VALUES (?, ?, ?, ?)", values)
        except Conflict as error:
            raise name_taken(plan.name) from error

    def mark(self, vm: VmId, phase: Phase) -> None:
        """Change a row's phase."""
        self.database.execute("UPDATE vms SET phase = ? WHERE id = ?", (phase, vm))

    def change(self, plan: VmPlan) -> None:
        """Save a plan again; its name stays."""
        self.database.execute("UPDATE vms SET plan = ? WHERE id = ?", (codec.encode(plan), plan.id))

    def drop(self, vm: VmId) -> None:
        """Forget a machine; missing is success. A row that comes back after a power cut is one of a machine that is to go, and goes again."""
        self.database.execute("DELETE FROM vms WHERE id = ?", (vm,), durable=False)

    def load(self) -> list[tuple[VmPlan, Phase]]:
        """Every row in the order of creation; Corrupt names the machine whose plan cannot be read."""
        rows = self.database.execute("SELECT id, phase, plan FROM vms ORDER BY rowid")
        return [_loaded(*row) for row in rows]


def _loaded(vm: Value, phase: Value, plan: Value) -> tuple[VmPlan, Phase]:
    """STRICT tables guarantee the types; a row that has others was not written by us."""
    if not (isinstance(vm, str) and isinstance(phase, str) and isinstance(plan, bytes) and phase in list(Phase)):
        raise Corrupt(f"the row of machine {vm!r} is not of our making")
    return codec.decode(plan, VmPlan, what=f"machine {vm}"), Phase(phase)


def name_taken(name: str) -> AlreadyExists:
    """The error for a name that another machine has."""
    return AlreadyExists(f"there is a machine {name} already", hint=f"choose another --name, or run: banger vm delete {name}")
