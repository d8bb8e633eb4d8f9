"""Authority taken away, also from what is already open.

Order matters: stored (so that it survives anything; what cannot be stored is held, see `pending`, and goes on),
acknowledged by the node (so that no further request passes), open connections cut (even where the node did not answer:
then they matter most), recorded. A caller who gets an answer knows that all four happened, or which are pending; one
who gets `Unavailable` is told which did. Of a capability or a credential those connections are cut that carry something
open under it, as the node knows them; where it cannot say, every connection of every task whose role could use it.
Clients connect again and are decided anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from remit.control.catalog import Catalog, unknown
from remit.control.cutting import Cutting
from remit.control.delegating import with_descendants
from remit.control.pending import Pending
from remit.control.ports import Clock
from remit.control.ports_control import Cells, Flows, Node, Revocation, RevocationKind, Store, Unit
from remit.control.publish import Publisher
from remit.control.recording import Recorder
from remit.core.errors import Conflict, Invalid, NotFound, Unavailable
from remit.core.snapshot import Rules
from remit.core.task import TRANSITIONS, Event, State, Task, advance

EVERYTHING = "*"
"""The name of the one revocation of kind `everything`."""
MAX_WHY = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    kind: RevocationKind
    name: str
    record: str | None
    flows_closed: int
    pending: str | None = None
    """Why the database does not have it yet. It is in force and survives a restart; its record follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """`why` the database does not have it; `lost` where a restart of the control plane would forget it."""

    why: str | None = None
    lost: bool = False

    def told(self) -> str:
        if self.why is None:
            return "stored"
        if not self.lost:
            return f"kept in the reserve ({self.why})"
        return f"in memory only, and a restart of the control plane would forget it ({self.why}): free some disk first"


class Revoking:
    def __init__(
        self,
        *,
        store: Store,
        node: Node,
        publisher: Publisher,
        recorder: Recorder,
        cells: Cells,
        catalog: Catalog,
        clock: Clock,
        pending: Pending,
    ) -> None:
        self._store = store
        self._pending = pending
        self._cutting = Cutting(node=node, cells=cells)
        self._publisher = publisher
        self._recorder = recorder
        self._cells = cells
        self._catalog = catalog
        self._clock = clock

    async def revoke(self, kind: RevocationKind, name: str, *, operator: str) -> Revoked:
        """Take it away. Doing so twice cuts and records twice, and is otherwise the same."""
        if kind is RevocationKind.EVERYTHING:
            raise Invalid("everything is revoked by `panic`, with a reason", hint="remit panic --reason WHY")
        with self._store.unit() as unit:
            if kind is RevocationKind.TASK:
                task = _revocable(unit, name)
                name, affected = task.id, [task]
            else:
                rules = self._catalog.rules(unit)
                _known(rules, kind, name)
                affected = [task for task in unit.current_tasks() if _uses(rules, task, kind, name)]
            whole = with_descendants(affected, unit.current_tasks())
        kept = self._keep(Revocation(kind=kind, name=name, time=self._clock.now(), operator=operator))
        missed = await self._publisher.missed()
        flows = await self._flows(kind, name, affected, missed)
        below = dict.fromkeys(task.id for task in whole if task.id not in {one.id for one in affected})
        closed, uncut = await self._cutting.cut({**flows, **below})
        if missed is not None or uncut or kept.lost:
            raise _unfinished(kind, name, missed, uncut, kept)
        if kept.why is not None:
            return Revoked(kind=kind, name=name, record=None, flows_closed=closed, pending=kept.why)
        detail = f"{kind} {name} revoked, {closed} connections closed"
        record = await self._recorder.after("revoke", operator, detail, **_target(kind, name), flows_closed=closed)
        return Revoked(kind=kind, name=name, record=record, flows_closed=closed)

    async def settle(self) -> None:
        """Store and record what is pending. `Unavailable`: not all of it could be; try again later."""
        self._pending.settle(self._store)
        while self._pending.unrecorded:
            one = self._pending.unrecorded[0]
            detail = f"{one.kind} {one.name} revoked at {one.time.isoformat()}, when the database could not be written"
            await self._recorder.after("revoke", one.operator, detail, **_target(one.kind, one.name))
            self._pending.unrecorded.pop(0)

    def _keep(self, revocation: Revocation) -> _Kept:
        """Store it, or else hold it: it is in force with the next snapshot either way."""
        try:
            with self._store.unit() as unit:
                if revocation.kind is RevocationKind.TASK:
                    self._revoke_task(unit, revocation.name)
                unit.revocations.add(revocation)
                unit.advance_epoch(self._clock.now())
        except Unavailable as error:
            with self._store.unit() as unit:
                stored = unit.epoch()
            return _Kept(why=error.detail, lost=not self._pending.hold(revocation, stored))
        return _Kept()

    async def panic(self, why: str, *, operator: str) -> Revoked:
        """Take everything from everybody: no request passes and no task starts until `lift`."""
        reason = _why(why)
        revocation = Revocation(
            kind=RevocationKind.EVERYTHING, name=EVERYTHING, time=self._clock.now(), operator=operator
        )
        kept = self._keep(revocation)
        missed = await self._publisher.missed()
        uncut: list[str] = []
        closed = 0
        try:
            closed = await self._cells.cut_everything()
        except Unavailable:
            uncut = ["every task"]
        if missed is not None or uncut or kept.lost:
            raise _unfinished(RevocationKind.EVERYTHING, EVERYTHING, missed, uncut, kept)
        if kept.why is not None:
            kind, name = RevocationKind.EVERYTHING, EVERYTHING
            return Revoked(kind=kind, name=name, record=None, flows_closed=closed, pending=kept.why)
        detail = f"everything revoked, {closed} connections closed"
        record = await self._recorder.after("panic", operator, detail, why=reason, flows_closed=closed)
        return Revoked(kind=RevocationKind.EVERYTHING, name=EVERYTHING, record=record, flows_closed=closed)

    async def lift(self, why: str, *, operator: str) -> str:
        """End a panic; the record's id. What was revoked on its own stays revoked."""
        reason = _why(why)
        self._pending.settle(self._store)
        with self._store.unit() as unit:
            if not any(r.kind is RevocationKind.EVERYTHING for r in unit.revocations.all()):
                raise NotFound("there is no panic to lift", hint="remit revocations")
        record = await self._recorder.before("panic.lift", operator, "the revocation of everything lifted", why=reason)
        with self._store.unit() as unit:
            unit.revocations.remove(RevocationKind.EVERYTHING, EVERYTHING)
            unit.advance_epoch(self._clock.now())
        await self._publisher.publish()
        return record

    async def restore(self, kind: RevocationKind, name: str, *, operator: str) -> str:
        """Give a role, capability or credential its authority back; the record's id. A task cannot come back."""
        if kind is RevocationKind.TASK:
            raise Invalid("a revoked task cannot be restored", hint="start a new one with `remit run`")
        if kind is RevocationKind.EVERYTHING:
            raise Invalid("a panic is lifted with a reason", hint="remit panic --lift --reason WHY")
        self._pending.settle(self._store)
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
        """What is revoked until it is restored, and the tasks that were revoked while their process still runs."""
        with self._store.unit() as unit:
            running = {task.id for task in self._pending.over(unit.current_tasks()) if task.state is State.REVOKED}
            return [r for r in self._pending.revoked(unit) if r.kind is not RevocationKind.TASK or r.name in running]

    def is_pending(self, revocation: Revocation) -> bool:
        """Whether the database does not have it yet."""
        return revocation in self._pending.all()

    def _revoke_task(self, unit: Unit, name: str) -> None:
        task = unit.tasks.get(name)
        if task.state is not State.REVOKED:
            unit.tasks.save(advance(task, Event.REVOKE, self._clock.now()))

    async def _flows(self, kind: RevocationKind, name: str, tasks: Sequence[Task], missed: Unavailable | None) -> Flows:
        """What to cut. The node is asked only after it has acknowledged, or it could permit more meanwhile."""
        everything = [task.id for task in tasks]
        if missed is None and kind in (RevocationKind.CAPABILITY, RevocationKind.CREDENTIAL):
            return await self._cutting.using(kind, name, everything)
        return dict.fromkeys(everything)


