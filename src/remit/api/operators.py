"""Operators: who may act on this control plane, and the tokens that prove them."""

from __future__ import annotations

import contextlib
import pwd
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field

from remit.api import access
from remit.api.services import Services, principal, services
from remit.core.errors import Conflict
from remit.core.principal import Operator, OperatorKind, OperatorRole, Principal

router = APIRouter(prefix="/v1", tags=["operators"])

Name = Annotated[str, Path(max_length=63)]
Who = Annotated[Principal, Depends(principal)]


class Add(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=63)
    role: OperatorRole
    kind: OperatorKind = OperatorKind.HUMAN
    uid: int | None = Field(default=None, ge=0, lt=1 << 32, description="Their user on this machine.")


class Issue(BaseModel):
    model_config = ConfigDict(extra="forbid")

    ttl_s: int = Field(default=90 * 86400, ge=60, le=366 * 86400, description="Life of the token in seconds.")


class OperatorView(BaseModel):
    name: str
    kind: OperatorKind
    role: OperatorRole
    uid: int | None
    created: str


@router.get("/whoami", summary="Who you are here")
async def whoami(who: Who) -> dict[str, str]:
    """`proof` says how it is known."""
    return {"name": who.name, "role": who.role.value, "proof": who.proof}


@router.get("/operators", summary="List operators")
async def listed(found: Annotated[Services, Depends(services)]) -> dict[str, list[OperatorView]]:
    """By name. The built-in administrators (root, and the user of the control plane) are not among them."""
    return {"items": [_view(one) for one in found.operating.all()]}


@router.post("/operators", summary="Add an operator", status_code=201)
async def added(body: Add, found: Annotated[Services, Depends(services)], who: Who) -> dict[str, Any]:
    """409 where the name is taken, or is that of a user of this machine who is not meant, or would be a second one of a
    built-in administrator."""
    with contextlib.suppress(KeyError):
        user = pwd.getpwnam(body.name)
        if user.pw_uid != body.uid:
            raise Conflict(
                f"{body.name} is a user of this machine (uid {user.pw_uid}): records would mix them up",
                hint=f"--uid {user.pw_uid}, or another name",
            )
    if body.uid is not None and access.built_in(body.uid) and body.name != (own := access.user_name(body.uid)):
        raise Conflict(
            f"uid {body.uid} is {own}, an administrator already: as {body.name} it could answer itself",
            hint="leave --uid out for somebody else",
        )
    operator, record = await found.operating.add(
        body.name, kind=body.kind, role=body.role, uid=body.uid, author=who.name
    )
    return {**_view(operator).model_dump(mode="json"), "record": record}


@router.delete("/operators/{name}", summary="Remove an operator")
async def removed(name: Name, found: Annotated[Services, Depends(services)], who: Who) -> dict[str, str]:
    """Its tokens end at once."""
    return {"name": name, "record": await found.operating.remove(name, author=who.name)}


@router.post("/operators/{name}/tokens", summary="Issue a token", status_code=201)
async def issued(
    name: Name,
    body: Issue,
    found: Annotated[Services, Depends(services)],
    who: Who,
) -> dict[str, str]:
    """The token is in this answer and nowhere else."""
    done = await found.operating.issue(name, ttl=timedelta(seconds=body.ttl_s), author=who.name)
    expires = done.kept.expires.isoformat()
    return {"name": name, "id": done.kept.id, "token": done.token, "expires": expires, "record": done.record}


@router.delete("/operators/{name}/tokens", summary="Revoke every token of an operator")
async def revoked(name: Name, found: Annotated[Services, Depends(services)], who: Who) -> dict[str, Any]:
    """They are worth nothing from the answer on."""
    ended, record = await found.operating.revoke_tokens(name, author=who.name)
    return {"name": name, "revoked": ended, "record": record}


def _view(operator: Operator) -> OperatorView:
    return OperatorView(
        name=operator.name,
        kind=operator.kind,
        role=operator.role,
        uid=operator.uid,
        created=operator.created.isoformat(),
    )
