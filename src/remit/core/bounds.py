"""Which budgets bound a task, and a request of it: the task's own, its role's, its capabilities', those of tasks above.

A child spends of what it has and of what every task above it has, so that no tree of tasks uses more than its root may.
What several tasks share is charged once for each request.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from remit.core import budget as budgets
from remit.core import delegation
from remit.core.budget import Budget, Line
from remit.core.capability import Capability
from remit.core.decision import Candidate
from remit.core.snapshot import Role, Snapshot
from remit.core.task import Task


def of_request(candidate: Candidate) -> tuple[Line, ...]:
    """Those that apply, in the order in which they are named: the task's, the role's, the capability's, those above."""
    role, capability, task = candidate.role, candidate.capability, candidate.task
    owned = [
        *_own(task, *(one.task for one in candidate.above)),
        (f"role/{role.name}", role.budgets),
        (f"capability/{capability.name}", capability.budgets),
    ]
    return _distinct(
        budgets.applying(owned, task.id),
        *(_of_above(one.task, one.role, (one.capability,) if one.capability else ()) for one in candidate.above),
    )


def of_task(snapshot: Snapshot, task: Task) -> tuple[Line, ...]:
    """Every one that can apply to some request of `task`."""
    role, above = _role(snapshot, task), tuple(_above(snapshot, task))
    owned = [
        *_own(task, *(one for one, _ in above)),
        (f"role/{role.name}", role.budgets),
        *((f"capability/{one.name}", one.budgets) for one in role.capabilities),
    ]
    return _distinct(budgets.applying(owned, task.id), *(_of_above(one, its, its.capabilities) for one, its in above))


def of_no_task(snapshot: Snapshot) -> Iterator[Line]:
    """Those of roles and capabilities that all their tasks use up together."""
    rules = snapshot.rules
    owned = (
        *((f"role/{role.name}", role.budgets) for role in rules.roles.values()),
        *((f"capability/{one.name}", one.budgets) for one in rules.capabilities.values()),
    )
    yield from budgets.applying(((owner, [one for one in each if not one.each_task]) for owner, each in owned), "")


def age_s(snapshot: Snapshot, line: Line, task: Task | None, now_ms: int) -> int:
    """How much of a budget of time is used: the age of the task whose own it is, `task` where the name tells none."""
    whose = snapshot.tasks.get(budgets.owner_task(line.account) or "") or task
    return max(0, now_ms // 1000 - math.floor(whose.created.timestamp())) if whose is not None else 0


def _own(*tasks: Task) -> Iterator[tuple[str, Sequence[Budget]]]:
    """What each task has of its own."""
    return ((f"task/{one.id}", one.budgets) for one in tasks)


def _above(snapshot: Snapshot, task: Task) -> Iterator[tuple[Task, Role]]:
    """The tasks it descends from, its parent first, with their roles."""
    one = snapshot.tasks.get(task.parent or "")
    for _ in range(delegation.MAX_DEPTH):
        if one is None:
            return
        yield one, _role(snapshot, one)
        one = snapshot.tasks.get(one.parent or "")


def _role(snapshot: Snapshot, task: Task) -> Role:
    return snapshot.rules.roles.get(task.role) or Role(name=task.role)


def _of_above(task: Task, role: Role, capabilities: Sequence[Capability]) -> tuple[Line, ...]:
    """What a request of a child uses of the budgets of a task above it."""
    owned = [(f"role/{role.name}", role.budgets), *((f"capability/{one.name}", one.budgets) for one in capabilities)]
    return budgets.applying(owned, task.id)


def _distinct(*groups: Sequence[Line]) -> tuple[Line, ...]:
    """Each account once: a request is charged once to what several tasks share."""
    return tuple({line.account: line for group in groups for line in group}.values())
