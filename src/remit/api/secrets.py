"""GET, PUT and DELETE of secrets. Values go in and never come out: not in answers, errors or logs.

The body of a PUT is read here by hand, so that no framework ever holds it in a validation error.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request

from remit.api.services import Services, operator, services
from remit.core.errors import Invalid

router = APIRouter(prefix="/v1/secrets", tags=["secrets"])

Name = Annotated[str, Path(max_length=63)]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["value_base64"],
                    "additionalProperties": False,
                    "properties": {
                        "value_base64": {
                            "type": "string",
                            "format": "password",
                            "writeOnly": True,
                            "description": "The secret's bytes, base64 (RFC 4648 §4); at most 32 KiB.",
                        }
                    },
                }
            }
        },
    }
}


@router.get("", summary="List secrets: names, not values")
async def listed(found: Annotated[Services, Depends(services)]) -> dict[str, Any]:
    """`needed` names secrets that credentials want and nobody has stored."""
    items = [
        {"name": s.name, "updated": s.updated.isoformat(), "credentials": list(s.credentials)}
        for s in found.secrets.all()
    ]
    return {"items": items, "needed": list(found.secrets.needed())}


@router.put("/{name}", summary="Store a secret", openapi_extra=_BODY)
async def put(
    name: Name,
    request: Request,
    found: Annotated[Services, Depends(services)],
    author: Annotated[str, Depends(operator)],
) -> dict[str, str]:
    """Seals the value at once and replaces what was there. Answers when the node has it."""
    record = await found.secrets.put(name, _value(await request.body()), operator=author)
    return {"name": name, "record": record}


@router.delete("/{name}", summary="Remove a secret")
async def removed(
    name: Name, found: Annotated[Services, Depends(services)], author: Annotated[str, Depends(operator)]
) -> dict[str, str]:
    """Requests that need it are refused from the answer on."""
    return {"name": name, "record": await found.secrets.remove(name, operator=author)}


def _value(body: bytes) -> bytes:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or set(document) != {"value_base64"}:
        raise Invalid('the body is not {"value_base64": …}')
    try:
        return base64.b64decode(document["value_base64"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        pass  # and not `from error`: its text may quote the value
    raise Invalid("value_base64 is not base64")
