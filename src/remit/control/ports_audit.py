"""What the control plane needs of the audit log: to read it. Writing goes through the node alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from remit.control.ports_control import AuditKey, Head

AUDIT_FILTERS = ("kind", "task", "role", "decision", "reason", "capability", "credential", "host")
"""Fields that records can be filtered by."""
KINDS = (
    *("decision", "completion", "operator", "approval", "dns", "boundary", "budget"),
    *("reservation", "checkpoint", "segment"),
)
"""Of all records that are ever written."""
TREE = "tree"
"""Also: a task and every task below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """None matches everything. `tree`: a task; records of it and of every task that ever stood below it. `since` and
    `until` bound a record's time. `after`: the `next` of a former page; "0" begins with the oldest record, None with
    the latest page."""

    task: str | None = None
    tree: str | None = None
    role: str | None = None
    decision: str | None = None
    reason: str | None = None
    capability: str | None = None
    credential: str | None = None
    host: str | None = None
    kind: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPage:
    """Oldest first. Decisions come joined with their completion (`completed` is its time, absent where there is none
    yet). `next`: what to ask for `after` this page; None on the last one."""

    records: Sequence[Mapping[str, Any]]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirable:
    """Segments of the log up to `segment`, which ends with record `seq` of this hash."""

    segment: int
    seq: int
    hash: str


class Audit(Protocol):
    """The audit log of the node."""

    async def keep_up(self) -> None:
        """Take in what is written, beside everything else, so that no question waits for it. Until cancelled."""
        ...

    async def query(self, wanted: AuditFilter) -> AuditPage:
        """One page of what matches."""
        ...

    def export(self, wanted: AuditFilter, *, whole: bool) -> AsyncIterator[Sequence[bytes]]:
        """All that matches and was written by now, oldest first, as JSON texts, some at a time. `limit` and `after` do
        not count. The first text is {"export": {"through": seq}}, the last {"export": {"records", "first", "last",
        "sha256", "unbroken"}}: how many rows, sequence number and hash of the first and the last, the hash of all rows
        (each with a newline). `whole`: every line as it stands in the log, in one piece that is checked; of filters
        only the times. `Invalid`, `Unavailable`, or `Conflict` in the middle where the log is not what was written.
        """
        ...

    async def get(self, prefix: str) -> Mapping[str, Any]:
        """The record whose id starts with `prefix`, joined with its completion. `NotFound`, or `Conflict`."""
        ...

    async def continues(self, *, first: int, last: int, digest: str, since: int) -> None:
        """Nothing, where an export of records `first` to `last` (of hash `digest`) leaves no gap behind record `since`
        or before the log's own beginning. `Conflict`: it does, or it is no export of this log."""
        ...

    async def expendable(
        self, *, through: int, digest: str, before: datetime | None, keep_bytes: int | None
    ) -> Retirable | None:
        """The segments that may go, of those whose records are all among the first `through`, the last of which has
        this hash: those that end before a time, and the oldest while the log takes more than `keep_bytes`; None where
        there are none. What budgets are added up from is never among them. `Conflict`: that record is of another log.
        """
        ...

    async def retirable(self, *, first: int, last: int, digest: str, before: datetime | None) -> Retirable:
        """Whole segments that end before a time and are in an export of records `first` to `last` (of hash `digest`).

        `Conflict`: it is no export of this log from its beginning on. `NotFound`: there is no such segment.
        """
        ...

    def verify(self, heads: Sequence[Head], keys: Sequence[AuditKey]) -> AsyncIterator[Mapping[str, Any]]:
        """The chain walked, and held against the kept heads. Meanwhile, every second or so, {"checked", "of"}: records
        that hold together so far, of about so many. At last {"ok", "records", "segments", "retired"?, "problem"?}.

        The keys of the heads must be among `keys` and trusted; a key that was refused is a problem too. `Unavailable`:
        the log cannot be read, and nothing is known of it.
        """
        ...

    async def last(self) -> int:
        """The sequence number of the newest record; 0 where there is none."""
        ...

    def follow(self, wanted: AuditFilter) -> AsyncIterator[Mapping[str, Any]]:
        """Every record that matches, as it is written: those behind record `after` of this log first; where that is
        None or of a longer log, from now on. `limit` does not count."""
        ...
