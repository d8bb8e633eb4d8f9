"""Approvals: a request that waits for a human: when one is needed, who may answer it, and the states it can be in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from remit.core import telling
from remit.core.capability import Approval as Rule
from remit.core.decision import UNCOVERED, Candidate, Opinion
from remit.core.errors import Conflict
from remit.core.grant import NO_BODY, Body, Question
from remit.core.principal import Principal
from remit.core.snapshot import Role
from remit.core.task import ALIVE, Task

LIFETIME = timedelta(minutes=15)
"""How long an approval can be answered; a denial is remembered as long."""


class State(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class Event(StrEnum):
    APPROVE = "approve"
    DENY = "deny"
    EXPIRE = "expire"
    WITHDRAW = "withdraw"
    """Its task has ended."""


TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.PENDING: {
        Event.APPROVE: State.APPROVED,
        Event.DENY: State.DENIED,
        Event.EXPIRE: State.EXPIRED,
        Event.WITHDRAW: State.WITHDRAWN,
    },
    State.APPROVED: {},
    State.DENIED: {},
    State.EXPIRED: {},
    State.WITHDRAWN: {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """`author` and `note`: who answered, and what they said."""

    id: str
    question: Question
    state: State
    created: datetime
    expires: datetime
    answered: datetime | None = None
    author: str | None = None
    note: str = ""

    def open(self, now: datetime) -> bool:
        return self.state is State.PENDING and now < self.expires


def advance(approval: Approval, event: Event, now: datetime, *, author: str | None = None, note: str = "") -> Approval:
    """`approval` after `event`. `Conflict` where it was answered already, or its time is over."""
    target = TRANSITIONS[approval.state].get(event)
    if target is None:
        by = f" by {approval.author}" if approval.author else ""
        raise Conflict(f"approval {approval.id} is {approval.state}{by} already", hint="remit approvals list")
    if event in (Event.APPROVE, Event.DENY) and now >= approval.expires:
        raise Conflict(f"approval {approval.id} has expired: the agent must ask again", hint="remit approvals list")
    return replace(approval, state=target, answered=now, author=author, note=note)


def authority(question: Question, task: Task | None) -> Task | None:
    """`task`, where it is the one that asked, under the role that it asked under, and still has authority."""
    asking = task is not None and task.id == question.task and task.role == question.role and task.state in ALIVE
    return task if asking else None


def answerable(approval: Approval, task: Task | None, role: Role | None, who: Principal, now: datetime) -> None:
    """`Conflict` where `who` cannot answer `approval`, which `task` asked for under `role`.

    An answer allows nothing that the one who asked could allow: no task answers its own, and where its role wants four
    eyes (or is gone), neither does whoever started it.
    """
    if not approval.open(now):
        advance(approval, Event.DENY, now)  # tells why not
    task = authority(approval.question, task)
    if task is None:
        raise Conflict(f"task {approval.question.task} has no authority any more", hint="remit ps --all")
    if who.name == task.id:
        raise Conflict("a task does not answer its own approvals", hint="ask an operator")
    if (role is None or role.four_eyes) and who.name == task.operator:
        raise Conflict(
            f"{who.name} started task {task.id}, and role {task.role} wants another person to answer",
            hint="remit operator list",
        )


def question(candidate: Candidate, opinion: Opinion, body: Body = NO_BODY) -> Question | None:
    """What a human must be asked before `candidate` may go on, or None."""
    capability = candidate.capability
    if capability.approval is Rule.NEVER and not opinion.holds:
        return None
    reasons = []
    if capability.approval is not Rule.NEVER:
        covered = capability.name != UNCOVERED
        reasons.append(f"capability {capability.name} asks" if covered else "no capability covers it")
    reasons += [f"policy {policy}: {said}" for policy, said in opinion.holds]
    asked = candidate.request
    return Question(
        task=candidate.task.id,
        role=candidate.role.name,
        method=asked.method,
        protocol=asked.protocol.value,
        host=asked.host,
        port=asked.port,
        path=asked.path,
        target=asked.target,
        websocket=asked.websocket,
        body=body.digest,
        body_bytes=body.size,
        body_text=body.text,
        capability=capability.name,
        credential=candidate.credential.name if candidate.credential else None,
        reasons=tuple(dict.fromkeys(reasons)),
        only_once=capability.approval is Rule.ALWAYS_ASK,
        headers=telling.told(asked.headers),
    )
