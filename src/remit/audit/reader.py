"""The log for those who read it: `control.ports_audit.Audit` over the index and the segments.

Every question first takes in what was written since the last one, so an answer never lacks a record that was durable
before the question was asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from remit.audit import export, retire, verify
from remit.audit.index import Index
from remit.control.ports_audit import AUDIT_FILTERS, TREE, Audit, AuditFilter, AuditPage, Retirable
from remit.control.ports_control import AuditKey, Head
from remit.core.errors import Invalid, Unavailable

log = logging.getLogger(__name__)

FOLLOW_S = 0.2
_FOLLOW_PAGE = 500
CATCH_UP_S = 10.0
"""A question waits this long for the index where it is behind, as after it had to be built anew."""
KEEP_UP_S = 1.0
PROGRESS_S = 0.5
_Found = TypeVar("_Found")


class Reader:
    """Reads `directory`; the index is kept in `file`."""

    def __init__(self, *, directory: Path, file: Path) -> None:
        self._directory = directory
        self._index = Index(file, directory)

    async def keep_up(self) -> None:
        """Take in what is written, so that a question finds little to be taken in. Until cancelled."""
        while True:
            try:
                while await asyncio.to_thread(self._index.take):
                    pass
            except Unavailable as error:
                log.warning("the audit log cannot be taken in: %s", error)
            await asyncio.sleep(KEEP_UP_S)

    def close(self) -> None:
        self._index.close()

    async def query(self, wanted: AuditFilter) -> AuditPage:
        after = _after(wanted)
        if after is None and wanted.since is not None:
            after = 0
        return await asyncio.to_thread(self._query, wanted, after)

    async def export(self, wanted: AuditFilter, *, whole: bool) -> AsyncIterator[Sequence[bytes]]:
        filters = _filters(wanted)
        if whole and filters:
            raise Invalid(f"the whole log cannot be narrowed by {next(iter(filters))}", hint="narrow it by time only")
        await asyncio.to_thread(self._catch_up)
        bounds = {"since": wanted.since, "until": wanted.until}
        if whole:
            pages = export.whole(self._index, self._directory, **bounds)
        else:
            pages = export.joined(self._index, filters=filters, **bounds)
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield page

    async def get(self, prefix: str) -> Mapping[str, Any]:
        return await asyncio.to_thread(self._get, prefix)

    async def continues(self, *, first: int, last: int, digest: str, since: int) -> None:
        check = partial(retire.continues, self._directory, first=first, last=last, digest=digest, since=since)
        await asyncio.to_thread(_read, check)

    async def expendable(
        self, *, through: int, digest: str, before: datetime | None, keep_bytes: int | None
    ) -> Retirable | None:
        find = partial(
            retire.expendable, self._directory, through=through, digest=digest, before=before, keep_bytes=keep_bytes
        )
        return await asyncio.to_thread(_read, find)

    async def retirable(self, *, first: int, last: int, digest: str, before: datetime | None) -> Retirable:
        return await asyncio.to_thread(self._retirable, first, last, digest, before)

    async def verify(self, heads: Sequence[Head], keys: Sequence[AuditKey]) -> AsyncIterator[Mapping[str, Any]]:
        kept = [dict(head.fields) for head in heads]
        trusted = verify.Trust(
            trusted=frozenset(one.key for one in keys if one.trusted),
            refused=tuple(one.key for one in keys if not one.trusted),
        )
        walking = verify.steps(self._directory, kept, trusted)
        while isinstance(checked := await asyncio.to_thread(_for_a_while, walking), int):
            yield {"checked": checked, "of": self._index.count()}
        report = checked
        found: dict[str, Any] = {"ok": report.ok, "records": report.records, "segments": report.segments}
        if report.retired:
            found["retired"] = report.retired
        if report.problem is not None:
            found["problem"] = asdict(report.problem)
        yield found

    async def last(self) -> int:
        await asyncio.to_thread(self._index.ingest)
        return self._index.last()

    async def follow(self, wanted: AuditFilter) -> AsyncIterator[Mapping[str, Any]]:
        behind, last = _after(wanted), await self.last()
        at = last if behind is None else min(behind, last)
        while True:
            records, through = await asyncio.to_thread(self._since, at, wanted)
            for found in records:
                yield found
            at = through
            if len(records) < _FOLLOW_PAGE:
                await asyncio.sleep(FOLLOW_S)

    def _since(self, at: int, wanted: AuditFilter) -> tuple[list[dict[str, Any]], int]:
        """What matches and was written since record `at`, and up to which record that is all."""
        self._index.ingest()
        through = self._index.last()
        found = self._index.query(
            filters=_filters(wanted),
            since=wanted.since,
            until=wanted.until,
            after=at,
            before=through + 1,
            limit=_FOLLOW_PAGE,
        )
        return found, found[-1]["seq"] if len(found) == _FOLLOW_PAGE else through

    def _query(self, wanted: AuditFilter, after: int | None) -> AuditPage:
        self._catch_up()
        records = self._index.query(
            filters=_filters(wanted),
            since=wanted.since,
            until=wanted.until,
            after=after,
            limit=wanted.limit,
        )
        if after is None:
            records.reverse()
        more = after is not None and len(records) == wanted.limit
        return AuditPage(records=records, next=str(records[-1]["seq"]) if more else None)

    def _retirable(self, first: int, last: int, digest: str, before: datetime | None) -> Retirable:
        self._catch_up()
        return retire.covered(self._directory, first=first, last=last, digest=digest, before=before)

    def _catch_up(self) -> None:
        end = time.monotonic() + CATCH_UP_S
        while self._index.take():
            if time.monotonic() > end:
                raise Unavailable(
                    f"the audit index is being built: it has taken in record {self._index.last()}",
                    hint="ask again in a while",
                )

    def _get(self, prefix: str) -> dict[str, Any]:
        self._catch_up()
        return self._index.get(prefix)


def _for_a_while(walking: Generator[int, None, verify.Report]) -> int | verify.Report:
    """How many records were checked when a moment had passed, or the report. `Unavailable`: the disk refuses."""
    end = time.monotonic() + PROGRESS_S
    try:
        while True:
            checked = next(walking)
            if time.monotonic() >= end:
                return checked
    except StopIteration as done:
        report: verify.Report = done.value
        return report
    except OSError as error:
        raise Unavailable(f"the audit log cannot be read: {error}", hint="remit doctor; check the disk") from error


def _read(look: Callable[[], _Found]) -> _Found:
    try:
        return look()
    except OSError as error:
        raise Unavailable(f"the audit log cannot be read: {error}", hint="remit doctor; check the disk") from error


def _after(wanted: AuditFilter) -> int | None:
    try:
        return int(wanted.after) if wanted.after is not None else None
    except ValueError as error:
        raise Invalid(f"{wanted.after!r} is not the `next` of a page") from error


def _filters(wanted: AuditFilter) -> dict[str, str]:
    return {name: value for name in (*AUDIT_FILTERS, TREE) if (value := getattr(wanted, name)) is not None}


_: type[Audit] = Reader
