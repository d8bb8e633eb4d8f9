"""Revocations: authority taken away, listed, given back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field

from remit.api.services import Services, operator, services
from remit.control import revocation
from remit.control.ports_control import RevocationKind

router = APIRouter(prefix="/v1/revocations", tags=["revocations"])


class Revoke(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: RevocationKind = Field(description="task, role, capability or credential; everything has a path of its own.")
    name: str = Field(max_length=63, description="A task's id (or enough of its beginning), or a manifest's name.")


class Why(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=500, description="Stands in the record.")


class Revoked(BaseModel):
    kind: RevocationKind
    name: str
    record: str | None = Field(description="The audit record of this action; null where it follows.")
    pending: str | None = Field(
        default=None,
        description="Why the database does not have it yet: it is in force and survives a restart, its record follows.",
    )
    flows_closed: int = Field(description="Open connections that were cut.")


@router.get("", summary="List revocations")
async def listed(found: Annotated[Services, Depends(services)]) -> dict[str, Any]:
    """Everything but tasks until it is restored; tasks while their process still runs."""
    return {
        "items": [
            {"kind": r.kind.value, "name": r.name, "time": r.time.isoformat(), "operator": r.operator}
            | {"pending": found.revoking.is_pending(r)}
            for r in found.revoking.all()
        ]
    }


@router.post("", summary="Revoke a task, role, capability or credential")
async def revoked(
    body: Revoke, found: Annotated[Services, Depends(services)], author: Annotated[str, Depends(operator)]
) -> Revoked:
    """Answers when the node refuses the next request and open connections are cut; 503 says how far it got."""
    done = await found.revoking.revoke(body.kind, body.name, operator=author)
    return _told(done)


@router.post("/everything", summary="Revoke everything")
async def panicked(
    body: Why, found: Annotated[Services, Depends(services)], author: Annotated[str, Depends(operator)]
) -> Revoked:
    """No request passes and no task starts until it is lifted; every open connection is cut."""
    done = await found.revoking.panic(body.reason, operator=author)
    return _told(done)


@router.post("/everything/lift", summary="End the revocation of everything")
async def lifted(
    body: Why, found: Annotated[Services, Depends(services)], author: Annotated[str, Depends(operator)]
) -> dict[str, str]:
    """What was revoked on its own stays revoked."""
    return {"record": await found.revoking.lift(body.reason, operator=author)}


@router.delete("/{kind}/{name}", summary="Restore a role, capability or credential")
async def restored(
    kind: RevocationKind,
    name: Annotated[str, Path(max_length=63)],
    found: Annotated[Services, Depends(services)],
    author: Annotated[str, Depends(operator)],
) -> dict[str, str]:
    """A task cannot be restored."""
    record = await found.revoking.restore(kind, name, operator=author)
    return {"kind": kind.value, "name": name, "record": record}


def _told(done: revocation.Revoked) -> Revoked:
    return Revoked(
        kind=done.kind, name=done.name, record=done.record, flows_closed=done.flows_closed, pending=done.pending
    )
