"""What a human is asked, by rule and by policy."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest
from permits import asked, credential, permit

from remit.core import approval
from remit.core.capability import Approval
from remit.core.decision import UNCOVERED, Opinion
from remit.core.errors import Conflict
from remit.core.grant import Body, Question, Scope
from remit.core.principal import OperatorRole, Principal
from remit.core.snapshot import Role

CANDIDATE = permit(credential()).candidate


def question(rule: Approval, *holds: tuple[str, str], name: str = "github") -> Question | None:
    candidate = replace(CANDIDATE, capability=replace(CANDIDATE.capability, name=name, approval=rule))
    return approval.question(candidate, Opinion(holds=holds))


@pytest.mark.parametrize(
    ("role", "name", "may"),
    [
        (Role(name="devops"), "alice", True),
        (Role(name="devops", four_eyes=True), "alice", False),
        (Role(name="devops", four_eyes=True), "bob", True),
        (None, "alice", False),
        (None, "bob", True),
    ],
)
def test_where_four_eyes_are_wanted_or_the_role_is_gone_another_one_answers(
    role: Role | None, name: str, may: bool
) -> None:
    task, now = replace(CANDIDATE.task, operator="alice"), CANDIDATE.task.created
    asked = question(Approval.ASK)
    assert asked is not None
    waits = approval.Approval(
        id="a-a", question=asked, state=approval.State.PENDING, created=now, expires=now + timedelta(minutes=1)
    )
    who = Principal(name=name, role=OperatorRole.APPROVER, proof="uid:1")
    with contextlib.nullcontext() if may else pytest.raises(Conflict, match="wants another person"):
        approval.answerable(waits, task, role, who, now)


def test_without_a_rule_or_a_hold_nobody_is_asked() -> None:
    assert question(Approval.NEVER) is None


@pytest.mark.parametrize(
    ("rule", "holds", "reasons", "scopes"),
    [
        (Approval.ASK, [], ("capability github asks",), tuple(Scope)),
        (Approval.ALWAYS_ASK, [], ("capability github asks",), (Scope.ONCE,)),
        (Approval.NEVER, [("p", "large")], ("policy p: large",), tuple(Scope)),
        (Approval.ALWAYS_ASK, [("p", "large")], ("capability github asks", "policy p: large"), (Scope.ONCE,)),
        (Approval.ASK, [("p", "x"), ("p", "x")], ("capability github asks", "policy p: x"), tuple(Scope)),
    ],
)
def test_each_reason_is_told_once_and_the_scopes_narrowest_first(
    rule: Approval, holds: list[tuple[str, str]], reasons: tuple[str, ...], scopes: tuple[Scope, ...]
) -> None:
    found = question(rule, *holds)
    assert found is not None
    assert (found.reasons, found.scopes()) == (reasons, scopes)


def test_what_nothing_covers_is_said_to_be_so() -> None:
    found = question(Approval.ASK, name=UNCOVERED)
    assert found is not None
    assert found.reasons == ("no capability covers it",)


def test_everything_of_the_request_is_in_it() -> None:
    request = asked("/a/b?c=d", method="POST", x_dest="elsewhere", user_agent="x")
    candidate = replace(CANDIDATE, request=request, capability=replace(CANDIDATE.capability, approval=Approval.ASK))
    assert approval.question(candidate, Opinion(), Body(digest="ab", size=2, text="hi")) == Question(
        task=CANDIDATE.task.id, role="devops", method="POST", protocol="https", host="api.github.com", port=443,
        path="/a/b", target="/a/b?c=d", websocket=False, body="ab", body_bytes=2, body_text="hi", capability="github",
        credential="github-token", reasons=("capability github asks",), headers=("x-dest: elsewhere",),
    )  # fmt: skip
