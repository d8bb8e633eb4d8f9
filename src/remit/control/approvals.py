"""Approvals at the control plane: questions of nodes in, answers of humans out, grants for what was answered.

What widens is recorded before it happens, what narrows happens first (`control.recording`). A question that is asked
again is the same approval; one that was denied is not shown again until its time is over; a task that has too many
open gets no more. An answer allows what was shown and nothing wider, and never what the one who asked could answer.
"""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from remit.control import shown
from remit.control.catalog import Catalog
from remit.control.cutting import Cutting
from remit.control.ends import Ends
from remit.control.ports import Clock
from remit.control.ports_approvals import Answered, Notice, Word
from remit.control.ports_control import Store, Unit
from remit.control.publish import Publisher
from remit.control.recording import Recorder
from remit.core import approval as approving
from remit.core import grant as granting
from remit.core.approval import Approval
from remit.core.errors import Conflict, Invalid, NotFound, RemitError, Unavailable
from remit.core.grant import LONGEST, MAX_USES, Grant, Question, Scope
from remit.core.principal import Principal
from remit.core.task import ALIVE, Task

log = logging.getLogger(__name__)

PENDING_PER_TASK = 8
"""Questions of one task that may be open at once."""
MAX_NOTE = 500
KIND = "approval"
"""Of the audit records."""

