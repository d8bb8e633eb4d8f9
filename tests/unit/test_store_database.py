"""The database file itself: who may read it, and what happens when versions or disks do not fit."""

from __future__ import annotations

import sqlite3
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from remit.control.ports_control import Head
from remit.core.errors import Conflict, Unavailable
from remit.store import database, migrations, repositories, tables
from remit.store.database import Database


def test_only_the_owner_can_read_the_database_and_its_journal(tmp_path: Path) -> None:
    store = Database(tmp_path / "remit.db")
    with store.unit() as unit:
        unit.next_cell()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    store.close()
    assert modes == {"remit.db": 0o600, "remit.db-wal": 0o600, "remit.db-shm": 0o600}


def test_a_database_of_a_newer_version_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "remit.db"
    Database(path).close()
    _set_revision(path, "9999")
    with pytest.raises(Conflict, match="newer version of Remit") as caught:
        Database(path)
    assert "restore a backup" in caught.value.hint


def test_a_migration_makes_a_private_backup_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "remit.db"
    Database(path).close()
    now = database.REVISION
    monkeypatch.setattr(database, "REVISION", "9998")
    monkeypatch.setattr(migrations, "upgrade", lambda connection: None)
    Database(path).close()
    backup = tmp_path / f"remit.db.before-9998-from-{now}"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with sqlite3.connect(backup) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (now,)
    connection.close()


def test_a_backup_that_cannot_be_written_is_told_and_nothing_is_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, now = tmp_path / "remit.db", database.REVISION
    Database(path).close()
    monkeypatch.setattr(database, "REVISION", "9998")
    (tmp_path / f"remit.db.before-9998-from-{now}").mkdir()
    with pytest.raises(Unavailable, match=r"its backup .* cannot be written: .*Is a directory"):
        Database(path)


def test_the_newest_migration_is_the_schema_that_the_code_knows(tmp_path: Path) -> None:
    path = tmp_path / "remit.db"
    Database(path).close()
    assert database.REVISION in migrations.known()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    engine.dispose()


def test_a_file_that_is_no_database_is_unavailable_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "remit.db"
    path.write_bytes(b"not a database, but somebody's letter" * 100)
    before = path.read_bytes()
    with pytest.raises(Unavailable) as caught:
        Database(path)
    assert caught.value.hint == "remit doctor"
    assert path.read_bytes() == before


def test_a_link_in_the_place_of_the_database_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "remit.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable):
        Database(tmp_path / "remit.db")


def test_what_was_committed_is_there_after_opening_again(tmp_path: Path) -> None:
    first = Database(tmp_path / "remit.db")
    with first.unit() as unit:
        cell = unit.next_cell()
    first.close()
    second = Database(tmp_path / "remit.db")
    with second.unit() as unit:
        assert unit.next_cell() == cell + 1
    second.close()


def _set_revision(path: Path, revision: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()


def test_a_head_that_is_known_already_costs_no_other_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite says of an insert that did nothing which row the connection inserted last, of whatever table."""
    monkeypatch.setattr(repositories, "HEADS_KEPT", 2)
    store, now = Database(tmp_path / "remit.db"), datetime(2026, 11, 25, tzinfo=UTC)
    with store.unit() as unit:
        for seq in (1, 2, 3):
            unit.heads.add(Head(seq=seq, hash="h", received=now))
        unit._connection.execute(text("INSERT INTO meta (rowid, key, value) VALUES (1000, 'k', 'v')"))
        unit.heads.add(Head(seq=3, hash="h", received=now))
        assert [head.seq for head in unit.heads.all()] == [2, 3]
    store.close()
