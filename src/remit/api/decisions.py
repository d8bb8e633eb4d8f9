"""POST /logs, where an Open Policy Agent uploads its decision log (its REST service API), and a look at what came.

OPA has this control plane as a service already, for its bundles; `decision_logs: {service: remit}` is all it takes.
The token is that of an auditor: an upload changes nothing, and takes no more room than was set aside for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from remit.api.services import Services, services
from remit.policy import uploads

router = APIRouter(tags=["decisions"])

Found = Annotated[Services, Depends(services)]
Encoding = Annotated[str, Header(max_length=32)]
_Found = TypeVar("_Found")


@router.post("/logs", summary="Upload decisions of an OPA")
async def uploaded(request: Request, found: Found, content_encoding: Encoding = "") -> dict[str, int]:
    """A JSON array of events in the shape of OPA's decision log, gzipped or not."""
    body = await request.body()

    def taken() -> int:
        events = uploads.read(body, content_encoding)
        found.decisions.add(events)
        return len(events)

    return {"kept": await _alone(request, taken)}


@router.post("/logs/{partition}", summary="Upload decisions of an OPA, with a partition")
async def partitioned(
    request: Request,
    found: Found,
    partition: Annotated[str, Path(max_length=128, description="OPA's `partition_name`; it makes no difference.")],
    content_encoding: Encoding = "",
) -> dict[str, int]:
    """As without one."""
    return await uploaded(request, found, content_encoding)


@router.get("/v1/decisions", summary="List decisions that an OPA uploaded")
async def listed(request: Request, found: Found, limit: Annotated[int, Query(ge=1, le=10_000)] = 100) -> Response:
    """`items`, oldest first. They are what OPA says of itself, not audit records."""

    def told() -> bytes:  # megabytes: one event at a time, or the loop would wait
        return b'{"items":[%b]}' % b",".join(json.dumps(one).encode() for one in found.decisions.latest(limit))

    return Response(await _alone(request, told), media_type="application/json")


async def _alone(request: Request, work: Callable[[], _Found]) -> _Found:
    """In a thread, and one at a time: many megabytes are taken apart, and who may read must not stop who revokes."""
    async with request.app.state.decisions:
        return await run_in_threadpool(work)
