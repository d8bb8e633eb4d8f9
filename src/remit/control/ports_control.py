"""What the control plane's use cases need from outside: its store, its issuer, the node, the cells, the audit index.

Each port has an in-memory fake in `remit.testing`; the store's contract suite runs on the fake and on SQLite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Protocol

from remit.control.ports import Policies, Tasks
from remit.control.ports_approvals import Approvals, Grants
from remit.control.ports_operators import Operators
from remit.core.claims import Claims
from remit.core.expiry import Nearness
from remit.core.names import Address
from remit.core.snapshot import Snapshot
from remit.core.task import Task

Document = Mapping[str, Any]
"""A manifest as JSON: apiVersion, kind, metadata, spec."""


class RevocationKind(StrEnum):
    TASK = "task"
    CAPABILITY = "capability"
    CREDENTIAL = "credential"
    ROLE = "role"
    EVERYTHING = "everything"
    """`remit panic`; its name is always `*`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    kind: RevocationKind
    name: str
    time: datetime
    operator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSecret:
    """`blob` is opaque: only the node's key opens it. `version` counts from 1; `created` is of the first one.

    `expires`: when it ends, None where nobody said so. `told`: how near the end was when somebody was last told."""

    name: str
    blob: bytes
    updated: datetime
    version: int = 1
    created: datetime | None = None
    expires: datetime | None = None
    told: Nearness = Nearness.FAR


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The signed head of a node's audit log, as it arrived. `fields` are passed through to the verifier."""

    seq: int
    hash: str
    received: datetime
    fields: Mapping[str, Any] = field(default_factory=dict)


class Documents(Protocol):
    """Manifests in force, one per (kind, name)."""

    def all(self) -> Sequence[Document]:
        """Ordered by kind, then name."""
        ...

    def get(self, kind: str, name: str) -> Document | None: ...

    def put(self, document: Document, now: datetime) -> None: ...

    def remove(self, kind: str, name: str) -> bool:
        """Whether it was there."""
        ...


class Revocations(Protocol):
    """Capabilities and credentials whose authority is taken away until restored. Tasks carry their own state."""

    def all(self) -> Sequence[Revocation]: ...

    def add(self, revocation: Revocation) -> bool:
        """Whether it was new."""
        ...

    def remove(self, kind: RevocationKind, name: str) -> bool:
        """Whether it was there."""
        ...


class Reserve(Protocol):
    """Room for revocations where the store has none, such as on a full disk."""

    def load(self) -> Sequence[Revocation]:
        """What was saved last. `Unavailable`: nobody can say."""
        ...

    def save(self, revocations: Sequence[Revocation]) -> None:
        """Keep these and forget those before; durable when it returns. `Unavailable`: it is not."""
        ...


class SealedSecrets(Protocol):
    def all(self) -> Sequence[SealedSecret]:
        """Ordered by name."""
        ...

    def get(self, name: str) -> SealedSecret | None: ...

    def put(self, secret: SealedSecret) -> None: ...

    def remove(self, name: str) -> bool: ...


class Heads(Protocol):
    """Audit heads, kept apart from the log that they vouch for."""

    def add(self, head: Head) -> None: ...

    def latest(self) -> Head | None:
        """The one with the highest `seq`; of several, the first that arrived."""
        ...

    def all(self) -> Sequence[Head]:
        """Those that are kept, by `seq`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditKey:
    """A key that signed audit heads of the node (base64). `trusted`: its heads count; else they were refused."""

    key: str
    since: datetime
    trusted: bool


class AuditKeys(Protocol):
    def all(self) -> Sequence[AuditKey]:
        """Oldest first."""
        ...

    def put(self, key: AuditKey) -> None:
        """Add it, or replace what is known of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """What an operator said is kept elsewhere: the audit log up to record `last`, whose hash is `digest`. `sha256` is
    of the rows of the export that says so, `record` the audit record of the operator's word."""

    last: int
    digest: str
    sha256: str
    operator: str
    record: str


class Acknowledgements(Protocol):
    """One, the latest."""

    def get(self) -> Acknowledged | None: ...

    def put(self, acknowledged: Acknowledged) -> None: ...


class Unit(Protocol):
    """One transaction: everything in it happens, or nothing does."""

    @property
    def documents(self) -> Documents: ...

    @property
    def tasks(self) -> Tasks: ...

    @property
    def revocations(self) -> Revocations: ...

    @property
    def secrets(self) -> SealedSecrets: ...

    @property
    def heads(self) -> Heads: ...

    @property
    def audit_keys(self) -> AuditKeys: ...

    @property
    def acknowledgements(self) -> Acknowledgements: ...

    @property
    def operators(self) -> Operators: ...

    @property
    def approvals(self) -> Approvals: ...

    @property
    def grants(self) -> Grants: ...

    def current_tasks(self, *, ended_since: datetime | None = None) -> Sequence[Task]:
        """Tasks that hold a cell and, where given, those that ended at `ended_since` or later; oldest first. History
        may be long: this does not read it."""
        ...

    def epoch(self) -> int:
        """The epoch of the last change; 0 before the first."""
        ...

    def advance_epoch(self, now: datetime) -> int:
        """Mark a change that nodes must learn of. Grows always, and is never below `now` in milliseconds: so that a
        database that was replaced or restored still outranks what its nodes remember."""
        ...

    def next_cell(self) -> int:
        """A cell number that no live task has, not reused before all others were."""
        ...


