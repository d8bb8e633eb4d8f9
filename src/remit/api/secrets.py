"""Secrets: stored, rotated, tried, listed, removed. Values go in and never come out: not in answers, errors or logs.

The body that brings one is read here by hand, so that no framework ever holds it in a validation error.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, Field

from remit.api.services import Services, operator, services
from remit.control import secret_use
from remit.control.secrets import Kept
from remit.core.errors import Invalid

router = APIRouter(prefix="/v1/secrets", tags=["secrets"])

Name = Annotated[str, Path(max_length=63)]
Found = Annotated[Services, Depends(services)]
Author = Annotated[str, Depends(operator)]
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
                        },
                        "expires": {
                            "type": ["string", "null"],
                            "description": "When it ends: a date, a time with its zone, or how long from now (90d).",
                        },
                    },
                }
            }
        },
    }
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """`end`: when the secret ends, where the request says so."""

    value: bytes = field(repr=False)
    end: datetime | None


async def _sent(request: Request, found: Found) -> Sent:
    """The body of a request that brings a secret."""
    value, expires = _read(await request.body())
    return Sent(value=value, end=found.secrets.end(expires) if expires is not None else None)


@router.get("", summary="List secrets: names, not values")
async def listed(found: Found) -> dict[str, Any]:
    """`needed` names secrets that credentials want and nobody has stored. `last_used`: the latest permit."""
    items = [
        {
            "name": s.name,
            "version": s.version,
            "state": s.nearness.value,
            "created": s.created.isoformat(),
            "updated": s.updated.isoformat(),
            "expires": _shown(s.expires),
            "last_used": await secret_use.last(found.audit, s.credentials),
            "credentials": list(s.credentials),
        }
        for s in found.secrets.all()
    ]
    return {"items": items, "needed": list(found.secrets.needed())}


@router.put("/{name}", summary="Store a secret", openapi_extra=_BODY)
async def put(
    name: Name,
    sent: Annotated[Sent, Depends(_sent)],
    found: Found,
    author: Author,
) -> dict[str, Any]:
    """Seals the value at once and replaces what was there. Answers when the node has it."""
    return _kept(name, await found.secrets.put(name, sent.value, operator=author, expires=sent.end))


@router.post("/{name}/rotate", summary="Store a new version of a secret", openapi_extra=_BODY)
async def rotated(
    name: Name,
    sent: Annotated[Sent, Depends(_sent)],
    found: Found,
    author: Author,
) -> dict[str, Any]:
    """As PUT, for a secret that is there. The next request uses it; open streams go on with the one before."""
    return _kept(name, await found.secrets.rotate(name, sent.value, operator=author, expires=sent.end))


sealing = APIRouter(prefix="/v1/sealing-key", tags=["secrets"])


class Rekeyed(BaseModel):
    secrets: int = Field(description="How many secrets were sealed anew.")
    record: str


@sealing.post("/rotate", summary="Make a new sealing key")
async def rekeyed(found: Found, author: Author) -> Rekeyed:
    """Seals every secret for it, without the control plane seeing one; the node forgets the key before."""
    done = await found.secrets.rekey(operator=author)
    return Rekeyed(secrets=done.secrets, record=done.record)


@router.post("/{name}/test", summary="Try whether a secret could be used now")
async def tried(name: Name, found: Found, author: Author) -> dict[str, Any]:
    """One item for each credential that uses it: `ok`, and `detail` where it is not. The value is not shown."""
    return {"items": [dict(one) for one in await found.secrets.test(name, operator=author)]}


@router.get("/{name}/usage", summary="Who used a secret, when")
async def used(
    name: Name,
    found: Found,
    since: Annotated[datetime | None, Query(description="Only at this time (with its zone) or later.")] = None,
) -> dict[str, Any]:
    """From the audit log, latest first. `whole` is false where older uses were left out."""
    if since is not None and since.tzinfo is None:
        raise Invalid("since has no zone", hint="2026-01-02T03:04:05Z")
    usage = await secret_use.usage(found.audit, found.secrets.credentials(name), since)
    return {"items": [asdict(use) for use in usage.uses], "whole": usage.whole}


@router.delete("/{name}", summary="Remove a secret")
async def removed(name: Name, found: Found, author: Author) -> dict[str, str]:
    """Requests that need it are refused from the answer on."""
    return {"name": name, "record": await found.secrets.remove(name, operator=author)}


def _kept(name: str, kept: Kept) -> dict[str, Any]:
    return {"name": name, "version": kept.version, "expires": _shown(kept.expires), "record": kept.record}


def _shown(end: datetime | None) -> str | None:
    return end.isoformat() if end is not None else None


def _read(body: bytes) -> tuple[bytes, str | None]:
    """(value, expires)"""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not {"value_base64"} <= set(document) <= {"value_base64", "expires"}:
        raise Invalid('the body is not {"value_base64": …, "expires": …}')
    expires = document.get("expires")
    if expires is not None and not isinstance(expires, str):
        raise Invalid("expires is no text", hint="2027-01-31, 2027-01-31T12:00:00Z, 90d or 12h")
    try:
        return base64.b64decode(document["value_base64"], validate=True), expires
    except (binascii.Error, ValueError, TypeError):
        pass  # and not `from error`: its text may quote the value
    raise Invalid("value_base64 is not base64")
