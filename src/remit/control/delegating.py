"""Whether a task may start a child, and who hangs on whom: tasks as a tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from remit.core import delegation, doorway
from remit.core.errors import Conflict, Invalid
from remit.core.reason import Refusal
from remit.core.snapshot import Revoked, Role, Rules, Snapshot
from remit.core.task import State, Task


def entrusted(
    rules: Rules,
    revoked_roles: frozenset[str],
    tasks: Mapping[str, Task],
    parent: Task,
    role: Role,
    child: str,
    given: frozenset[str] | None = None,
) -> Mapping[str, Any]:
    """What the record of task `child` under `role` says of those above it. `Conflict`: it may not be started.

    `tasks`: those that have not ended. `given`: which of the role's capabilities it is to have; None: all.
    """
    # What it is asked about is the task as it would be; cell and time say nothing there.
    never = datetime.min.replace(tzinfo=UTC)
    wanted = Task(id=child, role=role.name, state=State.PENDING, cell=1, created=never, parent=parent.id)
    snapshot = Snapshot(rules=rules, tasks=tasks, revoked=Revoked(roles=revoked_roles))
    found = delegation.lineage(snapshot, wanted, role)
    wider = (
        found
        if isinstance(found, Refusal)
        else delegation.beyond(found[0].role, role, held=parent.capabilities, given=given)
    )
    if wider is not None:
        detail = f"task {parent.id} cannot delegate to role {role.name}: {wider.detail}"
        raise Conflict(detail, hint=wider.meaning.next)
    assert not isinstance(found, Refusal)
    return delegation.chain(found)


def with_descendants(tasks: Sequence[Task], alive: Iterable[Task]) -> list[Task]:
    """`tasks`, and every one of `alive` that stands below one of them."""
    found = {task.id: task for task in tasks}
    left = list(alive)
    while below := [task for task in left if task.parent in found and task.id not in found]:
        found |= {task.id: task for task in below}
    return list(found.values())


def given(role: Role, names: Sequence[str]) -> frozenset[str] | None:
    """What a task gets of its role where it is narrowed to `names`; None where it is not. `Invalid` for no such name.

    Whether it may delegate is another right, which it keeps: what it hands on is a part of what it has.
    """
    if not names:
        return None
    known = {one.name for one in role.capabilities}
    for name in names:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise Invalid(f"role {role.name} has no capability {name[:80]!a}", hint=f"it has: {listed}")
    return frozenset(names) | ({doorway.CAPABILITY.name} if role.delegates else frozenset())