Tell = Callable[[Notice], Awaitable[None]]
Ring = Callable[[str], None]
"""Called with a task whose held requests have something to learn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """`proposal`: the manifest that scope `always` proposes."""

    approval: Approval
    grant: Grant | None
    record: str
    proposal: Mapping[str, Any] | None = None


class Approvals:
    """`tell` gets every new approval; it must not wait. `ring` wakes held requests."""

    def __init__(
        self,
        *,
        store: Store,
        publisher: Publisher,
        recorder: Recorder,
        catalog: Catalog,
        clock: Clock,
        ring: Ring,
        cutting: Cutting,
        tell: Tell | None = None,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._recorder = recorder
        self._catalog = catalog
        self._clock = clock
        self._ends = Ends(clock)
        self._ring = ring
        self._cutting = cutting
        self._tell = tell

    # -- a node asks ---------------------------------------------------------------------------------------------

    async def ask(self, question: Question) -> Answered:
        """See `control.ports_approvals.ApprovalDesk.ask`."""
        now = self._clock.now()
        with self._store.unit() as unit:
            task = _alive(unit, question)
            if task is None:
                return Answered(word=Word.REFUSED, detail=f"task {question.task} has no authority")
            known = self._known(unit, question, now)
            if known is not None:
                return known
            if len(unit.approvals.pending(task.id)) >= PENDING_PER_TASK:
                return Answered(
                    word=Word.EXCEEDED, detail=f"task {task.id} has {PENDING_PER_TASK} approvals open already"
                )
        approval = Approval(
            id=_identity("a-"),
            question=question,
            state=approving.State.PENDING,
            created=now,
            expires=now + approving.LIFETIME,
        )
        record = await self._recorder.before(
            "approval.request", "", shown.asked(approval), kind=KIND, **shown.facts(approval)
        )
        with self._store.unit() as unit:
            # While it was recorded, the same question may have come once more, or the last free place been taken.
            known = self._known(unit, question, now)
            if known is not None:
                return known
            if len(unit.approvals.pending(task.id)) >= PENDING_PER_TASK:
                return Answered(word=Word.EXCEEDED, detail=f"task {task.id} has too many approvals open")
            unit.approvals.add(approval)
        if self._tell is not None:
            await self._tell(Notice(approval=approval, purpose=" ".join(task.command)[:200], record=record))
        return Answered(word=Word.PENDING, approval=approval.id)

    def _known(self, unit: Unit, question: Question, now: datetime) -> Answered | None:
        """What was made of this very question before, as far as it still counts."""
        latest = unit.approvals.latest(question.fingerprint())
        if latest is None:
            return None
        if latest.open(now):
            return Answered(word=Word.PENDING, approval=latest.id)
        if latest.state is approving.State.DENIED and now < latest.expires:
            note = f": {latest.note}" if latest.note else ""
            return Answered(
                word=Word.DENIED, approval=latest.id, detail=f"{latest.author} denied approval {latest.id}{note}"
            )
        granted = unit.grants.of_approval(latest.id) if latest.state is approving.State.APPROVED else None
        if granted is not None and granted.covers(question, now):
            return Answered(word=Word.APPROVED, approval=latest.id)
        return None

    async def answer(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """A message of the link, answered: a `question`, or the `use` of a grant."""
        if message.get("type") == "use":
            return {"used": await self.use(str(message.get("grant"))[:32])}
        try:
            question = granting.read_question(message["question"])
        except (KeyError, TypeError, ValueError) as error:
            raise Invalid("the node sent a question of unknown shape") from error
        said = await self.ask(question)
        return {"word": said.word.value, "approval": said.approval, "detail": said.detail}

    async def use(self, identity: str) -> bool:
        """See `control.ports_approvals.ApprovalDesk.use`. Durable before it is answered."""
        with self._store.unit() as unit:
            try:
                grant = unit.grants.get(identity)
                if grant.expires is not None and self._ends.passed(grant.id, grant.expires):
                    return False
                if _alive(unit, grant.question) is None:
                    return False
                grant = granting.use(grant)
            except (Conflict, NotFound):
                return False
            # Not published: a node asks here for each use anyway, and a new snapshot would have it decide once more.
            unit.grants.save(grant)
        if grant.state is granting.State.SPENT:
            await self._quietly("grant.spend", f"grant {grant.id} is used up after {grant.used}", grant)
        return True

    # -- a human answers -----------------------------------------------------------------------------------------

    async def approve(
        self,
        prefix: str,
        *,
        scope: Scope,
        who: Principal,
        for_s: float | None = None,
        uses: int | None = None,
        note: str = "",
    ) -> Decided:
        """Allow what was shown, in a scope that was offered; `for_s` and `uses` can only make it narrower."""
        note = _note(note)
        approval = self._answerable(prefix, who)
        if scope not in approval.question.scopes():
            offered = ", ".join(approval.question.scopes())
            raise Invalid(f"approval {approval.id} can be answered with: {offered}", hint="remit approvals show ID")
        grant = self._grant(approval, scope, who, for_s, uses)
        detail = f"approval {approval.id} approved by {who.name}, scope {scope}"
        record = await self._recorder.before(
            "approval.approve",
            who.name,
            detail,
            kind=KIND,
            **shown.facts(approval),
            grant=grant.id,
            scope=scope.value,
            note=note,
        )
        with self._store.unit() as unit:
            now = self._clock.now()
            current = unit.approvals.get(approval.id)
            approved = approving.advance(current, approving.Event.APPROVE, now, author=who.name, note=note)
            if _alive(unit, approval.question) is None:
                raise Conflict(f"task {approval.question.task} has no authority any more", hint="remit ps --all")
            unit.approvals.save(approved)
            unit.grants.add(grant)
            unit.advance_epoch(now)
        await self._publisher.publish()
        self._ring(approval.question.task)
        proposal = shown.proposal(approval) if scope is Scope.ALWAYS else None
        return Decided(approval=approved, grant=grant, record=record, proposal=proposal)

    async def deny(self, prefix: str, *, who: Principal, note: str = "") -> Decided:
        """Say no; the same question is not shown again until its time is over."""
        note = _note(note)
        approval = self._answerable(prefix, who)
        with self._store.unit() as unit:
            current = unit.approvals.get(approval.id)
            now = self._clock.now()
            denied = approving.advance(current, approving.Event.DENY, now, author=who.name, note=note)
            unit.approvals.save(denied)
        self._ring(approval.question.task)
        detail = f"approval {approval.id} denied by {who.name}"
        record = await self._recorder.after(
            "approval.deny", who.name, detail, kind=KIND, **shown.facts(approval), note=note
        )
        return Decided(approval=denied, grant=None, record=record)

    async def revoke_grant(self, identity: str, *, who: Principal) -> str:
        """Take a grant back, also from what is open under it; the record's id. One that is used up can be, too.

        `Unavailable`: it is taken back, but the node does not have it yet, or connections could not be closed.
        """
        with self._store.unit() as unit:
            grant = granting.advance(unit.grants.get(identity), granting.Event.REVOKE)
            unit.grants.save(grant)
            unit.advance_epoch(self._clock.now())
        try:
            await self._publisher.publish()
        except Unavailable as error:
            await self._cutting.cut({grant.task: None})
            raise Unavailable(
                f"grant {grant.id} is taken back, but not yet in force on the node: {error.detail}", hint="remit status"
            ) from error
        closed, uncut = await self._cutting.cut(await self._cutting.using("grant", grant.id, [grant.task]))
        if uncut:
            raise Unavailable(
                f"grant {grant.id} is taken back, but what is open under it could not be closed",
                hint=f"remit stop {grant.task}",
            )
        return await self._recorder.after(
            "grant.revoke",
            who.name,
            f"grant {grant.id} revoked by {who.name}, {closed} connections closed",
            kind=KIND,
            task=grant.task,
            grant=grant.id,
            flows_closed=closed,
        )

    # -- to look at ----------------------------------------------------------------------------------------------

    def all(self, *, pending_only: bool) -> Sequence[Approval]:
        """Oldest first: those that can be answered, or every one of the last day."""
        now = self._clock.now()
        with self._store.unit() as unit:
            if pending_only:
                return [one for one in unit.approvals.pending() if one.open(now)]
            return unit.approvals.recent(now - timedelta(days=1))

    def get(self, prefix: str) -> Approval:
        with self._store.unit() as unit:
            return unit.approvals.get(prefix)

    def grants(self) -> Sequence[Grant]:
        """Those in force, oldest first."""
        with self._store.unit() as unit:
            return unit.grants.active()

    # -- time passes ---------------------------------------------------------------------------------------------

    async def sweep(self) -> int:
        """End what is over: approvals nobody answered, grants whose time is up (and what is open under them), both of
        tasks that ended. How many."""
        now = self._clock.now()
        ended: list[Approval] = []
        over: list[Grant] = []
        open_now: set[str] = set()
        with self._store.unit() as unit:
            for approval in unit.approvals.pending():
                open_now.add(approval.id)
                alive = _alive(unit, approval.question) is not None
                if alive and not self._ends.passed(approval.id, approval.expires):
                    continue
                event = approving.Event.EXPIRE if alive else approving.Event.WITHDRAW
                ended.append(approving.advance(approval, event, now))
                unit.approvals.save(ended[-1])
            for grant in unit.grants.active():
                open_now.add(grant.id)
                alive = _alive(unit, grant.question) is not None
                if alive and (grant.expires is None or not self._ends.passed(grant.id, grant.expires)):
                    continue
                over.append(granting.advance(grant, granting.Event.EXPIRE if alive else granting.Event.END))
                unit.grants.save(over[-1])
            if over:
                unit.advance_epoch(now)
        self._ends.keep(open_now)
        if over:
            self._publisher.publish_later()
        for approval in ended:
            self._ring(approval.question.task)
            detail = f"approval {approval.id} is {approval.state}: nobody answered"
            await self._quietly(f"approval.{approval.state}", detail, approval)
        for grant in over:
            if grant.state is granting.State.EXPIRED:
                _, uncut = await self._cutting.cut(await self._cutting.using("grant", grant.id, [grant.task]))
                if uncut:
                    log.error("grant %s is over, but what is open under it could not be closed", grant.id)
            await self._quietly(f"grant.{grant.state}", f"grant {grant.id} is {grant.state}", grant)
        return len(ended) + len(over)

    def _answerable(self, prefix: str, who: Principal) -> Approval:
        now = self._clock.now()
        with self._store.unit() as unit:
            approval = unit.approvals.get(prefix)
            role = self._catalog.rules(unit).roles.get(approval.question.role)
            task = _alive(unit, approval.question)
        if not approval.open(now):
            approving.advance(approval, approving.Event.DENY, now)  # tells why not
        if task is None:
            raise Conflict(f"task {approval.question.task} has no authority any more", hint="remit ps --all")
        if who.name == task.id:
            raise Conflict("a task does not answer its own approvals", hint="ask an operator")
        if (role is None or role.four_eyes) and who.name == task.operator:
            raise Conflict(
                f"{who.name} started task {task.id}, and role {task.role} wants another person to answer",
                hint="remit operator list",
            )
        return approval

    def _grant(self, approval: Approval, scope: Scope, who: Principal, for_s: float | None, uses: int | None) -> Grant:
        longest, now = LONGEST[scope], self._clock.now()
        if for_s is not None and (for_s <= 0 or (longest is not None and for_s > longest.total_seconds())):
            most = f"{longest.total_seconds():g} s" if longest is not None else "the task's life"
            raise Invalid(f"scope {scope} lasts for {most} at most", hint="--for 30m")
        if uses is not None and not 1 <= uses <= MAX_USES:
            raise Invalid(f"uses: 1 to {MAX_USES}", hint="--uses 3")
        single = scope in (Scope.ONCE, Scope.ALWAYS)
        if single and uses not in (None, 1):
            raise Invalid(f"scope {scope} has one use", hint="--scope request --uses 3")
        lasting = timedelta(seconds=for_s) if for_s is not None else longest
        return Grant(
            id=_identity("g-"),
            approval=approval.id,
            scope=Scope.ONCE if single else scope,
            question=approval.question,
            author=who.name,
            created=now,
            expires=now + lasting if lasting is not None else None,
            uses=1 if single else uses,
        )

    async def _quietly(self, action: str, detail: str, about: Approval | Grant) -> None:
        """What ends by itself has ended, recorded or not."""
        facts = {"task": about.question.task, "role": about.question.role}
        facts["grant" if isinstance(about, Grant) else "approval"] = about.id
        try:
            await self._recorder.after(action, "", detail, kind=KIND, **facts)
        except RemitError as error:
            log.error("not recorded (%s): %s", action, error.detail)


def _alive(unit: Unit, question: Question) -> Task | None:
    try:
        task = unit.tasks.get(question.task)
    except (NotFound, Conflict):
        return None
    return task if task.id == question.task and task.role == question.role and task.state in ALIVE else None


def _identity(prefix: str) -> str:
    return prefix + base64.b32encode(secrets.token_bytes(7)).decode().lower()[:10]


def _note(text: str) -> str:
    if len(text) > MAX_NOTE:
        raise Invalid(f"a note has {MAX_NOTE} characters at most")
    return shown.safe(text)
