"""In-memory adapters for every port of the control plane: for tests of Remit, and of what is built on it.

They keep the contracts of the real ones (`tests/contract` runs on both) without files, sockets or clocks.
Must not be imported by anything that governs real agents.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from remit.control.ports_control import (
    Acknowledged,
    AuditKey,
    Document,
    Flows,
    Head,
    Known,
    Reach,
    Revocation,
    RevocationKind,
    SealedSecret,
)
from remit.core import names, prefixes, spent
from remit.core.claims import MAX_TOKEN_BYTES, Claims
from remit.core.errors import Conflict, Invalid, Unavailable
from remit.core.flow import MAX_CELL
from remit.core.names import Address
from remit.core.task import ALIVE, TRANSITIONS, Task
from remit.testing.approvals import ApprovalRows, MemoryApprovals, MemoryGrants
from remit.testing.approvals import MemoryDesk as MemoryDesk
from remit.testing.approvals import MemoryNotifier as MemoryNotifier
from remit.testing.audit import MemoryAcknowledgements
from remit.testing.audit import MemoryAudit as MemoryAudit
from remit.testing.audit import MemoryDecisions as MemoryDecisions
from remit.testing.deciding import DirectPolicies as DirectPolicies
from remit.testing.deciding import MemoryJournal as MemoryJournal
from remit.testing.deciding import MemorySecrets as MemorySecrets
from remit.testing.deciding import StaticPolicies as StaticPolicies
from remit.testing.deciding import StaticResolver as StaticResolver
from remit.testing.deciding import StaticVerifier as StaticVerifier
from remit.testing.delegating import MemoryChild as MemoryChild
from remit.testing.delegating import MemoryChildren as MemoryChildren
from remit.testing.operators import MemoryOperators, OperatorRows


class ManualClock:
    """Stands still until time passes (`advance`) or the clock is set (`set_by`)."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now, self._elapsed = start, 0.0

    def elapsed(self) -> float:
        return self._elapsed

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        self.set_by(seconds)
        self._elapsed += seconds

    def set_by(self, seconds: float) -> None:
        """Somebody sets the clock forward, or back; no time passes."""
        self._now += timedelta(seconds=seconds)


@dataclass(slots=True)
class _Tables:
    documents: dict[tuple[str, str], Document] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    revocations: dict[tuple[RevocationKind, str], Revocation] = field(default_factory=dict)
    secrets: dict[str, SealedSecret] = field(default_factory=dict)
    heads: list[Head] = field(default_factory=list)
    audit_keys: dict[str, AuditKey] = field(default_factory=dict)
    operators: OperatorRows = field(default_factory=OperatorRows)
    approvals: ApprovalRows = field(default_factory=ApprovalRows)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    epoch: int = 0
    cell: int = 0


class MemoryDocuments:
    def __init__(self, rows: dict[tuple[str, str], Document]) -> None:
        self._rows = rows

    def all(self) -> Sequence[Document]:
        return [copy.deepcopy(self._rows[key]) for key in sorted(self._rows)]

    def get(self, kind: str, name: str) -> Document | None:
        return copy.deepcopy(self._rows.get((kind, name)))

    def put(self, document: Document, now: datetime) -> None:
        self._rows[document["kind"], document["metadata"]["name"]] = copy.deepcopy(document)

    def remove(self, kind: str, name: str) -> bool:
        return self._rows.pop((kind, name), None) is not None


class MemoryTasks:
    def __init__(self, rows: dict[str, Task]) -> None:
        self._rows = rows

    def add(self, task: Task) -> None:
        if task.id in self._rows or any(t.cell == task.cell for t in self._rows.values() if TRANSITIONS[t.state]):
            raise Conflict(f"task {task.id} or its cell {task.cell} exists already")
        self._rows[task.id] = task

    def get(self, prefix: str) -> Task:
        start = prefixes.TASK.start(prefix)
        found = [task for key, task in self._rows.items() if start is not None and key.startswith(start)]
        return prefixes.TASK.only(prefix, found)

    def save(self, task: Task) -> None:
        if task.id not in self._rows:
            raise prefixes.TASK.missing(task.id)
        self._rows[task.id] = task

    def all(self, *, alive_only: bool = False) -> Sequence[Task]:
        tasks = sorted(self._rows.values(), key=lambda task: (task.created, task.id))
        return [task for task in tasks if not alive_only or task.state in ALIVE]

    def prune(self, tasks: Collection[str], *, ended_before: datetime, kept: Collection[str]) -> int:
        old = [t.id for t in self._rows.values() if t.ended and t.ended < ended_before and t.id not in kept]
        gone = [t.id for t in self._rows.values() if not TRANSITIONS[t.state] and (t.id in tasks or t.id in old)]
        for name in gone:
            del self._rows[name]
        return len(gone)


