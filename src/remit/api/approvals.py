"""Approvals: requests that wait for a human, and the grants that answers made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from remit.api import events
from remit.api.services import Services, principal, services
from remit.core import grant as granting
from remit.core.approval import Approval
from remit.core.grant import MAX_USES, Grant, Scope
from remit.core.principal import Principal

router = APIRouter(prefix="/v1", tags=["approvals"])

Id = Annotated[str, Path(max_length=32, description="The id, or enough of its beginning.")]
Who = Annotated[Principal, Depends(principal)]
Found = Annotated[Services, Depends(services)]


class Approve(BaseModel):
    model_config = ConfigDict(extra="forbid")

    scope: Scope = Field(default=Scope.ONCE, description="One of those that the approval offers.")
    for_s: float | None = Field(default=None, gt=0, description="Seconds; at most what the scope lasts.")
    uses: int | None = Field(default=None, ge=1, le=MAX_USES)
    note: str = Field(default="", max_length=500)


class Deny(BaseModel):
    model_config = ConfigDict(extra="forbid")

    note: str = Field(default="", max_length=500, description="The agent is told this.")


@router.get("/approvals", summary="List approvals")
async def listed(
    found: Found, everything: Annotated[bool, Query(alias="all", description="Also those of the last day.")] = False
) -> dict[str, list[dict[str, Any]]]:
    """Those that wait, oldest first. Texts in them were written by agents: escape what you show."""
    return {"items": [view(one) for one in found.approvals.all(pending_only=not everything)]}


@router.get("/approvals/stream", summary="Watch approvals")
async def watched(found: Found) -> StreamingResponse:
    """Server-sent events: an approval a `data:` line. First those of the last day, oldest first, then each as it comes
    and whenever its state changes. Texts in them were written by agents: escape what you show."""

    async def views() -> AsyncIterator[events.Event]:
        async for one in found.watching.follow(found.approvals):
            yield None, view(one)

    return events.stream(views())


@router.get("/approvals/{approval}", summary="Show an approval")
async def shown(approval: Id, found: Found) -> dict[str, Any]:
    """With what each scope would allow, narrowest first."""
    return view(found.approvals.get(approval))


@router.post("/approvals/{approval}/approve", summary="Allow what an approval shows")
async def approved(approval: Id, body: Approve, found: Found, who: Who) -> dict[str, Any]:
    """Answers when the node has the grant. 409 where it was answered, has expired, or is not yours to answer."""
    done = await found.approvals.approve(
        approval, scope=body.scope, who=who, for_s=body.for_s, uses=body.uses, note=body.note
    )
    grant = grant_view(done.grant) if done.grant is not None else None
    return {"approval": view(done.approval), "grant": grant, "record": done.record, "proposal": done.proposal}


@router.post("/approvals/{approval}/deny", summary="Refuse what an approval shows")
async def denied(approval: Id, body: Deny, found: Found, who: Who) -> dict[str, Any]:
    """The same request is not shown again until the approval's time is over."""
    done = await found.approvals.deny(approval, who=who, note=body.note)
    return {"approval": view(done.approval), "record": done.record}


@router.get("/grants", summary="List grants in force")
async def granted(found: Found) -> dict[str, list[dict[str, Any]]]:
    """Oldest first."""
    return {"items": [grant_view(one) for one in found.approvals.grants()]}


@router.delete("/grants/{grant}", summary="Take a grant back")
async def revoked(grant: Annotated[str, Path(max_length=32)], found: Found, who: Who) -> dict[str, str]:
    """Answers when the node no longer has it and what was open under it is cut."""
    return {"grant": grant, "record": await found.approvals.revoke_grant(grant, who=who)}


def view(approval: Approval) -> dict[str, Any]:
    """JSON values; `question` is all that an answer would be bound to."""
    question = approval.question
    return {
        "id": approval.id,
        "state": approval.state.value,
        "created": approval.created.isoformat(),
        "expires": approval.expires.isoformat(),
        "answered": approval.answered.isoformat() if approval.answered is not None else None,
        "author": approval.author,
        "note": approval.note,
        "question": {**asdict(question), "reasons": list(question.reasons)},
        "offers": [{"scope": scope.value, "allows": question.offer(scope)} for scope in question.scopes()],
    }


def grant_view(grant: Grant) -> dict[str, Any]:
    return {**granting.as_json(grant), "task": grant.task, "allows": grant.allows()}
