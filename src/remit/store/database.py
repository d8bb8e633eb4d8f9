"""The database file: opened, brought up to date, and locked down.

SQLite waits for a lock only when told (`busy_timeout`), starts a transaction lazily (so two readers that then write
deadlock) and makes files after the umask. Here: WAL, every transaction takes the write lock at its start, file 0600,
foreign failures become `Unavailable`. Migrations run forward at start, after a backup; a database written by a newer
Remit is refused, never guessed at. What is committed is on disk (`synchronous=FULL`): a revocation survives kill -9.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError

from remit.core.errors import Conflict, Unavailable
from remit.store.repositories import Unit

REVISION = "0007"
"""The schema that this code knows: the newest in `migrations/versions`."""
BUSY_TIMEOUT_MS = 5000


class Database:
    """Implements `control.ports_control.Store` on a SQLite file. Used from one event loop: transactions are short."""

    def __init__(self, path: Path) -> None:
        """Open `path`, creating or migrating it. `Conflict`: a newer Remit wrote it. `Unavailable`: no access."""
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            path.chmod(0o600)
        except OSError as error:
            raise Unavailable(f"the database {path} cannot be opened: {error.strerror}", hint="remit doctor") from error
        self._engine = _engine(path)
        try:
            with _translated(path):
                self._migrate()
        except BaseException:
            self._engine.dispose()
            raise

    @contextlib.contextmanager
    def unit(self) -> Iterator[Unit]:
        """See `control.ports_control.Store.unit`."""
        with _translated(self.path), self._engine.begin() as connection:
            yield Unit(connection)

    def close(self) -> None:
        self._engine.dispose()

    def _migrate(self) -> None:
        with self._engine.begin() as connection:
            found = _revision(connection)
        if found == REVISION:
            return
        from remit.store import migrations  # Alembic takes 100 ms to import: only when there is something to migrate

        if found is not None:
            if found not in migrations.known():
                raise Conflict(
                    f"the database {self.path} was written by a newer version of Remit (schema {found})",
                    hint="install that version, or restore a backup that lies beside the database",
                )
            self._back_up(found)
        with self._engine.begin() as connection:
            migrations.upgrade(connection)

    def _back_up(self, revision: str) -> None:
        target = self.path.with_name(f"{self.path.name}.before-{REVISION}-from-{revision}")
        try:
            os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600))
            with (
                contextlib.closing(sqlite3.connect(self.path)) as old,
                contextlib.closing(sqlite3.connect(target)) as new,
            ):
                old.backup(new)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(
                f"the database is not brought up to date: its backup {target} cannot be written: {error}",
                hint="free some disk",
            ) from error


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # or pysqlite begins transactions by itself, too late
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _revision(connection: Connection) -> str | None:
    if "alembic_version" not in inspect(connection).get_table_names():
        return None
    value = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return str(value) if value is not None else None


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise Unavailable(f"the database {path} cannot be used: {error.orig}", hint="remit doctor") from error