class MemoryRevocations:
    def __init__(self, rows: dict[tuple[RevocationKind, str], Revocation]) -> None:
        self._rows = rows

    def all(self) -> Sequence[Revocation]:
        return sorted(self._rows.values(), key=lambda r: (r.time, r.kind, r.name))

    def add(self, revocation: Revocation) -> bool:
        key = (revocation.kind, revocation.name)
        return self._rows.setdefault(key, revocation) is revocation

    def remove(self, kind: RevocationKind, name: str) -> bool:
        return self._rows.pop((kind, name), None) is not None


class MemorySealedSecrets:
    def __init__(self, rows: dict[str, SealedSecret]) -> None:
        self._rows = rows

    def all(self) -> Sequence[SealedSecret]:
        return [self._rows[name] for name in sorted(self._rows)]

    def get(self, name: str) -> SealedSecret | None:
        return self._rows.get(name)

    def put(self, secret: SealedSecret) -> None:
        self._rows[secret.name] = secret

    def remove(self, name: str) -> bool:
        return self._rows.pop(name, None) is not None


class MemoryHeads:
    def __init__(self, rows: list[Head]) -> None:
        self._rows = rows

    def add(self, head: Head) -> None:
        if not any((h.seq, h.hash) == (head.seq, head.hash) for h in self._rows):
            self._rows.append(head)

    def latest(self) -> Head | None:
        return max(self._rows, key=lambda head: head.seq, default=None)

    def all(self) -> Sequence[Head]:
        return sorted(self._rows, key=lambda head: head.seq)


class MemoryAuditKeys:
    def __init__(self, rows: dict[str, AuditKey]) -> None:
        self._rows = rows

    def all(self) -> Sequence[AuditKey]:
        return sorted(self._rows.values(), key=lambda one: (one.since, one.key))

    def put(self, key: AuditKey) -> None:
        self._rows[key.key] = key


class MemoryUnit:
    def __init__(self, tables: _Tables) -> None:
        self._tables = tables
        self.documents = MemoryDocuments(tables.documents)
        self.tasks = MemoryTasks(tables.tasks)
        self.revocations = MemoryRevocations(tables.revocations)
        self.secrets = MemorySealedSecrets(tables.secrets)
        self.heads = MemoryHeads(tables.heads)
        self.audit_keys = MemoryAuditKeys(tables.audit_keys)
        self.acknowledgements = MemoryAcknowledgements(tables.acknowledged)
        self.operators = MemoryOperators(tables.operators)
        self.approvals = MemoryApprovals(tables.approvals)
        self.grants = MemoryGrants(tables.approvals)

    def current_tasks(self, *, ended_since: datetime | None = None) -> Sequence[Task]:
        def recent(task: Task) -> bool:
            return ended_since is not None and task.ended is not None and task.ended >= ended_since

        return [task for task in self.tasks.all() if TRANSITIONS[task.state] or recent(task)]

    def epoch(self) -> int:
        return self._tables.epoch

    def advance_epoch(self, now: datetime) -> int:
        self._tables.epoch = max(self._tables.epoch + 1, int(now.timestamp() * 1000))
        return self._tables.epoch

    def next_cell(self) -> int:
        taken = {task.cell for task in self._tables.tasks.values() if TRANSITIONS[task.state]}
        for _ in range(len(taken) + 1):
            self._tables.cell = self._tables.cell % MAX_CELL + 1
            if self._tables.cell not in taken:
                break
        return self._tables.cell


class MemoryStore:
    """Implements `control.ports_control.Store`."""

    def __init__(self) -> None:
        self._tables = _Tables()

    @contextlib.contextmanager
    def unit(self) -> Iterator[MemoryUnit]:
        now = self._tables
        draft = replace(
            now,
            documents=dict(now.documents),
            tasks=dict(now.tasks),
            revocations=dict(now.revocations),
            secrets=dict(now.secrets),
            heads=list(now.heads),
            operators=now.operators.copy(),
            approvals=now.approvals.copy(),
            acknowledged=list(now.acknowledged),
        )
        yield MemoryUnit(draft)
        self._tables = draft


class MemoryReserve:
    """Implements `control.ports_control.Reserve`. Set `full` and it answers like a disk that cannot be written."""

    def __init__(self) -> None:
        self.full = False
        self._saved: tuple[Revocation, ...] = ()

    def load(self) -> Sequence[Revocation]:
        return self._saved

    def save(self, revocations: Sequence[Revocation]) -> None:
        if self.full:
            raise Unavailable("no space is left")
        self._saved = tuple(revocations)


