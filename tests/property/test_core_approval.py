"""Whoever answers, however they answer: nothing is allowed that was not shown, and never by the one who asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.core import approval as approving
from remit.core import grant as granting
from remit.core.approval import Approval
from remit.core.errors import Conflict, Invalid
from remit.core.grant import LIFE_MAX, LONGEST, MAX_USES, Question, Scope
from remit.core.principal import OperatorRole, Principal
from remit.core.snapshot import Role
from remit.core.task import ALIVE, Task
from remit.core.task import State as TaskState

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TASKS = ("t-aaaaaaaaaa", "t-bbbbbbbbbb")
PEOPLE = ("alice", "bob", *TASKS)
ROLES = ("devops", "finops")
SECONDS = st.none() | st.floats() | st.floats(0, 7200) | st.sampled_from([1e12, 900.0, 3600.0])
USES = st.none() | st.integers() | st.integers(0, 4) | st.just(MAX_USES)


def question(*, only_once: bool = False) -> Question:
    return Question(
        task=TASKS[0], role="devops", method="POST", protocol="https", host="api.a.com", port=443, path="/x",
        target="/x?y", websocket=False, body="", body_bytes=0, capability="c", credential=None,
        reasons=("capability c asks",), only_once=only_once,
    )  # fmt: skip


APPROVALS = st.builds(
    Approval,
    id=st.just("a-aaaaaaaaaa"),
    question=st.just(question()),
    state=st.sampled_from(approving.State),
    created=st.just(NOW),
    expires=st.sampled_from([NOW - timedelta(seconds=1), NOW, NOW + timedelta(seconds=1)]),
)
ASKING = st.none() | st.builds(
    Task,
    id=st.sampled_from(TASKS),
    role=st.sampled_from(ROLES),
    state=st.sampled_from(TaskState),
    cell=st.just(1),
    created=st.just(NOW),
    operator=st.sampled_from(PEOPLE),
)


@given(st.sampled_from(Scope), st.booleans(), SECONDS, USES)
def test_an_answer_allows_what_was_shown_and_can_only_be_made_narrower(
    scope: Scope, only_once: bool, for_s: float | None, uses: int | None
) -> None:
    asked = question(only_once=only_once)
    try:
        grant = granting.narrowed(
            asked, scope, identity="g-a", approval="a-a", author="alice", now=NOW, for_s=for_s, uses=uses
        )
    except Invalid:
        fits = for_s is None or 0 < for_s <= (LONGEST[scope] or LIFE_MAX).total_seconds()
        counted = uses is None or (1 <= uses <= MAX_USES and (uses == 1 or scope in (Scope.REQUEST, Scope.PREFIX)))
        assert not (scope in asked.scopes() and fits and counted), "what was offered can be answered"
        return
    assert scope in asked.scopes()
    longest = LONGEST[scope]
    assert longest is None or (grant.expires is not None and grant.expires <= NOW + longest)
    assert for_s is None or grant.expires == NOW + timedelta(seconds=for_s)
    assert uses is None or grant.uses == uses
    assert grant.uses == 1 or scope in (Scope.REQUEST, Scope.PREFIX)
    assert grant.question == asked and (grant.state, grant.used) == (granting.State.ACTIVE, 0)
    assert grant.covers(asked, NOW) or (grant.expires is not None and grant.expires <= NOW)


ANSWERABLE = Approval(
    id="a-aaaaaaaaaa",
    question=question(),
    state=approving.State.PENDING,
    created=NOW,
    expires=NOW + timedelta(seconds=1),
)
RIGHTLY = ASKING.map(lambda task: task and replace(task, id=TASKS[0], role="devops", state=TaskState.RUNNING))
"""Most draws have something that is wrong with them: of these nothing is but who answers."""


@given(st.just(ANSWERABLE) | APPROVALS, RIGHTLY | ASKING, st.none() | st.booleans(), st.sampled_from(PEOPLE))
def test_only_another_one_answers_and_only_while_the_task_has_authority(
    approval: Approval, task: Task | None, four_eyes: bool | None, name: str
) -> None:
    """`four_eyes` None: the role is gone, and then nobody can say that it wants no other person."""
    role = Role(name="devops", four_eyes=four_eyes) if four_eyes is not None else None
    who = Principal(name=name, role=OperatorRole.ADMIN, proof="uid:1")
    asking = task is not None and (task.id, task.role) == (TASKS[0], "devops") and task.state in ALIVE
    same = task is not None and (name == task.id or (four_eyes is not False and name == task.operator))
    may = approval.state is approving.State.PENDING and approval.expires > NOW and asking and not same
    if may:
        approving.answerable(approval, task, role, who, NOW)
        return
    with pytest.raises(Conflict, match=r"already|expired|authority|its own|another person"):
        approving.answerable(approval, task, role, who, NOW)


@given(APPROVALS, st.lists(st.sampled_from(approving.Event), max_size=4))
def test_what_is_answered_or_over_stays_so(approval: Approval, events: list[approving.Event]) -> None:
    current = approval
    for event in events:
        before = current
        try:
            current = approving.advance(current, event, NOW, author="alice")
        except Conflict:
            continue
        assert before.state is approving.State.PENDING
        answered = current.state in (approving.State.APPROVED, approving.State.DENIED)
        assert not answered or before.open(NOW)
