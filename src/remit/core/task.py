"""Tasks: one unit of work under one role, and the states it can be in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from remit.core.budget import Budget
from remit.core.errors import Conflict

TASK_ID = re.compile(r"t-[a-z2-7]{10}")


class State(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    EXITED = "exited"
    FAILED = "failed"
    STOPPED = "stopped"
    REVOKED = "revoked"
    ENDED = "ended"


class Event(StrEnum):
    START = "start"
    EXIT = "exit"
    FAIL = "fail"
    STOP = "stop"
    REVOKE = "revoke"


TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.PENDING: {
        Event.START: State.RUNNING,
        Event.FAIL: State.FAILED,
        Event.STOP: State.STOPPED,
        Event.REVOKE: State.REVOKED,
    },
    State.RUNNING: {
        Event.EXIT: State.EXITED,
        Event.FAIL: State.FAILED,
        Event.STOP: State.STOPPED,
        Event.REVOKE: State.REVOKED,
    },
    State.REVOKED: {Event.EXIT: State.ENDED, Event.STOP: State.ENDED, Event.FAIL: State.ENDED},
    State.EXITED: {},
    State.FAILED: {},
    State.STOPPED: {},
    State.ENDED: {},
}
"""`revoked`: authority is gone, the process may still run. `ended`: revoked, and its process is gone too."""

ALIVE = frozenset({State.PENDING, State.RUNNING})
"""States in which a task has authority."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """`cell` numbers the task's cell on its node: it fixes the synthetic addresses of its flows (`core.flow`)."""

    id: str
    role: str
    state: State
    cell: int
    created: datetime
    command: tuple[str, ...] = ()
    parent: str | None = None
    operator: str = ""
    ended: datetime | None = None
    exit_code: int | None = None
    budgets: tuple[Budget, ...] = ()
    """Its own, besides those of its role and capabilities: they only narrow."""
    capabilities: frozenset[str] | None = None
    """Of its role's capabilities, those that it was given; None: all of them."""


def advance(task: Task, event: Event, now: datetime) -> Task:
    """`task` after `event`. `Conflict` where its state does not know the event."""
    target = TRANSITIONS[task.state].get(event)
    if target is None:
        raise Conflict(f"task {task.id} is {task.state}: it cannot {event}", hint="remit ps --all")
    final = not TRANSITIONS[target]
    return replace(task, state=target, ended=now if final else task.ended)
