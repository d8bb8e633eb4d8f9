"""POST /v1/apply, and roles, capabilities, credentials, policies as they stand."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field

from remit.api.services import Services, operator, services
from remit.control.manifests import KINDS

router = APIRouter(prefix="/v1", tags=["manifests"])


class Collection(StrEnum):
    ROLES = "roles"
    CAPABILITIES = "capabilities"
    CREDENTIALS = "credentials"
    POLICIES = "policies"


class Apply(BaseModel):
    model_config = ConfigDict(extra="forbid")

    documents: list[dict[str, Any]] = Field(description="Manifests as JSON: apiVersion, kind, metadata, spec.")
    dry_run: bool = Field(default=False, description="Check and tell what would change; change nothing.")


class Change(BaseModel):
    kind: str
    name: str
    change: str = Field(description="created, changed or unchanged")


class Applied(BaseModel):
    applied: list[Change]
    digest: str = Field(description="SHA-256 of the whole set of manifests in force afterwards.")
    record: str | None = Field(description="The audit record of this change; null where nothing changed.")


Name = Annotated[str, Path(max_length=253)]


@router.post("/apply", summary="Put manifests in force, all or none")
async def apply(
    body: Apply, found: Annotated[Services, Depends(services)], author: Annotated[str, Depends(operator)]
) -> Applied:
    """Answers when the node has them in force. One mistake anywhere refuses the whole set and names every mistake."""
    done = await found.manifests.apply(body.documents, operator=author, dry_run=body.dry_run)
    changes = [Change(kind=c.kind, name=c.name, change=c.change) for c in done.changes]
    return Applied(applied=changes, digest=done.digest, record=done.record)


async def listed(collection: Collection, found: Annotated[Services, Depends(services)]) -> dict[str, Any]:
    """Manifests of this kind, by name."""
    return {"items": list(found.manifests.all(KINDS[collection]))}


async def shown(collection: Collection, name: Name, found: Annotated[Services, Depends(services)]) -> dict[str, Any]:
    """One manifest as it was applied."""
    return dict(found.manifests.get(KINDS[collection], name))


async def removed(
    collection: Collection,
    name: Name,
    found: Annotated[Services, Depends(services)],
    author: Annotated[str, Depends(operator)],
) -> dict[str, str]:
    """409 where another manifest names it. Answers when the node no longer has it in force."""
    record = await found.manifests.remove(KINDS[collection], name, operator=author)
    return {"kind": KINDS[collection], "name": name, "record": record}


late = APIRouter(prefix="/v1", tags=["manifests"])
"""Registered after every other resource, because its first path segment is a parameter."""
late.add_api_route("/{collection}", listed, methods=["GET"], summary="List manifests of a kind")
late.add_api_route("/{collection}/{name}", shown, methods=["GET"], summary="Show a manifest")
late.add_api_route("/{collection}/{name}", removed, methods=["DELETE"], summary="Remove a manifest")