class Store(Protocol):
    def unit(self) -> AbstractContextManager[Unit]:
        """Begin; commit at the end of the block; roll back when it raises. `Unavailable`: the store cannot be used."""
        ...


class CurrentPolicies(Policies, Protocol):
    """Policies that can be told what is in force."""

    def update(self, snapshot: Snapshot) -> None: ...


class Issuer(Protocol):
    def mint(self, claims: Claims) -> str:
        """A token of at most `core.claims.MAX_TOKEN_BYTES`. `Invalid` where the names in it are too long."""
        ...

    def public_keys(self) -> Mapping[str, bytes]:
        """Raw Ed25519 public keys that verify what was minted and may still be presented, by key id."""
        ...

    def prepare(self) -> str:
        """The id of a new key: `public_keys` has it from now on, so that nodes learn of it before it signs."""
        ...

    def activate(self, *, compromised: bool) -> None:
        """Sign with the prepared key. `compromised`: what older keys signed is worth nothing any more."""
        ...


Flows = Mapping[str, Sequence[int] | None]
"""By task: the ports that name some of its flows (`core.flow`), or None for all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a node knows of a host without looking it up. `fixed`: its addresses where it is an address or a name that
    the operator fixed, else none. `own`: the node's; None where its kernel does not say."""

    fixed: tuple[Address, ...] = ()
    own: frozenset[Address] | None = frozenset()


RekeyStep = Literal["begin", "reseal", "end"]


class Node(Protocol):
    """The node's end of the link."""

    @property
    def connected(self) -> bool: ...

    @property
    def acked_epoch(self) -> int: ...

    async def returned(self) -> None:
        """Returns as soon as a node is connected, and after a few seconds in any case: it may be starting again."""
        ...

    async def publish(self, snapshot: Mapping[str, Any]) -> None:
        """Returns when the node has the snapshot, or a later one, in force. `Unavailable`: it did not say so."""
        ...

    async def using(self, kind: str, name: str) -> Flows:
        """The flows that carry something open under a capability, credential or grant. `Unavailable`: nobody could
        say."""
        ...

    async def record(self, kind: str, fields: Mapping[str, Any]) -> str:
        """The id of the durable audit record. `Unavailable`: nothing is promised."""
        ...

    async def probe(self, credentials: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """Whether each credential could be had now (`broker.probing`), without its value. `Unavailable`: no answer."""
        ...

    async def rekey(self, step: RekeyStep, name: str = "", blob: bytes = b"") -> bytes:
        """One step towards a new sealing key (`broker.rekeying`). "reseal": secret `name`, sealed anew; else nothing.

        `Conflict`: "end" found a secret that is not sealed anew. `Unavailable`: the step was not done.
        """
        ...

    async def usage(self, wanted: Sequence[str] = ()) -> Sequence[Mapping[str, Any]]:
        """Budgets in force and their use (`control.budgets.Budgets.show`). `Unavailable`: it did not say."""
        ...

    async def addresses(self, host: str) -> Known:
        """What it would dial for `host`, as far as it knows that by itself. `Unavailable`: it did not say."""
        ...


Reach = frozenset[tuple[str, int]]
"""(address range, port)"""


class Cells(Protocol):
    """The privileged process that runs cells."""

    async def reach(self, opened: Reach) -> None:
        """Let Envoy dial exactly `opened` of special-use space and of the node itself. `Unavailable`: unchanged."""
        ...

    async def cut(self, task: str, ports: Sequence[int] | None = None) -> int:
        """Close the open connections of a task now, or those that `ports` name; how many. 0 where it has no cell."""
        ...

    async def cut_everything(self) -> int:
        """Close every open connection of every cell now; how many they were."""
        ...

    async def running(self) -> frozenset[str]:
        """Ids of the tasks that have a cell."""
        ...


class Sealer(Protocol):
    async def seal(self, name: str, value: bytes) -> bytes:
        """`value` for the store, so that only nodes can read it. `Unavailable`: nothing was changed."""
        ...

    async def forget(self, name: str, blob: bytes) -> None:
        """Take back what `seal` left elsewhere. `Conflict`, `Unavailable`: it could not be, and is there still."""
        ...
