"""Approvals at the control plane, as humans meet them: answered, over, and the grants that answers made.

What widens is recorded before it happens, what narrows happens first (`control.recording`). An answer allows what was
shown and nothing wider, and never what the one who asked could answer. What nodes ask is in `control.questions`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from remit.control import ids, questions, shown
from remit.control.catalog import Catalog
from remit.control.cutting import Cutting
from remit.control.ends import Ends
from remit.control.ports import Clock
from remit.control.ports_control import Store, Unit
from remit.control.publish import Publisher
from remit.control.recording import Recorder
from remit.core import approval as approving
from remit.core import grant as granting
from remit.core import prefixes
from remit.core.approval import Approval
from remit.core.errors import Conflict, Invalid, Unavailable
from remit.core.grant import Grant, Scope
from remit.core.principal import Principal

log = logging.getLogger(__name__)

MAX_NOTE = 500

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
    """`ring` wakes held requests. `ends` are those that `control.questions` goes by."""

    def __init__(
        self,
        *,
        store: Store,
        publisher: Publisher,
        recorder: Recorder,
        catalog: Catalog,
        clock: Clock,
        ends: Ends,
        ring: Ring,
        cutting: Cutting,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._recorder = recorder
        self._catalog = catalog
        self._clock = clock
        self._ends = ends
        self._ring = ring
        self._cutting = cutting

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
        grant = granting.narrowed(
            approval.question,
            scope,
            identity=ids.new(prefixes.GRANT),
            approval=approval.id,
            author=who.name,
            now=self._clock.now(),
            for_s=for_s,
            uses=uses,
        )
        detail = f"approval {approval.id} approved by {who.name}, scope {scope}"
        record = await self._recorder.before(
            "approval.approve",
            who.name,
            detail,
            kind=shown.KIND,
            **shown.facts(approval),
            grant=grant.id,
            scope=scope.value,
            note=note,
        )
        with self._store.unit() as unit:
            now = self._clock.now()
            current = unit.approvals.get(approval.id)
            approved = approving.advance(current, approving.Event.APPROVE, now, author=who.name, note=note)
            if questions.asker(unit, approval.question) is None:
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
            "approval.deny", who.name, detail, kind=shown.KIND, **shown.facts(approval), note=note
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
        missed = await self._publisher.missed()
        closed, uncut = await self._cut(grant, missed)
        if missed is not None:
            raise Unavailable(
                f"grant {grant.id} is taken back, but not yet in force on the node: {missed.detail}",
                hint="remit status",
            ) from missed
        if uncut:
            raise Unavailable(
                f"grant {grant.id} is taken back, but what is open under it could not be closed",
                hint=f"remit stop {grant.task}",
            )
        return await self._recorder.after(
            "grant.revoke",
            who.name,
            f"grant {grant.id} revoked by {who.name}, {closed} connections closed",
            kind=shown.KIND,
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
        with self._store.unit() as unit:
            pending, active = unit.approvals.pending(), unit.grants.active()
            ended = [one for approval in pending if (one := self._unanswered(unit, approval)) is not None]
            over = [gone for grant in active if (gone := self._outlived(unit, grant)) is not None]
            if over:
                unit.advance_epoch(self._clock.now())
        self._ends.keep({*(approval.id for approval in pending), *(grant.id for grant in active)})
        for approval in ended:
            self._ring(approval.question.task)
        missed = await self._publisher.missed() if over else None
        for grant in over:
            if grant.state is granting.State.EXPIRED and (await self._cut(grant, missed))[1]:
                log.error("grant %s is over, but what is open under it could not be closed", grant.id)
        for approval in ended:
            detail = f"approval {approval.id} is {approval.state}: nobody answered"
            facts = {"task": approval.question.task, "role": approval.question.role, "approval": approval.id}
            await self._recorder.quietly(f"approval.{approval.state}", detail, kind=shown.KIND, **facts)
        for grant in over:
            facts, detail = shown.grant_facts(grant), f"grant {grant.id} is {grant.state}"
            await self._recorder.quietly(f"grant.{grant.state}", detail, kind=shown.KIND, **facts)
        return len(ended) + len(over)

    def _unanswered(self, unit: Unit, approval: Approval) -> Approval | None:
        """`approval`, ended where nobody can answer it any more."""
        alive = questions.asker(unit, approval.question) is not None
        if alive and not self._ends.passed(approval.id, approval.expires):
            return None
        event = approving.Event.EXPIRE if alive else approving.Event.WITHDRAW
        unit.approvals.save(ended := approving.advance(approval, event, self._clock.now()))
        return ended

    def _outlived(self, unit: Unit, grant: Grant) -> Grant | None:
        """`grant`, ended where its time is up or its task has no authority."""
        alive = questions.asker(unit, grant.question) is not None
        if alive and (grant.expires is None or not self._ends.passed(grant.id, grant.expires)):
            return None
        unit.grants.save(over := granting.advance(grant, granting.Event.EXPIRE if alive else granting.Event.END))
        return over

    async def _cut(self, grant: Grant, missed: Unavailable | None) -> tuple[int, Sequence[str]]:
        """Close what is open under `grant`, which is over; all of its task where the node has `missed` that, or it
        could permit more meanwhile."""
        if missed is not None:
            return await self._cutting.cut({grant.task: None})
        return await self._cutting.cut(await self._cutting.using("grant", grant.id, [grant.task]))

    def _answerable(self, prefix: str, who: Principal) -> Approval:
        with self._store.unit() as unit:
            approval = unit.approvals.get(prefix)
            role = self._catalog.rules(unit).roles.get(approval.question.role)
            task = questions.asker(unit, approval.question)
        approving.answerable(approval, task, role, who, self._clock.now())
        return approval


def _note(text: str) -> str:
    if len(text) > MAX_NOTE:
        raise Invalid(f"a note has {MAX_NOTE} characters at most")
    return shown.safe(text)
