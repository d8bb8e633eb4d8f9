"""GET /v1/bundles/remit.tar.gz: the policies in force, for an Open Policy Agent that polls them.

OPA asks again and again with the ETag of what it has (RFC 9110 §13.1.2), so an answer is mostly a 304.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response

from remit.api.services import Services, services
from remit.policy import bundle

router = APIRouter(prefix="/v1/bundles", tags=["bundles"])


@router.get(
    "/remit.tar.gz",
    summary="The policies in force, as an OPA bundle",
    response_class=Response,
    responses={
        200: {"content": {bundle.MEDIA_TYPE: {}}},
        304: {"description": "What `If-None-Match` names is current"},
    },
)
def policies(
    found: Annotated[Services, Depends(services)],
    if_none_match: Annotated[str | None, Header(max_length=1024)] = None,
) -> Response:
    """The revision in its `.manifest` is its ETag; the node takes only answers that were given from this revision."""
    in_force = found.manifests.policies()
    tag = f'"{bundle.revision(in_force)}"'
    headers = {"etag": tag, "cache-control": "no-cache"}
    known = [one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(bundle.archive(in_force), media_type=bundle.MEDIA_TYPE, headers=headers)
