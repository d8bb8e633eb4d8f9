"""POST /v1/issuer/rotate: a new signing key."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from remit.api.services import Services, operator, services

router = APIRouter(prefix="/v1/issuer", tags=["issuer"])


class Rotate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    compromised: bool = Field(default=False, description="End what older keys signed at once, open connections too.")


class Rotated(BaseModel):
    kid: str = Field(description="The key that signs from now on.")
    record: str


@router.post("/rotate", summary="Rotate the issuer's key")
async def rotate(
    body: Rotate, found: Annotated[Services, Depends(services)], author: Annotated[str, Depends(operator)]
) -> Rotated:
    """Tasks go on: their tokens verify until no connection can carry one, unless the key was compromised."""
    kid, record = await found.tasks.rotate(operator=author, compromised=body.compromised)
    return Rotated(kid=kid, record=record)
