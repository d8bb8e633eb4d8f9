"""Tasks from their creation to their end, the tokens by which they are known, and the key that signs those.

A cell starts only after the node has acknowledged its task, so that no first connection is refused as unknown; and a
task whose cell is gone loses its authority even when nobody reported its end (`reconcile`).
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any

from remit.control import catalog, delegating, ids
from remit.control.catalog import Catalog
from remit.control.pending import Pending
from remit.control.ports import Clock
from remit.control.ports_control import Issuer, RevocationKind, Store
from remit.control.publish import Publisher
from remit.control.recording import Recorder
from remit.core import delegation, prefixes
from remit.core.budget import Budget
from remit.core.claims import Claims
from remit.core.errors import Conflict, Invalid, RemitError
from remit.core.snapshot import Role, Rules
from remit.core.task import ALIVE, TRANSITIONS, Event, State, Task, advance
from remit.policy.budgets import of_task

MAX_COMMAND = 256
MAX_ARGUMENT = 4096
STARTING_S = 30.0
"""How long a new task may be without a cell before it counts as lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """`expires` in Unix seconds."""

    token: str
    expires: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """All that a cell needs to start. `environment`: the role's variables and the placeholders of its credentials."""

    task: Task
    token: Token
    environment: Mapping[str, str]
    limits: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Basis:
    """What a task is started on. `chain`: for the record, the tasks that it stands below."""

    rules: Rules
    role: Role
    given: frozenset[str] | None
    parent: str | None = None
    chain: Mapping[str, Any] = field(default_factory=dict)