def _revocable(unit: Unit, prefix: str) -> Task:
    task = unit.tasks.get(prefix)
    if task.state is not State.REVOKED and not TRANSITIONS[task.state]:
        raise Conflict(f"task {task.id} is {task.state}: it has no authority to revoke", hint="remit ps --all")
    return task


def _unfinished(
    kind: RevocationKind, name: str, missed: Unavailable | None, uncut: Sequence[str], kept: _Kept
) -> Unavailable:
    """What was reached and what was not, in the order in which it is dangerous."""
    if missed is not None:
        state = f"is {kept.told()}, but not yet in force on the node, which stops on its own when its lease ends"
        cause = f": {missed.detail}"
    else:
        state, cause = "is in force: the node refuses the next request", ""
        if kept.lost:
            state += f"; but it is {kept.told()}"
    flows = f"; open connections could not be closed of {', '.join(uncut[:5])}" if uncut else ""
    hint = f"remit stop {uncut[0]}" if uncut and kind is not RevocationKind.EVERYTHING else "remit status"
    what = kind.value if kind is RevocationKind.EVERYTHING else f"{kind} {name}"
    return Unavailable(f"the revocation of {what} {state}{flows}{cause}", hint=hint)


def _why(text: str) -> str:
    """The reason an operator gives, as it may stand in a record."""
    if not text.strip():
        raise Invalid("a reason is needed", hint='remit panic --reason "what happened"')
    return ascii(text.strip()[:MAX_WHY])[1:-1]


def _known(rules: Rules, kind: RevocationKind, name: str) -> None:
    known: Mapping[str, object] = rules.roles
    if kind is RevocationKind.CAPABILITY:
        known = rules.capabilities
    elif kind is RevocationKind.CREDENTIAL:
        known = rules.credentials
    if name not in known:
        raise unknown(kind.value, name, known)


def _uses(rules: Rules, task: Task, kind: RevocationKind, name: str) -> bool:
    if kind is RevocationKind.ROLE:
        return task.role == name
    role = rules.roles.get(task.role)
    if role is None:
        return True  # its role was removed while it ran: nothing says that it did not
    if kind is RevocationKind.CAPABILITY:
        return any(capability.name == name for capability in role.capabilities)
    return any(name in capability.credentials for capability in role.capabilities)


def _target(kind: RevocationKind, name: str) -> dict[str, str]:
    return {kind.value: name}
