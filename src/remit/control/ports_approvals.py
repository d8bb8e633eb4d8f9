"""What approvals need from outside: their store, whoever a node asks, whoever tells a human."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from remit.core.approval import Approval
from remit.core.expiry import Nearness
from remit.core.grant import Grant, Question


class Word(StrEnum):
    """What the control plane says to a question."""

    PENDING = "pending"
    APPROVED = "approved"
    """A grant covers it, or did until its uses were taken; the snapshot says which."""
    DENIED = "denied"
    EXCEEDED = "exceeded"
    UNHEARD = "unheard"
    """Nobody could be asked."""
    REFUSED = "refused"
    """The task has no authority, or the question makes no sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """`approval`: its id, "" where there is none. `detail` is safe to show."""

    word: Word
    approval: str = ""
    detail: str = ""


class ApprovalDesk(Protocol):
    """The control plane, as a node asks it."""

    async def ask(self, question: Question) -> Answered:
        """Put a question to humans, or learn what became of it. Asking again is the same question.

        `Unavailable`: nobody was asked.
        """
        ...

    async def use(self, grant: str) -> bool:
        """Take one use of a grant; whether there was one. `Unavailable`: it may be taken or not, and is not had."""
        ...

    async def stands(self, grant: str) -> bool:
        """Whether a use that was taken may still be had: not where the grant was taken back meanwhile, or is over.
        `Unavailable`: nobody could say."""
        ...


class Approvals(Protocol):
    """Approvals as the control plane stores them."""

    def add(self, approval: Approval) -> None: ...

    def get(self, prefix: str) -> Approval:
        """The approval whose id starts with `prefix`; `a-` may be left out. `NotFound`, or `Conflict` for several."""
        ...

    def save(self, approval: Approval) -> None:
        """Replace the one of this id. `NotFound` where there is none."""
        ...

    def latest(self, fingerprint: str) -> Approval | None:
        """The newest one of a question."""
        ...

    def pending(self, task: str | None = None) -> Sequence[Approval]:
        """Those that wait, oldest first."""
        ...

    def recent(self, since: datetime) -> Sequence[Approval]:
        """Those made at `since` or later, oldest first."""
        ...


class Grants(Protocol):
    """Grants as the control plane stores them."""

    def add(self, grant: Grant) -> None: ...

    def get(self, identity: str) -> Grant:
        """`NotFound` where there is none."""
        ...

    def save(self, grant: Grant) -> None:
        """Replace the one of this id. `NotFound` where there is none."""
        ...

    def active(self) -> Sequence[Grant]:
        """Oldest first."""
        ...

    def of_approval(self, approval: str) -> Grant | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """An approval that waits, or was answered, for a human elsewhere. Texts in it come from agents."""

    approval: Approval
    purpose: str
    """What the task runs."""
    record: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A secret that ends soon, or has ended. `credentials`: those that use it."""

    secret: str
    version: int
    expires: datetime
    nearness: Nearness
    credentials: tuple[str, ...]
    record: str


class Notifier(Protocol):
    """Bounded in time. `Unavailable`: it did not arrive; nothing depends on it."""

    async def notify(self, notice: Notice) -> None:
        """Tell somebody of an approval."""
        ...

    async def warn(self, ending: Ending) -> None:
        """Tell somebody of a secret's end."""
        ...