class Lifecycle:
    def __init__(
        self,
        *,
        store: Store,
        publisher: Publisher,
        recorder: Recorder,
        issuer: Issuer,
        catalog: Catalog,
        clock: Clock,
        pending: Pending,
        trust_domain: str,
        token_ttl_s: float,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._recorder = recorder
        self._issuer = issuer
        self._catalog = catalog
        self._clock = clock
        self._pending = pending
        self._trust_domain = trust_domain
        self._token_ttl_s = int(token_ttl_s)
        self._begun: dict[str, float] = {}
        """When tasks of this life began, by a clock that nobody sets."""

    async def create(
        self,
        role_name: str,
        command: Sequence[str],
        *,
        operator: str,
        budgets: Sequence[str] = (),
        capabilities: Sequence[str] = (),
        parent: str | None = None,
        request: str | None = None,
    ) -> Created:
        """A pending task under a role, known to the node. The command is kept for `remit ps`, cut where it is long.

        `budgets`: the task's own (`requests=100`); they narrow what its role has, as `capabilities` does: the names of
        those it gets, none for all. `parent`: the task it is a part of (`core.delegation`); `Conflict` where its role
        would be wider. `request`: the record of the request by which the parent itself asked for it.
        """
        if not command:
            raise Invalid("a task needs a command", hint="remit run --role ROLE -- COMMAND")
        own, task_id = of_task(budgets), ids.new(prefixes.TASK)
        basis = self._basis(role_name, capabilities, parent, task_id)
        asked = f" at the word of task {parent}" if request is not None else ""
        detail = f"task {task_id} created under role {basis.role.name}{asked}"
        named: dict[str, Any] = {
            **({"budgets": list(budgets)} if budgets else {}),
            **basis.chain,
            **({"request": request} if request is not None else {}),
            **({"capabilities": sorted(set(capabilities))} if capabilities else {}),
        }
        await self._recorder.before("task.create", operator, detail, task=task_id, role=basis.role.name, **named)
        task = self._added(task_id, basis, command, operator, own)
        try:
            token = self._mint(task)
            await self._publisher.publish()
        except RemitError:
            self.failed(task.id)
            raise
        return Created(
            task=task,
            token=token,
            environment=environment(basis.role, basis.rules, basis.given),
            limits=asdict(basis.role.limits),
        )

    def _added(
        self, identity: str, basis: _Basis, command: Sequence[str], operator: str, budgets: tuple[Budget, ...]
    ) -> Task:
        with self._store.unit() as unit:
            now = self._clock.now()
            task = Task(
                id=identity,
                role=basis.role.name,
                state=State.PENDING,
                cell=unit.next_cell(),
                created=now,
                command=tuple(argument[:MAX_ARGUMENT] for argument in command[:MAX_COMMAND]),
                operator=operator,
                budgets=budgets,
                capabilities=basis.given,
                parent=basis.parent,
            )
            unit.tasks.add(task)
            unit.advance_epoch(now)
        self._begun[identity] = self._clock.elapsed()
        return task

    def _basis(self, role_name: str, capabilities: Sequence[str], parent: str | None, task_id: str) -> _Basis:
        """What a task would stand on. `Conflict` or `Invalid` where there is no authority to start it."""
        with self._store.unit() as unit:
            rules = self._catalog.rules(unit)
            revoked = {(r.kind, r.name) for r in self._pending.revoked(unit)}
            above = unit.tasks.get(parent) if parent is not None else None
            alive = {task.id: task for task in self._pending.over(unit.current_tasks())}
        role = catalog.role(rules, role_name)
        if any(kind is RevocationKind.EVERYTHING for kind, _ in revoked):
            raise Conflict("everything is revoked: no task can start", hint="remit panic --lift --reason WHY")
        if (RevocationKind.ROLE, role.name) in revoked:
            raise Conflict(f"role {role.name} is revoked", hint=f"remit restore role {role.name}")
        if role.invalid is not None:
            raise Conflict(f"role {role.name} {role.invalid}", hint="fix its manifest and run `remit apply`")
        given = delegating.given(role, capabilities)
        if above is None:
            return _Basis(rules=rules, role=role, given=given)
        gone = frozenset(name for kind, name in revoked if kind is RevocationKind.ROLE)
        chain = delegating.entrusted(rules, gone, alive, above, role, task_id, given)
        return _Basis(rules=rules, role=role, given=given, parent=above.id, chain=chain)

    def started(self, task_id: str) -> Task:
        """The command runs. `Conflict` where the task was revoked or ended meanwhile: it must not run on."""
        task = self._move(task_id, Event.START)
        self._publisher.publish_later()
        return task

    def exited(self, task_id: str, code: int | None, *, stopped: bool = False) -> Task:
        """The cell and every process in it are gone. Telling it twice is the same as once."""
        task = self._move(task_id, Event.STOP if stopped else Event.EXIT, code=code)
        self._publisher.publish_later()
        return task

    def failed(self, task_id: str) -> Task:
        """The cell could not be started, or was lost."""
        task = self._move(task_id, Event.FAIL)
        self._publisher.publish_later()
        return task

    def renew(self, task_id: str) -> Token:
        """A fresh token. `Conflict` where the task has no authority any more."""
        task = self.get(task_id)
        if task.state not in ALIVE:
            raise Conflict(f"task {task.id} is {task.state}: it gets no token", hint="remit ps --all")
        return self._mint(task)

    def get(self, prefix: str) -> Task:
        """The task whose id starts with `prefix`; `t-` may be left out."""
        with self._store.unit() as unit:
            return self._pending.over([unit.tasks.get(prefix)])[0]

    def all(self, *, alive_only: bool) -> Sequence[Task]:
        """Those that still hold a cell (revoked ones whose process runs are among them), or every one."""
        with self._store.unit() as unit:
            return self._pending.over(unit.current_tasks() if alive_only else unit.tasks.all())

    def reconcile(self, running: frozenset[str]) -> Sequence[Task]:
        """Fail every task that should have a cell and is not among `running`; those that were failed."""
        alive = self.all(alive_only=True)
        self._begun = {task.id: self._begun[task.id] for task in alive if task.id in self._begun}
        lost = [task for task in alive if task.id not in running and not self._starting(task)]
        ended = [self._move(task.id, Event.FAIL) for task in lost]
        if ended:
            self._publisher.publish_later()
        return ended

    def _starting(self, task: Task) -> bool:
        begun = self._begun.get(task.id)
        if begun is not None:
            return self._clock.elapsed() - begun <= STARTING_S
        return task.created >= self._clock.now() - timedelta(seconds=STARTING_S)

    async def rotate(self, *, operator: str, compromised: bool = False) -> tuple[str, str]:
        """A new signing key: (its id, id of the record). The node learns of it before it signs anything.

        Ends nothing: old tokens verify until no connection can carry one. `compromised`: they end at once, with every
        connection that carries one; cells fetch new tokens by themselves.
        """
        why = "because the old one is compromised" if compromised else "on request"
        record = await self._recorder.before("issuer.rotate", operator, f"issuer key rotated {why}")
        kid = self._issuer.prepare()
        await self._publish()
        self._issuer.activate(compromised=compromised)
        if compromised:
            await self._publish()
        return kid, record

    async def _publish(self) -> None:
        with self._store.unit() as unit:
            unit.advance_epoch(self._clock.now())
        await self._publisher.publish()

    async def pruned(
        self, tasks: Sequence[str], *, kept: Collection[str], size_bytes: int, older_than_s: float, operator: str
    ) -> tuple[str, int]:
        """What is left of `tasks` is about to be removed: (the record's id, how many tasks were forgotten here).

        Those are `tasks`, and all others that ended `older_than_s` ago and of which nothing is `kept`.
        `Conflict`: one of them has not ended.
        """
        with self._store.unit() as unit:
            alive = {task.id for task in unit.current_tasks()}
        for name in tasks:
            if name in alive:
                raise Conflict(f"task {name} has not ended: it is not pruned", hint="remit ps")
        detail = f"{len(tasks)} ended tasks pruned, {size_bytes} bytes"
        record = await self._recorder.before("task.prune", operator, detail, tasks=list(tasks), bytes=size_bytes)
        with self._store.unit() as unit:
            before = self._clock.now() - timedelta(seconds=older_than_s)
            return record, unit.tasks.prune(tasks, ended_before=before, kept=kept)

    def _move(self, task_id: str, event: Event, *, code: int | None = None) -> Task:
        with self._store.unit() as unit:
            task = unit.tasks.get(task_id)
            told_before = task.state is State.RUNNING if event is Event.START else not TRANSITIONS[task.state]
            if told_before:
                return task
            if event is Event.EXIT and task.state is State.PENDING:
                task = advance(task, Event.START, self._clock.now())  # it ended before its start was reported
            task = replace(advance(task, event, self._clock.now()), exit_code=code)
            unit.tasks.save(task)
            unit.advance_epoch(self._clock.now())
            return task

    def _mint(self, task: Task) -> Token:
        issued = int(self._clock.now().timestamp())
        claims = Claims(
            trust_domain=self._trust_domain,
            role=task.role,
            task=task.id,
            jti=secrets.token_urlsafe(9),
            issued=issued,
            expires=issued + self._token_ttl_s,
            parent=task.parent,
        )
        return Token(token=self._issuer.mint(claims), expires=claims.expires)


def environment(role: Role, rules: Rules, given: frozenset[str] | None = None) -> Mapping[str, str]:
    """The role's variables, and the placeholder of each credential that its capabilities use (`given`; None: all)."""
    variables: dict[str, str] = {}
    for capability in delegation.among(role.capabilities, delegation.usable(role, given)):
        for name in capability.credentials:
            credential = rules.credentials.get(name)
            for placeholder in credential.placeholders if credential is not None else ():
                variables[placeholder.variable] = placeholder.value
    return {**variables, **role.environment}
