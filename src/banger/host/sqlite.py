"""SQLite: one connection, one writer, WAL. Opens with ordered migrations, each in a transaction.

Refuses what a newer banger wrote and what is no database, and changes no byte of either. Whoever opens a database closes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from banger.host.files import explain
from banger.model.errors import Corrupt, NewerSchema, NoSpace

Value = str | bytes | int | None
Row = tuple[Value, ...]
BUSY_MS = 5000
HINT = "move the file away to start anew (machines in it are then unknown to banger)"


class Conflict(Exception):
    """A row with the same key is there already."""


class Database(Protocol):
    """A database that is open."""

    def execute(self, statement: str, values: Sequence[Value] = (), *, durable: bool = True) -> list[Row]:
        """Run one statement in a transaction of its own; on disk when it returns. Conflict when a unique value is taken.

        One that need not be `durable` lasts as long as the host stays up, and is on disk at the latest with the next that is.
        """

    def close(self) -> None:
        """Close it; twice is once."""


class Databases(Protocol):
    """How databases are opened."""

    def open(self, path: Path, migrations: Sequence[str]) -> Database:
        """Open for writing, bringing the schema up to date; Corrupt or NewerSchema name the file."""

    def probe(self, path: Path, migrations: Sequence[str]) -> str:
        """What doctor says of it without changing a byte: empty when the file is absent or fine, else what is wrong."""


class RealDatabase:
    """One sqlite3 connection in autocommit mode: each statement is its own transaction."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self.connection = path, connection

    def execute(self, statement: str, values: Sequence[Value] = (), *, durable: bool = True) -> list[Row]:
        """See Database. Without `synchronous = FULL` a WAL is synchronised when it is copied back, and not at each commit (sqlite.org/pragma.html)."""
        try:
            if durable:
                return self.connection.execute(statement, values).fetchall()
            self.connection.execute("PRAGMA synchronous = NORMAL")
            try:
                return self.connection.execute(statement, values).fetchall()
            finally:
                self.connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.IntegrityError as error:
            raise Conflict(str(error)) from error
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise NoSpace(f"no space left for {self.path}", hint="free some space, or run: banger vm prune") from error
            raise Corrupt(f"database {self.path}: {error}") from error

    def close(self) -> None:
        """See Database."""
        self.connection.close()


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(migrations):
        raise NewerSchema(f"database {path} has schema {version}, this banger knows {len(migrations)}", hint="use the newer banger that wrote it")
    for number, statement in enumerate(migrations[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            connection.execute("ROLLBACK")
            raise


def _reading(path: Path) -> str:
    """How to open it so that nothing is written beside it: with its WAL there is somebody to agree with, without it there is nothing to find."""
    return "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"


class RealDatabases:
    """The host's SQLite."""

    def open(self, path: Path, migrations: Sequence[str]) -> Database:
        """See Databases."""
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(path, isolation_level=None)
            path.chmod(0o600)
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            _migrate(connection, path, migrations)
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                raise NoSpace(f"no space left for {path}", hint="free some space") from error
            raise Corrupt(f"database {path} cannot be opened: {error}", hint=HINT) from error
        except (OSError, NewerSchema) as error:
            if connection is not None:
                connection.close()
            raise explain(error, path) if isinstance(error, OSError) else error from None
        return RealDatabase(path, connection)

    def probe(self, path: Path, migrations: Sequence[str]) -> str:
        """See Databases."""
        if not path.exists():
            return ""
        try:
            connection = sqlite3.connect(f"file:{quote(str(path))}?{_reading(path)}", uri=True)
        except sqlite3.Error as error:
            return str(error)
        try:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            trouble = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        except sqlite3.Error as error:
            return str(error)
        finally:
            connection.close()
        if version > len(migrations):
            return f"written by a newer banger (schema {version}, known {len(migrations)})"
        return "" if trouble == "ok" else trouble
