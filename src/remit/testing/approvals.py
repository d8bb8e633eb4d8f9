"""Approvals, grants, and a control plane's desk in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from remit.control.ports_approvals import Answered, Ending, Notice, Word
from remit.core import grant as granting
from remit.core import prefixes
from remit.core.approval import Approval, State
from remit.core.errors import NotFound, Unavailable
from remit.core.grant import Grant, Question


@dataclass(slots=True)
class ApprovalRows:
    approvals: dict[str, Approval] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)

    def copy(self) -> ApprovalRows:
        return ApprovalRows(approvals=dict(self.approvals), grants=dict(self.grants))


class MemoryApprovals:
    """Implements `control.ports_approvals.Approvals`."""

    def __init__(self, rows: ApprovalRows) -> None:
        self._rows = rows.approvals

    def _sorted(self) -> list[Approval]:
        return sorted(self._rows.values(), key=lambda one: (one.created, one.id))

    def add(self, approval: Approval) -> None:
        self._rows[approval.id] = approval

    def get(self, prefix: str) -> Approval:
        start = prefixes.APPROVAL.start(prefix)
        found = [one for one in self._sorted() if start is not None and one.id.startswith(start)]
        return prefixes.APPROVAL.only(prefix, found)

    def save(self, approval: Approval) -> None:
        if approval.id not in self._rows:
            raise prefixes.APPROVAL.missing(approval.id)
        self._rows[approval.id] = approval

    def latest(self, fingerprint: str) -> Approval | None:
        found = [one for one in self._sorted() if one.question.fingerprint() == fingerprint]
        return found[-1] if found else None

    def pending(self, task: str | None = None) -> Sequence[Approval]:
        waiting = [one for one in self._sorted() if one.state is State.PENDING]
        return [one for one in waiting if task is None or one.question.task == task]

    def recent(self, since: datetime) -> Sequence[Approval]:
        return [one for one in self._sorted() if one.created >= since]


class MemoryGrants:
    """Implements `control.ports_approvals.Grants`."""

    def __init__(self, rows: ApprovalRows) -> None:
        self._rows = rows.grants

    def add(self, grant: Grant) -> None:
        self._rows[grant.id] = grant

    def get(self, identity: str) -> Grant:
        if identity not in self._rows:
            raise NotFound(f"no grant {ascii(identity[:32])[1:-1]}", hint="remit approvals grants")
        return self._rows[identity]

    def save(self, grant: Grant) -> None:
        self._rows[self.get(grant.id).id] = grant

    def active(self) -> Sequence[Grant]:
        active = [grant for grant in self._rows.values() if grant.state is granting.State.ACTIVE]
        return sorted(active, key=lambda grant: (grant.created, grant.id))

    def of_approval(self, approval: str) -> Grant | None:
        return next((grant for grant in self._rows.values() if grant.approval == approval), None)


class MemoryDesk:
    """Implements `control.ports_approvals.ApprovalDesk`: says `word` to every question, gives `uses` by grant, of which
    those in `revoked` do not stand."""

    def __init__(self) -> None:
        self.available = True
        self.answer = Answered(word=Word.PENDING, approval="a-aaaaaaaaaa")
        self.asked: list[Question] = []
        self.uses: dict[str, int] = {}
        self.revoked: set[str] = set()

    async def ask(self, question: Question) -> Answered:
        self._here()
        self.asked.append(question)
        return self.answer

    async def use(self, grant: str) -> bool:
        self._here()
        left = self.uses.get(grant, 0)
        if grant in self.revoked or not left:
            return False
        self.uses[grant] = left - 1
        return True

    async def stands(self, grant: str) -> bool:
        self._here()
        return grant in self.uses and grant not in self.revoked

    def _here(self) -> None:
        if not self.available:
            raise Unavailable("the control plane is away", hint="remit status")


class MemoryNotifier:
    """Implements `control.ports_approvals.Notifier`: keeps what it was told."""

    def __init__(self) -> None:
        self.available = True
        self.notices: list[Notice] = []
        self.endings: list[Ending] = []

    async def notify(self, notice: Notice) -> None:
        if not self.available:
            raise Unavailable("nobody listens")
        self.notices.append(notice)

    async def warn(self, ending: Ending) -> None:
        if not self.available:
            raise Unavailable("nobody listens")
        self.endings.append(ending)
