"""Blocks of the index on the disk: one SQLite file, written a whole block at a time."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from array import array
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from remit.audit import postings
from remit.audit.postings import Block, Kinship, Term
from remit.core.errors import Unavailable

VERSION = 4
CACHED = 32
"""Blocks whose places and times stay in memory (256 KB each)."""
_BUSY_S = 10.0
_META = "number, records, since, until, first_id, last_id"
_SCHEMA = f"""
CREATE TABLE block (
  number INTEGER PRIMARY KEY, records INTEGER, since INTEGER, until INTEGER, first_id TEXT, last_id TEXT,
  segment INTEGER, offset INTEGER, seq INTEGER, opening TEXT, unreadable INTEGER, places BLOB, times BLOB
);
CREATE TABLE posting (
  id INTEGER PRIMARY KEY, name TEXT, value TEXT, block INTEGER, records INTEGER, positions BLOB
);
CREATE INDEX by_value ON posting (name, value, block);
CREATE TABLE completion (decision TEXT PRIMARY KEY, seq INTEGER) WITHOUT ROWID;
CREATE TABLE kinship (above TEXT, task TEXT, PRIMARY KEY (above, task)) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far the log was taken in: up to `offset` of a segment, whose first line's hash is `opening`; `seq` is the
    last record's. `unreadable`: lines since the last block that are no records."""

    segment: int = 0
    offset: int = 0
    seq: int = 0
    opening: str = ""
    unreadable: int = 0


