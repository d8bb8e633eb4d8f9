"""The audit log: listed, followed, shown, verified. It is written by the node alone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from remit.api import events
from remit.api.services import Services, operator, services
from remit.control.ports_audit import KINDS, AuditFilter
from remit.control.ports_control import AuditKey
from remit.control.retiring import Exported
from remit.core.errors import Invalid, NotFound, RemitError
from remit.core.reason import Reason
from remit.core.task import TASK_ID
from remit.policy import manifests

router = APIRouter(prefix="/v1/audit", tags=["audit"])

Text = Annotated[str | None, Query(max_length=253)]


def wanted(
    found: Annotated[Services, Depends(services)],
    task: Annotated[str | None, Query(max_length=32, description="A task's id, or enough of its beginning.")] = None,
    tree: Annotated[
        str | None, Query(max_length=32, description="Likewise; records of that task and of every task below it.")
    ] = None,
    role: Text = None,
    decision: Text = None,
    reason: Text = None,
    capability: Text = None,
    credential: Text = None,
    host: Text = None,
    kind: Text = None,
    since: Annotated[datetime | None, Query(description="RFC 3339, with offset.")] = None,
    until: Annotated[datetime | None, Query(description="RFC 3339, with offset.")] = None,
) -> AuditFilter:
    """What a list and an export can be narrowed by."""
    _known("decision", decision, ("permit", "deny", "hold"))
    _known("kind", kind, KINDS)
    _known("reason", reason, [one.value for one in Reason])
    for bound in (since, until):
        if bound is not None and bound.tzinfo is None:
            raise Invalid("since and until need an offset, such as 2026-01-31T12:00:00Z")
    return AuditFilter(
        task=_named(found, task),
        tree=_named(found, tree),
        role=role,
        decision=decision,
        reason=reason,
        capability=capability,
        credential=credential,
        host=host,
        kind=kind,
        since=since,
        until=until,
    )


def _named(found: Services, task: str | None) -> str | None:
    """The id of a task; one that was forgotten since is still in the log."""
    try:
        return found.tasks.get(task).id if task is not None else None
    except NotFound:
        if task is not None and TASK_ID.fullmatch(task):
            return task
        raise


def _known(name: str, value: str | None, values: Sequence[str]) -> None:
    """A misspelt filter would find nothing, which reads like good news."""
    if value is not None and value not in values:
        found = f"{value[:64]!a} is no {name} of a record{manifests.nearest(value, values)}"
        raise Invalid(found, hint=f"one of: {', '.join(values)}")


Wanted = Annotated[AuditFilter, Depends(wanted)]


@router.get("", summary="List audit records")
async def listed(
    found: Annotated[Services, Depends(services)],
    narrowed: Wanted,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[
        str | None, Query(pattern="^[0-9]{1,18}$", description="`next` of a former page; 0 is the start.")
    ] = None,
) -> dict[str, Any]:
    """Oldest first; without `after`, the latest page. Decisions are joined with their completion."""
    page = await found.audit.query(replace(narrowed, limit=limit, after=after))
    return {"records": list(page.records), "next": page.next}


@router.get("/export", summary="Export audit records")
async def exported(
    found: Annotated[Services, Depends(services)],
    narrowed: Wanted,
    whole: Annotated[bool, Query(description="Every line as it stands in the log; narrowed by time only.")] = False,
) -> StreamingResponse:
    """A JSON text a line. The first one and the last have the one key `export`: `through` is the last sequence number
    that is looked at; the last line says how many rows there were, the first and the last of them, and the SHA-256 of
    all (each with its newline). Without that line the export is not whole. A `problem` in its place says why.
    """
    pages = found.audit.export(narrowed, whole=whole)
    first = await anext(pages)
    return StreamingResponse(
        _rows(first, pages), media_type="application/x-ndjson", headers={"cache-control": "no-store"}
    )


@router.get("/stream", summary="Follow the audit log")
async def stream(
    found: Annotated[Services, Depends(services)],
    narrowed: Wanted,
    behind: Annotated[
        str | None,
        Header(alias="Last-Event-ID", pattern="^[0-9]{1,18}$", description="The last `id:` that was seen."),
    ] = None,
) -> StreamingResponse:
    """Server-sent events: one record a `data:` line, its sequence number the `id:`. From now on, or from where another
    stream broke off: none is left out, none comes twice."""

    async def records() -> AsyncIterator[events.Event]:
        at = int(behind) if behind is not None else await found.audit.last()
        yield at, None
        async for record in found.audit.follow(replace(narrowed, after=str(at))):
            yield int(record["seq"]), record

    return events.stream(records())


@router.post("/verify", summary="Verify the audit log")
async def verify(found: Annotated[Services, Depends(services)]) -> dict[str, Any]:
    """Walks the whole chain and holds it against the signed heads that the control plane keeps. It takes as long as it
    takes; the same with GET tells meanwhile how far it is."""
    told = [one async for one in _verified(found)]
    return dict(told[-1])


@router.get("/verify", summary="Verify the audit log, and tell how far it is")
async def verifying(found: Annotated[Services, Depends(services)]) -> StreamingResponse:
    """A JSON text a line. Every second or so, `checked` records of about `of`; the last line is the report, with `ok`.
    Without that line nothing was verified. A `failure` in its place says why."""

    async def told() -> AsyncIterator[bytes]:
        try:
            async for one in _verified(found):
                yield json.dumps(one).encode() + b"\n"
        except RemitError as error:
            yield json.dumps({"failure": {"detail": error.detail, "hint": error.hint}}).encode() + b"\n"

    return StreamingResponse(told(), media_type="application/x-ndjson", headers={"cache-control": "no-store"})


def _verified(found: Services) -> AsyncIterator[Mapping[str, Any]]:
    with found.store.unit() as unit:
        heads, keys = unit.heads.all(), unit.audit_keys.all()
    return found.audit.verify(heads, keys)


class Trust(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=4, max_length=64, description="A refused key, or enough of its beginning.")


class Whole(BaseModel):
    """What an export with `whole` said at its end."""

    model_config = ConfigDict(extra="forbid")

    first: int = Field(ge=1, description="Sequence number of its first record.")
    last: int = Field(ge=1)
    hash: str = Field(pattern="^[0-9a-f]{64}$", description="Of its last record.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Of all rows, each with its newline.")

    def exported(self) -> Exported:
        return Exported(first=self.first, last=self.last, digest=self.hash, sha256=self.sha256)


class Retire(Whole):
    before: datetime | None = Field(default=None, description="Only segments that end earlier. RFC 3339, with offset.")


@router.post("/retire", summary="Remove exported records from the log")
async def retired(
    body: Retire, who: Annotated[str, Depends(operator)], found: Annotated[Services, Depends(services)]
) -> dict[str, Any]:
    """Whole segments from the beginning of the log, of which the export has every record. It is recorded first, and the
    chain goes on to verify."""
    if body.before is not None and body.before.tzinfo is None:
        raise Invalid("before needs an offset, such as 2026-01-31T12:00:00Z")
    going, record = await found.retiring.retire(body.exported(), before=body.before, operator=who)
    return {"segment": going.segment, "seq": going.seq, "hash": going.hash, "record": record}


@router.post("/acknowledge", summary="Acknowledge that an export is kept elsewhere")
async def acknowledged(
    body: Whole, who: Annotated[str, Depends(operator)], found: Annotated[Services, Depends(services)]
) -> dict[str, Any]:
    """What it has leaves the log by itself where the settings `audit_keep_s` and `audit_keep_bytes` say so. It must
    begin where the log begins, or leave no gap behind the one before. It is recorded."""
    return asdict(await found.retiring.acknowledge(body.exported(), operator=who))


@router.get("/retention", summary="Show what may leave the audit log by itself")
async def retention(found: Annotated[Services, Depends(services)]) -> dict[str, Any]:
    """`keep_s` and `keep_bytes`: null where the log is not bounded. `acknowledged`: null where nothing is."""
    bounds, kept = found.retiring.bounds, found.retiring.acknowledged()
    return {
        "keep_s": bounds.age_s,
        "keep_bytes": bounds.size_bytes,
        "acknowledged": asdict(kept) if kept is not None else None,
    }


@router.get("/keys", summary="List audit keys")
async def keys(found: Annotated[Services, Depends(services)]) -> dict[str, Any]:
    """Keys that signed heads of the log: the trusted ones, and those whose heads were refused."""
    return {"items": [_shown_key(one) for one in found.audit_keys.all()]}


@router.post("/keys", summary="Trust an audit key")
async def trust(
    body: Trust, who: Annotated[str, Depends(operator)], found: Annotated[Services, Depends(services)]
) -> dict[str, Any]:
    """After the node's audit key was changed on purpose: heads under the new one count from now on."""
    key, record = await found.audit_keys.trust(body.key, operator=who)
    return {**_shown_key(key), "record": record}


def _shown_key(key: AuditKey) -> dict[str, Any]:
    return {"key": key.key, "since": key.since.isoformat(), "trusted": key.trusted}


@router.get("/{record}", summary="Show and explain an audit record")
async def shown(
    record: Annotated[str, Path(max_length=64, description="The id, or enough of its beginning.")],
    found: Annotated[Services, Depends(services)],
) -> dict[str, Any]:
    """The record, how it ended, and what happened in plain English, a sentence an item."""
    return dict(await found.explaining.why(record))


async def _rows(first: Sequence[bytes], pages: AsyncIterator[Sequence[bytes]]) -> AsyncIterator[bytes]:
    yield b"\n".join([*first, b""])
    try:
        async for page in pages:
            yield b"\n".join([*page, b""])
    except RemitError as error:
        yield json.dumps({"export": {"problem": {"detail": error.detail, "hint": error.hint}}}).encode() + b"\n"
