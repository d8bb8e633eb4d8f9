"""Held requests: each waits for a human, and is decided again from the start whenever something changed for it.

Nothing here permits. A wait ends with a permit of the decision itself, or with a denial: a human said no, the hold is
over, the task lost its authority, or too many wait already. Bounded per task, so that no cell can hold what the next
one needs; what the control plane cannot be asked is denied when the hold ends.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

from remit.control.decide import Decider, Denied, Held, Permitted
from remit.control.hearing import Hearing
from remit.control.knowledge import Knowledge
from remit.control.ports import Clock, Entry, Journal
from remit.control.ports_approvals import Answered, ApprovalDesk, Word
from remit.core.errors import Unavailable
from remit.core.grant import Body, Question
from remit.core.reason import Reason, Refusal
from remit.core.request import Evidence
from remit.core.snapshot import Snapshot

PER_TASK_MAX = 16
"""Requests of one task that may wait at once."""


class Holding:
    """`hold_s`: how long a request waits at most."""

    def __init__(
        self,
        *,
        decider: Decider,
        knowledge: Knowledge,
        desk: ApprovalDesk,
        journal: Journal,
        clock: Clock,
        hold_s: float,
    ) -> None:
        self._decider = decider
        self._desk = desk
        self._journal = journal
        self._clock = clock
        self._hold_s = hold_s
        self._waiting: Counter[str] = Counter()
        self._bells: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._seen = Snapshot()
        knowledge.on_change(self._changed)

    def waiting(self, task: str) -> int:
        """How many requests of `task` wait."""
        return self._waiting[task]

    def ring(self, task: str | None = None) -> None:
        """Something changed for the held requests of `task`, or for all of them."""
        for one in list(self._bells) if task is None else [task]:
            for bell in self._bells.get(one, ()):
                bell.set()

    async def check(self, evidence: Evidence, body: Body) -> Permitted | Denied:
        """Decide; wait where a human must be asked. Never raises for anything an agent can do."""
        hearing = Hearing(self._clock, self._desk, body)
        deadline = asyncio.get_running_loop().time() + self._hold_s
        seen = self._seen
        answer = await self._decider.check(evidence, hearing)
        if not isinstance(answer, Held):
            return answer
        if answer.question is None:
            return await self._unshown(evidence)
        task = answer.question.task
        if self._waiting[task] >= PER_TASK_MAX:
            why = f"{PER_TASK_MAX} requests of task {task} wait for a human already"
            return await self._refuse(evidence, answer.question, Refusal(Reason.APPROVALS_EXCEEDED, why))
        bell = asyncio.Event()
        if self._seen is not seen:
            bell.set()  # it was decided from what was known before
        self._waiting[task] += 1
        self._bells[task].add(bell)
        try:
            return await self._wait(evidence, answer.question, hearing, bell, deadline)
        finally:
            self._waiting[task] -= 1
            self._bells[task].discard(bell)
            if not self._waiting[task]:
                del self._waiting[task], self._bells[task]

    async def _wait(
        self, evidence: Evidence, question: Question, hearing: Hearing, bell: asyncio.Event, deadline: float
    ) -> Permitted | Denied:
        said, noted = Answered(word=Word.REFUSED), ""
        while True:
            try:
                # Nothing else is under the deadline: a refusal that is being written down is not begun again.
                async with asyncio.timeout_at(deadline):
                    said = await self._asked(question)
                if said.word in (Word.DENIED, Word.EXCEEDED, Word.REFUSED):
                    return await self._refuse(evidence, question, _refusal(said), said)
                if said.word is Word.PENDING and said.approval != noted:
                    await self._note(question, said)
                    noted = said.approval
                async with asyncio.timeout_at(deadline):
                    await bell.wait()
            except TimeoutError:
                return await self._refuse(evidence, question, _over(said, self._hold_s), said)
            bell.clear()  # before the request is decided: what changes meanwhile has it decided once more
            answer = await self._decider.check(evidence, hearing)
            if not isinstance(answer, Held):
                return answer
            if answer.question is None:
                return await self._unshown(evidence)
            question = answer.question

    async def _unshown(self, evidence: Evidence) -> Denied:
        """The body was here, and is asked for again."""
        refusal = Refusal(Reason.NOT_READY, "the request could not be decided with its body")
        return await self._decider.refuse(refusal, token=evidence.token, flow=evidence.peer)

    async def _asked(self, question: Question) -> Answered:
        try:
            return await self._desk.ask(question)
        except Unavailable as error:
            return Answered(word=Word.UNHEARD, detail=error.detail)

    async def _note(self, question: Question, said: Answered) -> None:
        """Write down that a request waits. It is not let through by this, so it does not matter where it fails."""
        fields = {
            **_asked_for(question),
            "task": question.task,
            "role": question.role,
            "decision": "hold",
            "reason": Reason.APPROVAL_REQUIRED.value,
            "detail": "; ".join(question.reasons)[:1000],
            "approval": said.approval,
        }
        try:
            await self._journal.append(self._journal.new_id(), Entry(kind="decision", fields=fields))
        except Unavailable:
            return

    async def _refuse(
        self, evidence: Evidence, question: Question, refusal: Refusal, said: Answered | None = None
    ) -> Denied:
        facts: dict[str, Any] = {**_asked_for(question)}
        if said is not None and said.approval:
            facts["approval"] = said.approval
        return await self._decider.refuse(refusal, token=evidence.token, flow=evidence.peer, **facts)

    def _changed(self, snapshot: Snapshot) -> None:
        before, self._seen = self._seen, snapshot
        everyone = before.revoked != snapshot.revoked or before.rules.digest != snapshot.rules.digest
        for task in list(self._bells):
            mine = before.tasks.get(task) != snapshot.tasks.get(task)
            if everyone or mine or before.grants.get(task) != snapshot.grants.get(task):
                self.ring(task)


def _asked_for(question: Question) -> dict[str, Any]:
    """The query is left out: it may hold what must not be in a log."""
    return {
        "capability": question.capability,
        "credential": question.credential,
        "method": question.method,
        "scheme": question.protocol,
        "host": question.host,
        "port": question.port,
        "path": question.path,
        "body": question.body or None,
    }


def _refusal(said: Answered) -> Refusal:
    match said.word:
        case Word.DENIED:
            return Refusal(Reason.APPROVAL_DENIED, said.detail)
        case Word.EXCEEDED:
            return Refusal(Reason.APPROVALS_EXCEEDED, said.detail)
        case _:
            return Refusal(Reason.APPROVAL_UNAVAILABLE, said.detail)


def _over(said: Answered, hold_s: float) -> Refusal:
    if said.word is Word.UNHEARD or not said.approval:
        return Refusal(
            Reason.APPROVAL_UNAVAILABLE, f"nobody could be asked for {hold_s:g} s: {said.detail or 'no answer'}"
        )
    return Refusal(
        Reason.APPROVAL_PENDING, f"nobody answered within {hold_s:g} s; ask again, approval {said.approval} is pending"
    )
