"""Budgets: what is used of each, and a raise."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from remit.api.services import Services, operator, services
from remit.core.errors import NotFound

router = APIRouter(prefix="/v1/budgets", tags=["budgets"])


_OWNERS = {"role": "Role", "capability": "Capability"}


class BudgetView(BaseModel):
    """Amounts are requests, bytes or seconds."""

    budget: str = Field(description="Its name: whose, of what, in which time.", examples=["role/devops/requests/1h"])
    scope: str = Field(description="role, capability or task")
    task: str | None = Field(description="The task whose own it is; null where several share it.")
    quantity: str
    per: str | None
    window: str | None
    limit: int = Field(description="With what was raised.")
    raised: int
    used: int
    left: int
    returns: str | None = Field(description="When there is room again (RFC 3339), where there is none now.")


class Raise(BaseModel):
    model_config = ConfigDict(extra="forbid")

    budget: str = Field(max_length=300)
    by: str = Field(max_length=40, examples=["100", "10Mi", "30m"])
    reason: str = Field(max_length=1000)


class RaisedView(BaseModel):
    record: str = Field(description="The audit record of this action.")
    budget: BudgetView


@router.get("", summary="Show budgets and their use")
async def listed(
    found: Annotated[Services, Depends(services)],
    name: Annotated[str, Query(max_length=300, description="The beginning of a name, or a task's id.")] = "",
) -> dict[str, list[BudgetView]]:
    """503 where the node, which alone knows, is away; 404 where what is named does not exist."""
    items = await found.spending.show(name)
    if name and not items:
        items = await found.spending.show(_whole(found, name))
    return {"items": [_view(one) for one in items]}


def _whole(found: Services, name: str) -> str:
    """A name that was cut short, whole. What nobody is called is not found: an empty list would read like no limit."""
    scope, slash, rest = name.partition("/")
    owner, _, more = rest.partition("/")
    if not slash:
        return found.tasks.get(name).id
    if more or scope not in (*_OWNERS, "task"):
        raise NotFound(f"no budget {name!a} is in force", hint="remit budget show")
    if scope == "task":
        return f"task/{found.tasks.get(owner).id}"
    found.manifests.get(_OWNERS[scope], owner)
    return name


@router.post("/raise", summary="Raise a budget")
async def raised(
    body: Raise, found: Annotated[Services, Depends(services)], author: Annotated[str, Depends(operator)]
) -> RaisedView:
    """Answers when the raise is recorded and in force. One with a window is raised until the window has passed."""
    done = await found.spending.raise_(body.budget, body.by, body.reason, operator=author)
    return RaisedView(record=done.record, budget=_view(done.budget))


def _view(one: Any) -> BudgetView:
    return BudgetView.model_validate(dict(one))
