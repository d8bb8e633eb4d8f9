"""Who used which credential when: a fold over the permits in the audit log, which is where every use stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from remit.control.ports_audit import Audit, AuditFilter

PAGE = 1000
MAX_RECORDS = 100_000
"""Read for one answer; more is said to be more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """`first` and `last` are times as in records."""

    credential: str
    task: str
    role: str
    host: str
    count: int
    first: str
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Latest use first. `whole`: nothing was left out."""

    uses: Sequence[Use]
    whole: bool


async def usage(audit: Audit, credentials: Sequence[str], since: datetime | None) -> Usage:
    """Uses of `credentials` at `since` or later: permits under which they were injected."""
    found: dict[tuple[str, str, str], Use] = {}
    read = 0
    for name in credentials:
        after: str | None = "0"
        while after is not None and read < MAX_RECORDS:
            wanted = AuditFilter(credential=name, decision="permit", since=since, limit=PAGE, after=after)
            page = await audit.query(wanted)
            read += len(page.records)
            after = page.next
            for record in page.records:
                if record.get("would_deny"):
                    continue  # observed only: what would be denied gets no credential
                task, role, host, time = (str(record.get(field) or "") for field in ("task", "role", "host", "time"))
                before = found.get((name, task, host))
                found[name, task, host] = (
                    replace(before, count=before.count + 1, last=time)
                    if before is not None
                    else Use(credential=name, task=task, role=role, host=host, count=1, first=time, last=time)
                )
        if after is not None:
            return Usage(uses=_latest(found), whole=False)
    return Usage(uses=_latest(found), whole=True)


async def last(audit: Audit, credentials: Sequence[str]) -> str | None:
    """When one of them was last injected; None where none was."""
    times = []
    for name in credentials:
        page = await audit.query(AuditFilter(credential=name, decision="permit", limit=1))
        times += [str(record["time"]) for record in page.records]
    return max(times, default=None)


def _latest(found: dict[tuple[str, str, str], Use]) -> Sequence[Use]:
    return sorted(found.values(), key=lambda use: use.last, reverse=True)
