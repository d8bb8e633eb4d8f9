"""Tasks: listed for people; created, renewed and reported on by `cells`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from remit.api.services import Services, for_others, operator, services
from remit.core.task import Task

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

ForOthers = Annotated[bool, Depends(for_others)]
Who = Annotated[str, Depends(operator)]
Id = Annotated[str, Path(max_length=32, description="The id, or enough of its beginning.")]


class Create(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: str = Field(max_length=63)
    command: list[str] = Field(description="The command and its arguments; kept for `remit ps`.")
    operator: str = Field(max_length=128, description="Who asked `cells` to run it; it counts only from `cells`.")
    budgets: list[str] = Field(
        default=[], max_length=8, description="The task's own, such as `requests=100`; they narrow its role's."
    )
    capabilities: list[str] = Field(
        default=[], max_length=256, description="Of its role's capabilities, those that it gets; none: all."
    )
    parent: str | None = Field(
        default=None, max_length=32, description="The task it is a part of: its role must be narrower."
    )
    request: str | None = Field(
        default=None, max_length=64, description="The record of the request by which that task asked for it itself."
    )


class Exited(BaseModel):
    model_config = ConfigDict(extra="forbid")

    code: int | None = Field(description="The exit code; null where there is none.")
    stopped: bool = Field(default=False, description="It ended because someone stopped it.")


class Failed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    detail: str = Field(default="", max_length=4096)


class Pruned(BaseModel):
    model_config = ConfigDict(extra="forbid")

    operator: str = Field(max_length=128, description="Who asked `cells` to prune; it counts only from `cells`.")
    tasks: list[str] = Field(max_length=1000, description="Of these, everything is about to be removed.")
    kept: list[str] = Field(description="Of these, something is kept.")
    size_bytes: int = Field(ge=0, alias="bytes")
    older_than_s: float = Field(ge=0, lt=1e11)


class TaskView(BaseModel):
    """Times are RFC 3339."""

    id: str
    role: str
    state: str
    cell: int
    command: list[str]
    operator: str
    parent: str | None
    capabilities: list[str] | None = Field(description="Those of its role's that it was given; null: all.")
    created: str
    ended: str | None
    exit_code: int | None


class CreatedTask(BaseModel):
    task: str
    cell: int = Field(description="The cell's number; it fixes the source addresses of its flows.")
    token: str
    expires: int = Field(description="When the token expires, in Unix seconds. Renew it at half of its life.")
    environment: dict[str, str] = Field(description="The role's variables and its credentials' placeholders.")
    limits: dict[str, Any]


class Token(BaseModel):
    token: str
    expires: int = Field(description="Unix seconds.")


@router.get("", summary="List tasks")
async def listed(
    found: Annotated[Services, Depends(services)],
    everything: Annotated[bool, Query(alias="all", description="Also those that have ended.")] = False,
) -> dict[str, list[TaskView]]:
    """Those that have a cell, oldest first."""
    return {"items": [_view(task) for task in found.tasks.all(alive_only=not everything)]}


@router.post("", summary="Create a task", status_code=201)
async def created(
    body: Create, found: Annotated[Services, Depends(services)], who: Who, others: ForOthers
) -> CreatedTask:
    """Answers when the node knows the task. For `cells`: people use `remit run`."""
    done = await found.tasks.create(
        body.role,
        body.command,
        operator=body.operator if others else who,
        budgets=body.budgets,
        capabilities=body.capabilities,
        parent=body.parent,
        request=body.request,
    )
    return CreatedTask(
        task=done.task.id,
        cell=done.task.cell,
        token=done.token.token,
        expires=done.token.expires,
        environment=dict(done.environment),
        limits=dict(done.limits),
    )


@router.post("/pruned", summary="Report that ended tasks are about to be pruned")
async def pruned(
    body: Pruned, found: Annotated[Services, Depends(services)], who: Who, others: ForOthers
) -> dict[str, Any]:
    """Recorded, then forgotten here. For `cells`: people use `remit prune`."""
    record, forgotten = await found.tasks.pruned(
        body.tasks,
        kept=body.kept,
        size_bytes=body.size_bytes,
        older_than_s=body.older_than_s,
        operator=body.operator if others else who,
    )
    return {"record": record, "forgotten": forgotten}


@router.get("/{task}", summary="Show a task")
async def shown(task: Id, found: Annotated[Services, Depends(services)]) -> TaskView:
    """404 where no id begins so, 409 where several do."""
    return _view(found.tasks.get(task))


@router.post("/{task}/started", summary="Report that a task's command runs")
async def started(task: Id, found: Annotated[Services, Depends(services)]) -> TaskView:
    """409 where the task was revoked or has ended meanwhile: its cell must not run on."""
    return _view(found.tasks.started(task))


@router.post("/{task}/exited", summary="Report that a task's cell is gone")
async def exited(task: Id, body: Exited, found: Annotated[Services, Depends(services)]) -> TaskView:
    """Telling it twice is the same as once."""
    return _view(found.tasks.exited(task, body.code, stopped=body.stopped))


@router.post("/{task}/failed", summary="Report that a task's cell could not be started")
async def failed(task: Id, body: Failed, found: Annotated[Services, Depends(services)]) -> TaskView:
    """Telling it twice is the same as once."""
    return _view(found.tasks.failed(task))


@router.post("/{task}/token", summary="Renew a task's token")
async def renewed(task: Id, found: Annotated[Services, Depends(services)]) -> Token:
    """409 where the task has no authority any more."""
    token = found.tasks.renew(task)
    return Token(token=token.token, expires=token.expires)


def _view(task: Task) -> TaskView:
    return TaskView(
        id=task.id,
        role=task.role,
        state=task.state.value,
        cell=task.cell,
        command=list(task.command),
        operator=task.operator,
        parent=task.parent,
        capabilities=sorted(task.capabilities) if task.capabilities is not None else None,
        created=task.created.isoformat(),
        ended=task.ended.isoformat() if task.ended is not None else None,
        exit_code=task.exit_code,
    )