class MemoryNode:
    """Implements `control.ports_control.Node`. Set `connected` to False and it answers like a node that is away.

    `open`: what is open by authority; None where the node cannot say. `budgets`: what it says of their use.
    `probes`: what it says of credentials; of all others that they could be had. `own`, `fixed`: see `Known`."""

    def __init__(self) -> None:
        self.connected, self.acked_epoch = True, 0
        self.snapshots: list[Mapping[str, Any]] = []
        self.records: list[tuple[str, Mapping[str, Any]]] = []
        self.open: dict[tuple[str, str], Flows] | None = None
        self.budgets: Sequence[Mapping[str, Any]] = ()
        self.probes: dict[str, Mapping[str, Any]] = {}
        self.rekeying: list[tuple[str, str]] = []
        self.own: frozenset[Address] | None = frozenset()
        self.fixed: dict[str, tuple[Address, ...]] = {}

    async def returned(self) -> None:
        """It is there, or it does not come back."""

    async def publish(self, snapshot: Mapping[str, Any]) -> None:
        self._here()
        self.snapshots.append(snapshot)
        self.acked_epoch = max(self.acked_epoch, int(snapshot["epoch"]))

    async def using(self, kind: str, name: str) -> Flows:
        self._here()
        if self.open is not None:
            return self.open.get((kind, name), {})
        raise Unavailable("the node did not say in time what is open", hint="remit status")

    async def record(self, kind: str, fields: Mapping[str, Any]) -> str:
        self._here()
        self.records.append((kind, dict(fields)))
        return f"r-{len(self.records):010d}"

    async def probe(self, credentials: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        self._here()
        return [{"credential": name, **self.probes.get(name, {"ok": True, "detail": ""})} for name in credentials]

    async def rekey(self, step: str, name: str = "", blob: bytes = b"") -> bytes:
        """`rekeying`: what was asked, in order. A blob sealed anew is itself, reversed."""
        self._here()
        self.rekeying.append((step, name))
        return blob[::-1]

    async def usage(self, wanted: Sequence[str] = ()) -> Sequence[Mapping[str, Any]]:
        self._here()
        return [one for one in self.budgets if not wanted or spent.meant(one, wanted)]

    async def addresses(self, host: str) -> Known:
        self._here()
        literal = names.address_literal(host)
        return Known(fixed=self.fixed.get(host, (literal,) if literal is not None else ()), own=self.own)

    def _here(self) -> None:
        if not self.connected:
            raise Unavailable("no node is connected", hint="remit status")


class MemoryCells:
    """Implements `control.ports_control.Cells`: `flows` holds open connections by task."""

    def __init__(self) -> None:
        self.flows: dict[str, int] = {}
        self.reached: Reach = frozenset()
        self.available = True

    async def reach(self, opened: Reach) -> None:
        if not self.available:
            raise Unavailable("the cells process does not answer", hint="remit status")
        self.reached = opened

    async def cut(self, task: str, ports: Sequence[int] | None = None) -> int:
        if not self.available:
            raise Unavailable("the cells process does not answer", hint="remit status")
        if ports is None:
            return self.flows.pop(task, 0)
        before = self.flows.get(task, 0)
        self.flows[task] = max(0, before - len(ports))
        return before - self.flows[task]

    async def cut_everything(self) -> int:
        if not self.available:
            raise Unavailable("the cells process does not answer", hint="remit status")
        before, self.flows = self.flows, dict.fromkeys(self.flows, 0)
        return sum(before.values())

    async def running(self) -> frozenset[str]:
        return frozenset(self.flows)


class PlainSealer:
    """Implements `control.ports_control.Sealer` by reversing the bytes: enough to see that a value was sealed."""

    async def seal(self, name: str, value: bytes) -> bytes:
        return b"sealed:" + value[::-1]

    async def forget(self, name: str, blob: bytes) -> None:
        pass


class MemoryIssuer:
    """Implements `control.ports_control.Issuer` with tokens that anyone can read and nobody should believe."""

    def __init__(self) -> None:
        self._kids = ["kid1"]

    def mint(self, claims: Claims) -> str:
        token = f"token.{claims.role}.{claims.task}.{claims.jti}"
        if len(token) > MAX_TOKEN_BYTES:
            raise Invalid(f"the token of role {claims.role} would take {len(token)} bytes")
        return token

    def public_keys(self) -> Mapping[str, bytes]:
        return {kid: bytes(32) for kid in self._kids}

    def prepare(self) -> str:
        self._kids.append(f"kid{len(self._kids) + 1}")
        return self._kids[-1]

    def activate(self, *, compromised: bool) -> None:
        if compromised:
            self._kids = self._kids[-1:]
