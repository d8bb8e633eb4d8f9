"""The query index over the log: a copy that can be thrown away and built again.

It follows the segments by position, joins a completion to its decision, and answers filtered queries. The log is the
truth: `hash` and `prev` in an answer are those of the decision's own line.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from remit.audit import record, segments
from remit.core.errors import Conflict, NotFound

FIELDS = (
    *("id", "time", "task", "role", "decision", "reason", "capability", "credential", "method", "scheme", "host"),
    *("port", "path", "status", "bytes_out", "bytes_in", "duration_ms", "prev", "hash"),
)
"""What every listed record has, in this order; others follow."""

_COLUMNS = ("kind", "task", "role", "decision", "reason", "capability", "credential", "host")
MAX_LIMIT = 1000
_BATCH = 5000
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS record (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, time TEXT NOT NULL,
  {", ".join(f"{name} TEXT" for name in _COLUMNS)}, line TEXT NOT NULL, hash TEXT NOT NULL, completion TEXT
);
CREATE INDEX IF NOT EXISTS by_task ON record (task, seq);
CREATE INDEX IF NOT EXISTS by_host ON record (host, seq);
CREATE INDEX IF NOT EXISTS by_decision ON record (decision, seq);
CREATE INDEX IF NOT EXISTS by_kind ON record (kind, seq);
CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY CHECK (one = 1), segment INTEGER, offset INTEGER);
PRAGMA user_version = 1;
"""


class Index:
    """Thread-safe; every call may block on the disk, so call it from a thread."""

    def __init__(self, file: Path) -> None:
        self._lock = threading.Lock()
        file.touch(mode=0o600)
        self._database = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_SCHEMA}")

    def close(self) -> None:
        self._database.close()

    def ingest(self, directory: Path) -> int:
        """Take in what was written since the last time; how many lines that were."""
        with self._lock:
            row = self._database.execute("SELECT segment, offset FROM position").fetchone()
            segment, offset = row or (1, 0)
            if not directory.exists():
                return 0
            taken = 0
            for number in segments.numbers(directory):
                if number < segment:
                    continue
                start = offset if number == segment else 0
                for batch, end in _batches(segments.path(directory, number), start):
                    self._take(batch, number, end)
                    taken += len(batch)
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
        """Records, newest first (oldest first where `after`, a sequence number, is given). Filters are equalities."""
        where, values = ["kind != 'completion'"], list[Any]()
        for name, value in (filters or {}).items():
            if name not in _COLUMNS:
                raise ValueError(f"no filter {name}")
            where.append(f"{name} = ?")
            values.append(value)
        for clause, bound in (("time >= ?", since), ("time < ?", until), ("seq < ?", before), ("seq > ?", after)):
            if bound is not None:
                where.append(clause)
                values.append(bound)
        order = "ASC" if after is not None else "DESC"
        sql = f"SELECT line, hash, completion FROM record WHERE {' AND '.join(where)} ORDER BY seq {order} LIMIT ?"  # noqa: S608
        with self._lock:
            rows = self._database.execute(sql, (*values, max(1, min(limit, MAX_LIMIT)))).fetchall()
        return [_listed(*row) for row in rows]

    def get(self, prefix: str) -> dict[str, Any]:
        """The one record whose id begins with `prefix`. `NotFound`, or `Conflict` where several do."""
        with self._lock:
            rows = self._database.execute(
                "SELECT line, hash, completion FROM record WHERE id >= ? AND id < ? LIMIT 2", (prefix, prefix + "\x7f")
            ).fetchall()
        if not rows or not prefix:
            raise NotFound(f"there is no record {prefix!r}", hint="remit audit list")
        if len(rows) > 1:
            raise Conflict(f"several records begin with {prefix!r}", hint="give more of the id")
        return _listed(*rows[0])

    def last(self) -> int:
        """The sequence number of the newest record taken in; 0 where there is none."""
        with self._lock:
            return int(self._database.execute("SELECT coalesce(max(seq), 0) FROM record").fetchone()[0])

    def _take(self, batch: list[bytes], segment: int, end: int) -> None:
        self._database.execute("BEGIN")
        try:
            for text in batch:
                values = json.loads(text)
                columns = [values.get(name) for name in _COLUMNS]
                self._database.execute(
                    f"INSERT OR IGNORE INTO record VALUES ({','.join('?' * (len(_COLUMNS) + 6))})",  # noqa: S608
                    (values["seq"], values["id"], values["time"], *columns, text.decode(), record.digest(text), None),
                )
                if values["kind"] == "completion":
                    done = {k: v for k, v in values.items() if k not in ("seq", "id", "kind", "prev", "record")}
                    self._database.execute(
                        "UPDATE record SET completion = ? WHERE id = ?", (json.dumps(done), values.get("record"))
                    )
            self._database.execute("INSERT OR REPLACE INTO position VALUES (1, ?, ?)", (segment, end))
            self._database.execute("COMMIT")
        except BaseException:
            self._database.execute("ROLLBACK")
            raise


def _batches(file: Path, offset: int) -> Iterator[tuple[list[bytes], int]]:
    batch: list[bytes] = []
    end = offset
    for at, text in segments.lines(file, offset):
        batch.append(text)
        end = at + len(text) + 1
        if len(batch) == _BATCH:
            yield batch, end
            batch = []
    if batch:
        yield batch, end


def _listed(line: str, digest: str, completion: str | None) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(line)
    values["hash"] = digest
    if completion is not None:
        done = json.loads(completion)
        values["completed"] = done.pop("time", None)
        values.update(done)
    listed = {name: values.get(name) for name in FIELDS}
    return {**listed, **{name: value for name, value in values.items() if name not in listed}}
