"""GET /v1/status and /v1/schemas: what the control plane says of itself."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from remit.api.services import Services, services
from remit.core.errors import Invalid
from remit.policy import manifests, specs

router = APIRouter(prefix="/v1", tags=["status"])


@router.get("/status", summary="Whether the control plane's word reaches the node")
async def status(found: Annotated[Services, Depends(services)]) -> dict[str, Any]:
    """`ok` is true when the node is connected and has acknowledged the latest change."""
    return {"version": found.version, **found.status.read()}


@router.get("/schemas", summary="JSON Schemas of the manifests")
async def schemas(kind: Annotated[str | None, Query(description="Only this kind.", max_length=32)] = None) -> Any:
    """One schema (draft 2020-12) by kind, or all of them by name."""
    if kind is None:
        return {name: manifests.schema(name) for name in specs.KINDS}
    matching = [name for name in specs.KINDS if name.lower() == kind.lower()]
    if not matching:
        raise Invalid(f"there is no kind {ascii(kind)[1:-1]}", hint=f"kinds: {', '.join(specs.KINDS)}")
    return manifests.schema(matching[0])
