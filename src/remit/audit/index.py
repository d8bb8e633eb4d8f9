"""The query index over the log: a copy that can be thrown away and built again.

It follows the segments by position, joins a completion to its decision, and answers filtered queries. The log is the
truth: `hash` and `prev` in an answer are those of the decision's own line. Lines that are no records are counted and
passed over: `verify` is who judges them.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remit.audit import record, replay, segments
from remit.core.errors import Conflict, Invalid, NotFound, Unavailable

FIELDS = (
    *("id", "time", "task", "role", "decision", "reason", "capability", "credential", "method", "scheme", "host"),
    *("port", "path", "status", "bytes_out", "bytes_in", "duration_ms", "prev", "hash"),
)
"""What every listed record has, in this order; others follow."""

_COLUMNS = ("kind", "task", "role", "decision", "reason", "capability", "credential", "host")
_UNLISTED = ("completion", segments.HEADER_KIND, replay.CHECKPOINT, "reservation")
"""Kinds that are only listed when asked for: a completion is part of its decision."""
MAX_LIMIT = 1000
VERSION = 2
_BUSY_S = 10.0
_SCHEMA = f"""
CREATE TABLE record (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, time TEXT NOT NULL,
  {", ".join(f"{name} TEXT" for name in _COLUMNS)}, line TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE INDEX by_task ON record (task, seq);
CREATE INDEX by_host ON record (host, seq);
CREATE INDEX by_time ON record (time);
CREATE INDEX by_refusal ON record (decision, reason, seq) WHERE decision = 'deny';
CREATE TABLE completion (decision TEXT PRIMARY KEY, line TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE position (
  one INTEGER PRIMARY KEY CHECK (one = 1), segment INTEGER, offset INTEGER, log TEXT, unreadable INTEGER
);
PRAGMA user_version = {VERSION};
"""
_SELECT = "SELECT r.line, r.hash, c.line FROM record r LEFT JOIN completion c ON c.decision = r.id"
_INSERT = f"INSERT OR IGNORE INTO record VALUES ({','.join('?' * (len(_COLUMNS) + 5))})"  # noqa: S608


class Index:
    """Thread-safe; every call may block on the disk, so call it from a thread."""

    def __init__(self, file: Path) -> None:
        """Open, or make anew where `file` is of another version or no database. `Unavailable`: neither works."""
        self._writing, self._reading = threading.Lock(), threading.Lock()
        file.touch(mode=0o600)
        try:
            self._writer = _connected(file)
        except sqlite3.DatabaseError:
            for stale in (file, *(file.with_name(file.name + end) for end in ("-wal", "-shm"))):
                stale.unlink(missing_ok=True)
            file.touch(mode=0o600)
            try:
                self._writer = _connected(file)
            except sqlite3.Error as error:
                raise Unavailable(f"the audit index {file} cannot be used: {error}", hint="remit doctor") from error
        self._reader = sqlite3.connect(file, timeout=_BUSY_S, check_same_thread=False, isolation_level=None)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def ingest(self, directory: Path) -> int:
        """Take in what was written since the last time; how many lines that were. The log may be written meanwhile."""
        with self._writing:
            log = _first_hash(directory)
            if log is None:
                return 0
            row = self._writer.execute("SELECT segment, offset, log FROM position").fetchone()
            if row is None or row[2] != log:
                self._clear(log)
            segment, offset = (row[0], row[1]) if row is not None and row[2] == log else (1, 0)
            taken = 0
            for number in segments.numbers(directory):
                if number < segment:
                    continue
                for at, lines in segments.blocks(segments.path(directory, number), offset if number == segment else 0):
                    self._take(lines, number, at + sum(map(len, lines)) + len(lines))
                    taken += len(lines)
            return taken

    def query(
        self,
        *,
        filters: Mapping[str, str] | None = None,
        since: str | None = None,
        until: str | None = None,
        before: int | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Records, newest first (oldest first where `after`, a sequence number, is given). Filters are equalities.

        `since` (inclusive) and `until` (exclusive) are stamps as in records. `Invalid`: there is no such filter.
        """
        wanted = dict(filters or {})
        where, values = [], list[Any]()
        if "kind" not in wanted:
            where.append(f"r.kind NOT IN {_UNLISTED}")
        for name, value in wanted.items():
            if name not in _COLUMNS:
                raise Invalid(f"records cannot be filtered by {name[:40]!a}", hint=f"known: {', '.join(_COLUMNS)}")
            where.append(f"r.{name} = ?")
            values.append(value)
        bounds = (("r.time >= ?", since), ("r.time < ?", until), ("r.seq < ?", before), ("r.seq > ?", after))
        for clause, bound in bounds:
            if bound is not None:
                where.append(clause)
                values.append(bound)
        order = "ASC" if after is not None else "DESC"
        sql = f"{_SELECT} WHERE {' AND '.join(where) or '1'} ORDER BY r.seq {order} LIMIT ?"
        return [_listed(*row) for row in self._read(sql, (*values, max(1, min(limit, MAX_LIMIT))))]

    def get(self, prefix: str) -> dict[str, Any]:
        """The one record whose id begins with `prefix` (with or without `r-`). `NotFound`, or `Conflict`."""
        start = prefix if prefix.startswith("r-") else f"r-{prefix}"
        sql = f"{_SELECT} WHERE r.id >= ? AND r.id < ? ORDER BY r.id LIMIT 2"
        rows = self._read(sql, (start, start + "\x7f")) if prefix.isascii() and len(start) > 2 else []
        if not rows:
            raise NotFound(f"there is no record {prefix[:64]!a}", hint="remit audit list")
        found = [_listed(*row) for row in rows]
        if len(found) > 1 and found[0]["id"] != start:
            raise Conflict(f"several records begin with {prefix[:64]!a}", hint="give more of the id")
        return found[0]

    def last(self) -> int:
        """The sequence number of the newest record taken in; 0 where there is none."""
        return int(self._read("SELECT coalesce(max(seq), 0) FROM record", ())[0][0])

    def stats(self) -> dict[str, Any]:
        """Counts: {"records", "unreadable", "kinds": {…}, "decisions": {…}, "reasons": {…}, "first", "last"}."""
        counts = {
            f"{name}s": dict(self._read(f"SELECT {name}, count(*) FROM record WHERE {name} NOT NULL GROUP BY 1", ()))  # noqa: S608
            for name in ("kind", "decision", "reason")
        }
        records, first, last = self._read("SELECT count(*), min(time), max(time) FROM record", ())[0]
        unreadable = self._read("SELECT coalesce(max(unreadable), 0) FROM position", ())[0][0]
        return {"records": records, "unreadable": unreadable, **counts, "first": first, "last": last}

    def _read(self, sql: str, values: Sequence[Any]) -> list[Any]:
        with self._reading:
            return self._reader.execute(sql, values).fetchall()

    def _clear(self, log: str) -> None:
        with self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            for table in ("record", "completion", "position"):
                self._writer.execute(f"DELETE FROM {table}")  # noqa: S608
            self._writer.execute("INSERT INTO position VALUES (1, 1, 0, ?, 0)", (log,))

    def _take(self, lines: list[bytes], segment: int, end: int) -> None:
        rows: list[tuple[Any, ...]] = []
        completions: list[tuple[str, str]] = []
        unreadable = 0
        for raw in lines:
            row = _row(raw)
            if row is None:
                unreadable += 1
                continue
            rows.append(row[0])
            if row[1]:
                completions.append((row[1], row[0][-2]))
        with self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.executemany(_INSERT, rows)
            self._writer.executemany("INSERT OR IGNORE INTO completion VALUES (?, ?)", completions)
            self._writer.execute(
                "UPDATE position SET segment = ?, offset = ?, unreadable = unreadable + ?", (segment, end, unreadable)
            )


def _connected(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, timeout=_BUSY_S, check_same_thread=False, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION) or (not version and database.execute("SELECT 1 FROM sqlite_master").fetchone()):
            raise sqlite3.DatabaseError(f"version {version}")
        if not version:
            database.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
    except BaseException:
        database.close()
        raise
    return database


def _first_hash(directory: Path) -> str | None:
    """What tells one log from another: the hash of its first line; None where there is none yet."""
    file = segments.path(directory, 1)
    if not file.exists():
        return None
    with file.open("rb") as stream:
        first, newline, _ = stream.read(record.MAX_LINE + 1).partition(b"\n")
    return record.digest(first) if newline else None


def _row(raw: bytes) -> tuple[tuple[Any, ...], str | None] | None:
    """(columns, id of the decision that this completes), or None where the line is no record."""
    try:
        values = json.loads(raw)
        seq, record_id, time, kind = values["seq"], values["id"], values["time"], values["kind"]
        if not (0 < seq < 1 << 62 and all(isinstance(text, str) for text in (record_id, time, kind))):
            return None
        columns = [_text(values.get(name)) for name in _COLUMNS]
        row = (seq, record_id, time, *columns, raw.decode("ascii"), record.digest(raw))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    completes = values.get("record") if kind == "completion" else None
    return row, completes if isinstance(completes, str) else None


def _text(value: Any) -> str | None:
    """A column; a lone surrogate, which SQLite cannot store, becomes its escape."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else None


def _listed(line: str, digest: str, completion: str | None) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(line)
    values["hash"] = digest
    if completion is not None:
        done: dict[str, Any] = json.loads(completion)
        done["completed"] = done["time"]
        for name, value in done.items():
            if name not in record.OWN and name != "record":
                values.setdefault(name, value)
    listed = {name: values.get(name) for name in FIELDS}
    return {**listed, **{name: value for name, value in values.items() if name not in listed}}
