"""What nodes ask of the control plane: a question for humans, what became of it, one use of a grant.

A question that is asked again is the same approval; one that was denied is not shown again until its time is over; a
task that has too many open gets no more. What is asked is recorded before a human sees it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from remit.control import ids, shown
from remit.control.ends import Ends
from remit.control.ports import Clock
from remit.control.ports_approvals import Answered, Notice, Word
from remit.control.ports_control import Store, Unit
from remit.control.recording import Recorder
from remit.core import approval as approving
from remit.core import grant as granting
from remit.core import prefixes
from remit.core.approval import Approval
from remit.core.delegation import MAX_DEPTH
from remit.core.errors import Conflict, Invalid, NotFound
from remit.core.grant import Grant, Question
from remit.core.task import Task

PENDING_PER_TASK = 8
"""Questions of one task that may be open at once."""
UNANSWERED_PER_TREE = 32
"""Questions of a quarter of an hour that nobody answered, of all tasks below one that nobody delegated, ended or not:
else children, one after the other, would ask humans without end."""

Tell = Callable[[Notice], Awaitable[None]]


class Questions:
    """Implements `control.ports_approvals.ApprovalDesk`. `tell` gets every new approval; it must not wait."""

    def __init__(self, *, store: Store, recorder: Recorder, clock: Clock, ends: Ends, tell: Tell) -> None:
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._ends = ends
        self._tell = tell

    async def ask(self, question: Question) -> Answered:
        """See `control.ports_approvals.ApprovalDesk.ask`."""
        now = self._clock.now()
        with self._store.unit() as unit:
            task = asker(unit, question)
            if task is None:
                return Answered(word=Word.REFUSED, detail=f"task {question.task} has no authority")
            known = self._known(unit, question, now)
            if known is not None:
                return known
        approval = Approval(
            id=ids.new(prefixes.APPROVAL),
            question=question,
            state=approving.State.PENDING,
            created=now,
            expires=now + approving.LIFETIME,
        )
        record = await self._recorder.before(
            "approval.request", "", shown.asked(approval), kind=shown.KIND, **shown.facts(approval)
        )
        with self._store.unit() as unit:
            # While it was recorded, the same question may have come once more, or the last free place been taken.
            known = self._known(unit, question, now)
            if known is not None:
                return known
            unit.approvals.add(approval)
        await self._tell(Notice(approval=approval, purpose=" ".join(task.command)[:200], record=record))
        return Answered(word=Word.PENDING, approval=approval.id)

    def _known(self, unit: Unit, question: Question, now: datetime) -> Answered | None:
        """What was made of this very question before, as far as it still counts; or that no further one is heard."""
        latest = unit.approvals.latest(question.fingerprint())
        if latest is not None and latest.open(now):
            return Answered(word=Word.PENDING, approval=latest.id)
        if latest is not None and latest.state is approving.State.DENIED and now < latest.expires:
            note = f": {latest.note}" if latest.note else ""
            said = f"{latest.author} denied approval {latest.id}{note}"
            return Answered(word=Word.DENIED, approval=latest.id, detail=said)
        if latest is not None and latest.state is approving.State.APPROVED:
            granted = unit.grants.of_approval(latest.id)
            if granted is not None and granted.covers(question, now):
                return Answered(word=Word.APPROVED, approval=latest.id)
        if len(unit.approvals.pending(question.task)) >= PENDING_PER_TASK:
            said = f"task {question.task} has {PENDING_PER_TASK} approvals open already"
            return Answered(word=Word.EXCEEDED, detail=said)
        top = _top(unit, question.task)
        asking = _unanswered(unit, now)
        if sum(count for one, count in asking.items() if _top(unit, one) == top) >= UNANSWERED_PER_TREE:
            said = f"task {top} and those below it have asked {UNANSWERED_PER_TREE} questions that nobody answered yet"
            return Answered(word=Word.EXCEEDED, detail=said)
        return None

    async def answer(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """A message of the link, answered: a `question`, or the `use` of a grant."""
        if message.get("type") == "use":
            had = self.stands if message.get("taken") is True else self.use
            return {"used": await had(str(message.get("grant"))[:32])}
        try:
            question = granting.read_question(message["question"])
        except (KeyError, TypeError, ValueError) as error:
            raise Invalid("the node sent a question of unknown shape") from error
        said = await self.ask(question)
        return {"word": said.word.value, "approval": said.approval, "detail": said.detail}

    async def use(self, identity: str) -> bool:
        """See `control.ports_approvals.ApprovalDesk.use`. Durable before it is answered."""
        with self._store.unit() as unit:
            found = self._usable(unit, identity)
            if found is None or found.state is not granting.State.ACTIVE:
                return False
            grant = granting.use(found)
            # Not published: a node asks here for each use anyway, and a new snapshot would have it decide once more.
            unit.grants.save(grant)
        if grant.state is granting.State.SPENT:
            detail = f"grant {grant.id} is used up after {grant.used}"
            await self._recorder.quietly("grant.spend", detail, kind=shown.KIND, **shown.grant_facts(grant))
        return True

    async def stands(self, identity: str) -> bool:
        """See `control.ports_approvals.ApprovalDesk.stands`."""
        with self._store.unit() as unit:
            found = self._usable(unit, identity)
        return found is not None and found.state in (granting.State.ACTIVE, granting.State.SPENT)

    def _usable(self, unit: Unit, identity: str) -> Grant | None:
        """The grant, in whatever state, where its time is not up and its task has authority."""
        try:
            grant = unit.grants.get(identity)
        except NotFound:
            return None
        over = grant.expires is not None and self._ends.passed(grant.id, grant.expires)
        return grant if not over and asker(unit, grant.question) is not None else None


def asker(unit: Unit, question: Question) -> Task | None:
    """The task that asked, where it still has authority."""
    try:
        task = unit.tasks.get(question.task)
    except (NotFound, Conflict):
        return None
    return approving.authority(question, task)


def _unanswered(unit: Unit, now: datetime) -> Counter[str]:
    """How many questions of each task could still be open."""
    lately = unit.approvals.recent(now - approving.LIFETIME)
    return Counter(one.question.task for one in lately if one.author is None)


def _top(unit: Unit, task: str) -> str:
    """The task at the top of its tree, as far as it is known still."""
    with contextlib.suppress(NotFound, Conflict):
        for _ in range(MAX_DEPTH + 1):
            parent = unit.tasks.get(task).parent
            if parent is None:
                break
            task = parent
    return task
