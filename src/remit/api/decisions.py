"""POST /logs, where an Open Policy Agent uploads its decision log (its REST service API), and a look at what came.

OPA has this control plane as a service already, for its bundles; `decision_logs: {service: remit}` is all it takes.
The token is that of an auditor: an upload changes nothing, and takes no more room than was set aside for it.
"""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from remit.api.services import Services, services
from remit.policy import uploads

router = APIRouter(tags=["decisions"])

Found = Annotated[Services, Depends(services)]
Encoding = Annotated[str, Header(max_length=32)]


@router.post("/logs", summary="Upload decisions of an OPA")
async def uploaded(request: Request, found: Found, content_encoding: Encoding = "") -> dict[str, int]:
    """A JSON array of events in the shape of OPA's decision log, gzipped or not."""
    body = await request.body()
    events = await run_in_threadpool(uploads.read, body, content_encoding)
    await run_in_threadpool(found.decisions.add, events)
    return {"kept": len(events)}


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
def listed(found: Found, limit: Annotated[int, Query(ge=1, le=10_000)] = 100) -> Response:
    """`items`, oldest first. They are what OPA says of itself, not audit records."""
    # Megabytes: made here, in a thread, and one event at a time, or the loop would wait.
    items = b",".join(json.dumps(one).encode() for one in found.decisions.latest(limit))
    return Response(b'{"items":[%b]}' % items, media_type="application/json")
