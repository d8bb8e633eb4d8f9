"""The log for those who read it: `control.ports_control.Audit` over the index and the segments.

Every question first takes in what was written since the last one, so an answer never lacks a record that was durable
before the question was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC
from pathlib import Path
from typing import Any

from remit.audit import record, verify
from remit.audit.index import Index
from remit.control.ports_control import Audit, AuditFilter, AuditKey, AuditPage, Head
from remit.core.errors import Invalid

FOLLOW_S = 0.2
_FOLLOW_PAGE = 500


class Reader:
    """Reads `directory`; the index is kept in `file`."""

    def __init__(self, *, directory: Path, file: Path) -> None:
        self._directory = directory
        self._index = Index(file)

    def close(self) -> None:
        self._index.close()

    async def query(self, wanted: AuditFilter) -> AuditPage:
        try:
            after = int(wanted.after) if wanted.after is not None else None
        except ValueError as error:
            raise Invalid(f"{wanted.after!r} is not the `next` of a page") from error
        if after is None and wanted.since is not None:
            after = 0
        return await asyncio.to_thread(self._query, wanted, after)

    async def get(self, prefix: str) -> Mapping[str, Any]:
        return await asyncio.to_thread(self._get, prefix)

    async def verify(self, heads: Sequence[Head], keys: Sequence[AuditKey]) -> Mapping[str, Any]:
        kept = [dict(head.fields) for head in heads]
        trusted = verify.Trust(
            trusted=frozenset(one.key for one in keys if one.trusted),
            refused=tuple(one.key for one in keys if not one.trusted),
        )
        report = await asyncio.to_thread(verify.verify, self._directory, kept, trusted)
        found: dict[str, Any] = {"ok": report.ok, "records": report.records, "segments": report.segments}
        if report.problem is not None:
            found["problem"] = asdict(report.problem)
        return found

    async def follow(self) -> AsyncIterator[Mapping[str, Any]]:
        await asyncio.to_thread(self._index.ingest, self._directory)
        at = self._index.last()
        while True:
            records = await asyncio.to_thread(self._since, at)
            for found in records:
                at = found["seq"]
                yield found
            if len(records) < _FOLLOW_PAGE:
                await asyncio.sleep(FOLLOW_S)

    def _since(self, at: int) -> list[dict[str, Any]]:
        self._index.ingest(self._directory)
        return self._index.query(after=at, limit=_FOLLOW_PAGE)

    def _query(self, wanted: AuditFilter, after: int | None) -> AuditPage:
        self._index.ingest(self._directory)
        names = ("task", "role", "decision", "reason", "host", "kind")
        filters = {name: value for name in names if (value := getattr(wanted, name)) is not None}
        records = self._index.query(
            filters=filters,
            since=record.stamp(wanted.since.astimezone(UTC)) if wanted.since else None,
            until=record.stamp(wanted.until.astimezone(UTC)) if wanted.until else None,
            after=after,
            limit=wanted.limit,
        )
        if after is None:
            records.reverse()
        more = after is not None and len(records) == wanted.limit
        return AuditPage(records=records, next=str(records[-1]["seq"]) if more else None)

    def _get(self, prefix: str) -> dict[str, Any]:
        self._index.ingest(self._directory)
        return self._index.get(prefix)


_: type[Audit] = Reader
