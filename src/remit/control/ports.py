"""What the use cases need from outside. Each port has an adapter, an in-memory fake in `remit.testing`, and a
contract suite in `tests/contract` that both pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from remit.core.claims import Claims
from remit.core.decision import Candidate, Opinion, Permit
from remit.core.names import Address
from remit.core.reason import Refusal
from remit.core.secret import Secret
from remit.core.task import Task


class Clock(Protocol):
    def now(self) -> datetime:
        """Aware, UTC. May be set, forward and back, at any moment."""
        ...

    def elapsed(self) -> float:
        """Seconds since some moment, also while the machine sleeps. Nobody sets it, and no step of `now` moves it."""
        ...


class Resolver(Protocol):
    async def addresses(self, host: str) -> tuple[Address, ...]:
        """Every address of a canonical name, preferred first; an address literal is its own. Bounded in time.

        Empty where the name does not exist. Raises `Unavailable` where nobody could say.
        """
        ...

    def own(self) -> frozenset[Address]:
        """The addresses of this node: a name that resolves to one of them leads back here."""
        ...


class Verifier(Protocol):
    def verify(self, token: bytes) -> Claims | Refusal:
        """The claims of a token, or why it admits nobody. Never raises, whatever the bytes."""
        ...


class Policies(Protocol):
    async def judge(self, candidate: Candidate) -> Opinion:
        """What the policies that apply say. Never raises: what goes wrong is `Opinion.failure`. Bounded in time."""
        ...


class Secrets(Protocol):
    def lease(self, permit: Permit) -> Secret | Refusal | None:
        """The secret of the permit's credential, or why there is none. None: it is not at hand, `obtain` it."""
        ...

    def rejected(self, name: str) -> None:
        """An upstream answered 401 to what was presented for credential `name`. Whether it means anything is open."""
        ...

    async def obtain(self, permit: Permit, *, patient: bool = False) -> Secret | Refusal | None:
        """The same, asking whoever keeps or makes the secret. Bounded below the time that a check may take.

        `patient`: bounded by some seconds. None: not yet; ask patiently.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing to write down. `fields` are JSON values.

    `kind`: decision, completion, boundary, dns, budget, reservation, operator or approval.
    """

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)


class Journal(Protocol):
    """The append-only audit log of this node."""

    def new_id(self) -> str:
        """A record id (`r-…`), unique, sortable by time, known before the record is written."""
        ...

    async def append(self, record: str, entry: Entry) -> None:
        """Write `entry` under id `record`; returns when it is durable. `Unavailable`: nothing is promised."""
        ...


class Tasks(Protocol):
    """Tasks that exist, as the control plane stores them."""

    def add(self, task: Task) -> None: ...

    def get(self, prefix: str) -> Task:
        """The task whose id starts with `prefix`. Raises `NotFound`, or `Conflict` where several do."""
        ...

    def save(self, task: Task) -> None: ...

    def all(self, *, alive_only: bool = False) -> Sequence[Task]: ...

    def prune(self, tasks: Collection[str], *, ended_before: datetime, kept: Collection[str]) -> int:
        """Forget `tasks`, and every task that ended before and is not `kept`; how many. Never one that still runs."""
        ...