class Blocks:
    """Not thread-safe. Every method but `close` raises `Unavailable` where the disk refuses."""

    def __init__(self, file: Path) -> None:
        try:
            file.touch(mode=0o600)
            try:
                self._database = _connected(file)
            except sqlite3.DatabaseError:
                for stale in (file, *(file.with_name(file.name + end) for end in ("-wal", "-shm"))):
                    stale.unlink(missing_ok=True)
                file.touch(mode=0o600)
                self._database = _connected(file)
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"the audit index {file} cannot be used: {error}", hint="remit doctor") from error
        self._cache: OrderedDict[int, Block] = OrderedDict()
        self._known = {block.number: block for block in self._all()}

    def close(self) -> None:
        self._database.close()

    def clear(self) -> None:
        """Forget everything."""
        with self._changing():
            for table in ("block", "posting", "completion", "kinship"):
                self._database.execute(f"DELETE FROM {table}")  # noqa: S608
        self._cache.clear()
        self._known.clear()

    def mark(self) -> Mark:
        """Where the last block ends."""
        sql = "SELECT segment, offset, seq, opening FROM block ORDER BY number DESC LIMIT 1"
        rows = self._read(sql)
        return Mark(segment=rows[0][0], offset=rows[0][1], seq=rows[0][2], opening=rows[0][3]) if rows else Mark()

    def add(self, block: Block, end: Mark) -> None:
        """A full block; the next one begins at `end`."""
        meta = (block.number, block.records, block.since, block.until, block.first_id, block.last_id)
        mark = (end.segment, end.offset, end.seq, end.opening, end.unreadable)
        terms = [(name, value, block.number, len(at), postings.packed(at)) for (name, value), at in block.terms.items()]
        with self._changing():
            self._database.execute(
                "INSERT OR REPLACE INTO block VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (*meta, *mark, block.places.tobytes(), block.times.tobytes()),
            )
            self._database.executemany(
                "INSERT INTO posting (name, value, block, records, positions) VALUES (?,?,?,?,?)", sorted(terms)
            )
            self._database.executemany(
                "INSERT OR IGNORE INTO completion VALUES (?, ?)", sorted(block.completions.items())
            )
            self._database.executemany("INSERT OR IGNORE INTO kinship VALUES (?, ?)", sorted(block.kinship))
        self._known[block.number] = _bare(meta)

    def forget(self, below: int, tasks: Collection[str]) -> None:
        """Drop the blocks before number `below`, and who stands above a task of which no record is left. `tasks`: those
        with records that are not in a block yet."""
        with self._changing():
            self._database.execute("DELETE FROM block WHERE number < ?", (below,))
            self._database.execute("DELETE FROM posting WHERE block < ?", (below,))
            self._database.execute("DELETE FROM completion WHERE seq < ?", (below * postings.BLOCK,))
            left = "SELECT value FROM posting WHERE name = 'task' UNION SELECT value FROM json_each(?)"
            self._database.execute(f"DELETE FROM kinship WHERE task NOT IN ({left})", (_listed(tasks),))  # noqa: S608
        for number in [number for number in self._known if number < below]:
            del self._known[number]
            self._cache.pop(number, None)

    def block(self, number: int) -> Block:
        """One that was written, with its places and times."""
        found = self._cache.pop(number, None)
        if found is None:
            ((places, times),) = self._read("SELECT places, times FROM block WHERE number = ?", number)
            found = self._known[number]
            found = Block(
                number=number, places=array("Q", places), times=array("q", times), records=found.records,
                since=found.since, until=found.until, first_id=found.first_id, last_id=found.last_id,
            )  # fmt: skip
        self._cache[number] = found
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return found

    def holding(self, start: str) -> Iterator[int]:
        """Numbers of blocks that may have an id that begins with `start`."""
        return (
            one.number for one in list(self._known.values()) if one.first_id <= start + "\x7f" and one.last_id >= start
        )

    def matching(
        self,
        terms: Sequence[tuple[str, Collection[str]]],
        first: int,
        last: int,
        since: int | None,
        until: int | None,
        *,
        upwards: bool,
    ) -> Iterator[tuple[Block, int]]:
        """(block, bits), of blocks `first` to `last` that have something within the time. A term is the name of a field
        and values; a record has all terms, and of each one of the values."""
        cursors = [
            self._positions((name, next(iter(values))), first, last, upwards=upwards)
            if len(values) == 1
            else self._united(name, values, first, last, upwards=upwards)
            for name, values in terms
        ]
        for number, bits in _common(cursors, upwards=upwards):
            meta = self._known[number]
            early = since is not None and meta.until < since
            late = until is not None and meta.since >= until
            if bits and not early and not late:
                yield self.block(number), bits

    def below(self, task: str, fresh: Collection[Kinship]) -> frozenset[str]:
        """`task`, and all that stand below it. `fresh`: what is not in a block yet."""
        found, known = frozenset({task}), frozenset[str]()
        sql = (
            "WITH RECURSIVE found(task) AS (SELECT value FROM json_each(?) UNION "
            "SELECT kinship.task FROM kinship JOIN found ON kinship.above = found.task) SELECT task FROM found"
        )
        while found != known:
            known = frozenset(one for (one,) in self._read(sql, _listed(found)))
            found = known.union(below for above, below in fresh if above in known)
        return found

    def completion(self, decision: str) -> int | None:
        rows = self._read("SELECT seq FROM completion WHERE decision = ?", decision)
        return int(rows[0][0]) if rows else None

    def counts(self, name: str) -> dict[str, int]:
        """Records by value of a field."""
        return dict(self._read("SELECT value, sum(records) FROM posting WHERE name = ? GROUP BY value", name))

    def totals(self) -> tuple[int, int, int, int]:
        """(records, lines that are none, first and last time in microseconds)"""
        sql = "SELECT sum(records), sum(unreadable), min(since), max(until) FROM block"
        records, unreadable, since, until = self._read(sql)[0]
        return (records, unreadable, since, until) if records is not None else (0, 0, 1 << 62, -1)

    def _all(self) -> Iterator[Block]:
        return map(_bare, self._read(f"SELECT {_META} FROM block"))  # noqa: S608

    def _united(
        self, name: str, values: Collection[str], first: int, last: int, *, upwards: bool
    ) -> Iterator[tuple[int, bytes]]:
        """As `_positions`, of records that have any of these values; what is kept of a block is read in its turn."""
        sql = (
            "SELECT block, posting.id FROM json_each(?) CROSS JOIN posting "
            "WHERE name = ? AND posting.value = json_each.value AND block BETWEEN ? AND ?"
        )
        rows = sorted(self._read(sql, _listed(values), name, first, last), reverse=not upwards)
        for block, of_block in itertools.groupby(rows, itemgetter(0)):
            stored = [self._read("SELECT positions FROM posting WHERE id = ?", row)[0][0] for _, row in of_block]
            yield block, postings.merged(stored)

    def _positions(self, term: Term, first: int, last: int, *, upwards: bool) -> Iterator[tuple[int, bytes]]:
        order = "ASC" if upwards else "DESC"
        where = "name = ? AND value = ? AND block BETWEEN ? AND ?"
        sql = f"SELECT block, positions FROM posting WHERE {where} ORDER BY block {order}"  # noqa: S608
        try:
            yield from self._database.execute(sql, (*term, first, last))
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise _unavailable(error) from error

    def _read(self, sql: str, *values: Any) -> list[Any]:
        try:
            return self._database.execute(sql, values).fetchall()
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise _unavailable(error) from error

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.Error as error:
            raise _unavailable(error) from error


def _common(cursors: list[Iterator[tuple[int, bytes]]], *, upwards: bool) -> Iterator[tuple[int, int]]:
    """Where all cursors have the same block: its number, and the bits that all of them have."""
    furthest = max if upwards else min
    heads = [next(cursor, None) for cursor in cursors]
    while heads and all(heads):
        present = [head for head in heads if head is not None]
        number = furthest(head[0] for head in present)
        together = all(head[0] == number for head in present)
        if together:
            bits = postings.EVERY
            for _, stored in present:
                bits &= postings.unpacked(stored)
            yield number, bits
        heads = [
            next(cursor, None) if together or head[0] != number else head
            for cursor, head in zip(cursors, present, strict=True)
        ]


def _listed(values: Collection[str]) -> str:
    return json.dumps(sorted(values))


def _bare(meta: tuple[Any, ...]) -> Block:
    number, records, since, until, first_id, last_id = meta
    return Block(
        number=number, places=array("Q"), times=array("q"), records=records, since=since, until=until,
        first_id=first_id, last_id=last_id,
    )  # fmt: skip


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(f"the audit index cannot be used: {error}", hint="remit doctor; check the disk")


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
