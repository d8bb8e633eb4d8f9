"""Authority taken away, also from what is already open.

Order matters: stored (so that it survives anything), acknowledged by the node (so that no further request passes),
open connections cut (even where the node did not answer: then they matter most), recorded. A caller who gets an
answer knows that all four happened; one who gets `Unavailable` is told which did. A connection does not say under
which capability it was opened, so revoking a capability or a credential cuts every connection of every task whose
role could use it; clients connect again and are decided anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from remit.control.catalog import Catalog, unknown
from remit.control.ports import Clock
from remit.control.ports_control import Cells, Revocation, RevocationKind, Store, Unit
from remit.control.publish import Publisher
from remit.control.recording import Recorder
from remit.core.errors import Conflict, Invalid, NotFound, Unavailable
from remit.core.snapshot import Rules
from remit.core.task import TRANSITIONS, Event, State, Task, advance


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    kind: RevocationKind
    name: str
    record: str
    flows_closed: int


class Revoking:
    def __init__(
        self,
        *,
        store: Store,
        publisher: Publisher,
        recorder: Recorder,
        cells: Cells,
        catalog: Catalog,
        clock: Clock,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._recorder = recorder
        self._cells = cells
        self._catalog = catalog
        self._clock = clock

    async def revoke(self, kind: RevocationKind, name: str, *, operator: str) -> Revoked:
        """Take it away. Doing so twice cuts and records twice, and is otherwise the same."""
        with self._store.unit() as unit:
            if kind is RevocationKind.TASK:
                task = self._revoke_task(unit, name)
                name, affected = task.id, [task]
            else:
                rules = self._catalog.rules(unit)
                _known(rules, kind, name)
                affected = [task for task in unit.current_tasks() if _uses(rules, task, kind, name)]
            unit.revocations.add(Revocation(kind=kind, name=name, time=self._clock.now(), operator=operator))
            unit.advance_epoch(self._clock.now())
        missed = await self._published()
        closed, uncut = await self._cut(affected)
        if missed is not None or uncut:
            raise _unfinished(kind, name, missed, uncut)
        detail = f"{kind} {name} revoked, {closed} connections closed"
        record = await self._recorder.after("revoke", operator, detail, **_target(kind, name), flows_closed=closed)
        return Revoked(kind=kind, name=name, record=record, flows_closed=closed)

    async def restore(self, kind: RevocationKind, name: str, *, operator: str) -> str:
        """Give a capability or credential its authority back; the record's id. A task cannot come back."""
        if kind is RevocationKind.TASK:
            raise Invalid("a revoked task cannot be restored", hint="start a new one with `remit run`")
        with self._store.unit() as unit:
            if not any(r.kind is kind and r.name == name for r in unit.revocations.all()):
                raise NotFound(f"{kind} {ascii(name[:80])[1:-1]} is not revoked", hint="remit status")
        record = await self._recorder.before("restore", operator, f"{kind} {name} restored", **_target(kind, name))
        with self._store.unit() as unit:
            unit.revocations.remove(kind, name)
            unit.advance_epoch(self._clock.now())
        await self._publisher.publish()
        return record

    def all(self) -> Sequence[Revocation]:
        """Revoked capabilities and credentials, and the tasks that were revoked while their process still runs."""
        with self._store.unit() as unit:
            running = {task.id for task in unit.current_tasks() if task.state is State.REVOKED}
            return [r for r in unit.revocations.all() if r.kind is not RevocationKind.TASK or r.name in running]

    def _revoke_task(self, unit: Unit, prefix: str) -> Task:
        task = unit.tasks.get(prefix)
        if task.state is State.REVOKED:
            return task
        if not TRANSITIONS[task.state]:
            raise Conflict(f"task {task.id} is {task.state}: it has no authority to revoke", hint="remit ps --all")
        task = advance(task, Event.REVOKE, self._clock.now())
        unit.tasks.save(task)
        return task

    async def _published(self) -> Unavailable | None:
        """Why the node does not have it in force, or None. Connections are cut either way."""
        try:
            await self._publisher.publish()
        except Unavailable as error:
            return error
        return None

    async def _cut(self, tasks: Sequence[Task]) -> tuple[int, Sequence[str]]:
        """(connections closed, ids of tasks whose connections could not be)."""
        answers = await asyncio.gather(*(self._cells.cut(task.id) for task in tasks), return_exceptions=True)
        closed, uncut = 0, list[str]()
        for task, answer in zip(tasks, answers, strict=True):
            if isinstance(answer, int):
                closed += answer
            elif isinstance(answer, Unavailable):
                uncut.append(task.id)
            else:
                raise answer
        return closed, uncut


def _unfinished(kind: RevocationKind, name: str, missed: Unavailable | None, uncut: Sequence[str]) -> Unavailable:
    """What was reached and what was not, in the order in which it is dangerous."""
    if missed is not None:
        state = "is stored, but not yet in force on the node, which stops on its own when its lease ends"
        cause = f": {missed.detail}"
    else:
        state, cause = "is in force: the node refuses the next request", ""
    flows = f"; open connections could not be closed of {', '.join(uncut[:5])}" if uncut else ""
    hint = f"remit stop {uncut[0]}" if uncut else "remit status"
    return Unavailable(f"the revocation of {kind} {name} {state}{flows}{cause}", hint=hint)


def _known(rules: Rules, kind: RevocationKind, name: str) -> None:
    known = rules.capabilities if kind is RevocationKind.CAPABILITY else rules.credentials
    if name not in known:
        raise unknown(kind.value, name, known)


def _uses(rules: Rules, task: Task, kind: RevocationKind, name: str) -> bool:
    role = rules.roles.get(task.role)
    if role is None:
        return True  # its role was removed while it ran: nothing says that it did not
    if kind is RevocationKind.CAPABILITY:
        return any(capability.name == name for capability in role.capabilities)
    return any(capability.credential == name for capability in role.capabilities)


def _target(kind: RevocationKind, name: str) -> dict[str, str]:
    return {kind.value: name}
