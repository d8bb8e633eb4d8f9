"""The audit log in memory, for what reads it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from remit.control.ports_audit import AUDIT_FILTERS, Audit, AuditFilter, AuditPage, Retirable
from remit.control.ports_control import Acknowledged, AuditKey, Head
from remit.control.ports_decisions import Decisions
from remit.core.errors import Conflict, NotFound


class MemoryAudit:
    """Implements `control.ports_audit.Audit` over `records`, oldest first, each with an `id` and a `seq`. `going`:
    what is beyond any bounds; `foreign`: hashes of records that are of another log."""

    def __init__(self, records: Sequence[Mapping[str, Any]] = ()) -> None:
        self.records = list(records)
        self._news = asyncio.Condition()
        self.going: Retirable | None = None
        self.foreign: set[str] = set()

    async def add(self, record: Mapping[str, Any]) -> None:
        async with self._news:
            self.records.append(record)
            self._news.notify_all()

    async def keep_up(self) -> None:
        pass

    async def query(self, wanted: AuditFilter) -> AuditPage:
        equal = {name: getattr(wanted, name) for name in AUDIT_FILTERS}
        found = [r for r in self.records if all(v is None or r.get(k) == v for k, v in equal.items())]
        if wanted.tree is not None:
            found = [r for r in found if r.get("task") in self._below(wanted.tree)]
        if wanted.after is not None:
            page = [r for r in found if r["seq"] > int(wanted.after)][: wanted.limit]
        else:
            page = found[-wanted.limit :]
        more = wanted.after is not None and len(page) == wanted.limit
        return AuditPage(records=page, next=str(page[-1]["seq"]) if more else None)

    def _below(self, tree: str) -> set[str]:
        found = {tree}
        while below := {r["task"] for r in self.records if found & {r.get("parent"), *r.get("chain", ())}} - found:
            found |= below
        return found

    async def export(self, wanted: AuditFilter, *, whole: bool) -> AsyncIterator[Sequence[bytes]]:
        page = await self.query(replace(wanted, after="0", limit=len(self.records)))
        rows = [json.dumps(one).encode() for one in page.records]
        digest = hashlib.sha256(b"".join(row + b"\n" for row in rows)).hexdigest()
        word = {"records": len(rows), "first": {}, "last": {}, "sha256": digest, "unbroken": whole}
        yield [b'{"export":{"through":0}}', *rows, json.dumps({"export": word}).encode()]

    async def get(self, prefix: str) -> Mapping[str, Any]:
        found = [r for r in self.records if r["id"].startswith(prefix) or r["id"].startswith(f"r-{prefix}")]
        if not found:
            raise NotFound(f"no record {ascii(prefix[:40])[1:-1]}", hint="remit audit list")
        if len(found) > 1:
            raise Conflict(f"several records start with {prefix}", hint="give more letters")
        return found[0]

    async def continues(self, *, first: int, last: int, digest: str, since: int) -> None:
        if digest in self.foreign:
            raise Conflict(f"record {last} of the export is not the one in the log")
        if first > since + 1:
            raise Conflict(f"records {since + 1} to {first - 1} are in none", hint="remit audit export --whole")

    async def expendable(
        self, *, through: int, digest: str, before: datetime | None, keep_bytes: int | None
    ) -> Retirable | None:
        if digest in self.foreign:
            raise Conflict(f"record {through} of the export is not the one in the log")
        return self.going if self.going is not None and self.going.seq <= through else None

    async def retirable(self, *, first: int, last: int, digest: str, before: datetime | None) -> Retirable:
        if first > 1:
            raise Conflict(f"the export begins with record {first}, the log with 1", hint="remit audit export --whole")
        return Retirable(segment=1, seq=last, hash=digest)

    async def verify(self, heads: Sequence[Head], keys: Sequence[AuditKey]) -> AsyncIterator[Mapping[str, Any]]:
        yield {"checked": 0, "of": len(self.records)}
        yield {"ok": True, "records": len(self.records), "segments": 1}

    async def last(self) -> int:
        return max((int(record["seq"]) for record in self.records), default=0)

    async def follow(self, wanted: AuditFilter) -> AsyncIterator[Mapping[str, Any]]:
        last = await self.last()
        at = last if wanted.after is None else min(int(wanted.after), last)
        while True:
            through = await self.last()
            page = await self.query(replace(wanted, after=str(at), limit=len(self.records) + 1))
            for record in page.records:
                yield record
            at = through
            async with self._news:
                await self._news.wait_for(lambda at=at: any(r["seq"] > at for r in self.records))  # type: ignore[misc]


class MemoryAcknowledgements:
    """Implements `control.ports_control.Acknowledgements`."""

    def __init__(self, rows: list[Acknowledged]) -> None:
        self._rows = rows

    def get(self) -> Acknowledged | None:
        return self._rows[-1] if self._rows else None

    def put(self, acknowledged: Acknowledged) -> None:
        self._rows.append(acknowledged)


class MemoryDecisions:
    """Implements `control.ports_decisions.Decisions` without a bound."""

    def __init__(self) -> None:
        self._events: list[Mapping[str, Any]] = []

    def add(self, events: Sequence[Mapping[str, Any]]) -> None:
        self._events += events

    def latest(self, limit: int) -> Sequence[Mapping[str, Any]]:
        return self._events[-limit:]


_: type[Audit] = MemoryAudit
__: type[Decisions] = MemoryDecisions
