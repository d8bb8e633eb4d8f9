"""POST /v1/explain: what would be decided, step by step."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from remit.api.services import Services, services
from remit.core.errors import Invalid

router = APIRouter(prefix="/v1", tags=["explain"])


class Question(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: str | None = Field(default=None, max_length=63, description="Of a task that is made up; or else a task.")
    task: str | None = Field(default=None, max_length=32, description="One that runs: the id, or enough of it.")
    method: str = Field(max_length=32, examples=["GET"])
    url: str = Field(max_length=8192, examples=["https://api.github.com/repos"])
    headers: dict[str, str] = Field(default={}, max_length=64)


class Step(BaseModel):
    step: str
    outcome: str = Field(description="pass, stop, not_reached, or supposed: what only a real request has")
    detail: str


class Above(BaseModel):
    """A task above the one that asks. It must be able to make the request itself."""

    task: str
    role: str
    capability: str | None = Field(description="By which it could make the request; null: by none.")
    detail: str


class Answer(BaseModel):
    decision: str
    mode: str = Field(description="enforce, or observe: then a denial by rule passes, bare, and is recorded.")
    reason: str
    detail: str
    next: str = Field(description="What to do about a denial.")
    steps: list[Step]
    above: list[Above] = Field(description="The tasks above the one that asks, its parent first.")
    capability: str | None
    credential: str | None
    grant: str | None = Field(description="Of the task, under which nobody would be asked; null: none is used.")


@router.post("/explain", summary="What would be decided on a request")
async def explain(body: Question, found: Annotated[Services, Depends(services)]) -> Answer:
    """Runs the code that decides real requests on one that nobody sent. Nothing is dialled or recorded."""
    if (body.role is None) == (body.task is None):
        raise Invalid("a role or a task is needed, and not both", hint="remit explain --role ROLE METHOD URL")
    task = found.tasks.get(body.task).id if body.task is not None else None
    told: dict[str, Any] = dict(
        await found.explaining.explain(body.role or "", body.method, body.url, body.headers, task)
    )
    return Answer.model_validate(told)
