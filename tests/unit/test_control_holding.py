"""Held requests: decided again when something changed, ended with a reason, and never more than may wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from deciding import NOW, TASK, World, asking, knowing

from remit import testing
from remit.control.decide import Denied, Held, Permitted
from remit.control.holding import PER_TASK_MAX, Holding
from remit.control.ports_approvals import Answered, Word
from remit.core.decision import Candidate, Opinion
from remit.core.grant import Body, Grant, Question, Scope
from remit.core.snapshot import Revoked, Rules, Snapshot
from remit.core.task import State
from remit.policy import compile as compiler
from remit.policy import manifests

HOLDS = Opinion(holds=(("large", "more than 1000"),))
PENDING = Answered(word=Word.PENDING, approval="a-aaaaaaaaaa")
BODY = Body(digest="ab" * 32, size=9, text="ten euros")


class Held1:
    """A world whose policy holds everything, and requests that wait in it."""

    def __init__(self, hold_s: float = 30.0, opinion: Opinion = HOLDS, snapshot: Snapshot | None = None) -> None:
        self.world = World(snapshot or knowing(), opinion=opinion)
        self.desk = testing.MemoryDesk()
        self.holding = Holding(
            decider=self.world.decider,
            knowledge=self.world.knowledge,
            desk=self.desk,
            journal=self.world.journal,
            clock=self.world.clock,
            hold_s=hold_s,
        )

    def begin(self, body: Body = Body(), **changes: object) -> asyncio.Task[Permitted | Denied]:
        return asyncio.ensure_future(self.holding.check(asking(**changes), body))

    async def question(self, **changes: object) -> Question:
        answer = await self.world.decider.check(asking(**changes))
        assert isinstance(answer, Held)
        assert answer.question is not None
        return answer.question

    def grant(self, question: Question, scope: Scope = Scope.ONCE, **changes: Any) -> Grant:
        once = scope is Scope.ONCE
        base = Grant(
            id="g-aaaaaaaaaa",
            approval=PENDING.approval,
            scope=scope,
            question=question,
            author="alice",
            created=NOW,
            expires=NOW + timedelta(hours=1),
            uses=1 if once else None,
        )
        return replace(base, **changes)

    def know(self, snapshot: Snapshot) -> None:
        self.world.knowledge.replace(snapshot)
        self.world.knowledge.heard()

    def give(self, grant: Grant) -> None:
        if grant.uses is not None:
            self.desk.uses[grant.id] = grant.uses
        self.know(replace(self.world.knowledge.snapshot, grants={grant.task: (grant,)}))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def denied(answer: Awaitable[Permitted | Denied], reason: str) -> Denied:
    said = await answer
    assert isinstance(said, Denied)
    assert said.refusal.reason == reason
    return said


async def test_the_fast_check_says_hold_and_records_nothing() -> None:
    held = Held1()
    assert (await held.question()).reasons == ("policy large: more than 1000",)
    assert held.world.records() == []


async def test_a_request_waits_until_a_grant_covers_it_and_the_use_is_taken() -> None:
    held = Held1()
    waiting = held.begin(BODY)
    await until(lambda: len(held.desk.asked) == 1)
    (question,) = held.desk.asked
    assert (question.body, question.body_bytes, question.body_text) == (BODY.digest, 9, "ten euros")
    held.give(held.grant(question))
    assert isinstance(await waiting, Permitted)
    assert held.desk.uses == {"g-aaaaaaaaaa": 0}
    first, last = held.world.records()
    assert (first["decision"], first["reason"], first["approval"]) == ("hold", "approval_required", "a-aaaaaaaaaa")
    assert (last["decision"], last["grant"], last["approved_by"]) == ("permit", "g-aaaaaaaaaa", "alice")
    assert held.holding.waiting(TASK) == 0


async def test_the_snapshot_that_tells_of_the_spent_use_does_not_take_the_permit_back() -> None:
    held = Held1()
    waiting = held.begin()
    await until(lambda: len(held.desk.asked) == 1)
    held.give(held.grant(held.desk.asked[0]))
    append = held.world.journal.append

    async def spent_meanwhile(record: str, entry: Any) -> None:
        await append(record, entry)
        if entry.fields.get("decision") == "permit" and held.world.knowledge.snapshot.grants:
            held.know(replace(held.world.knowledge.snapshot, grants={}))

    held.world.journal.append = spent_meanwhile  # type: ignore[method-assign]
    assert isinstance(await waiting, Permitted)
    assert held.desk.uses == {"g-aaaaaaaaaa": 0}


async def test_a_grant_that_is_taken_back_while_its_permit_is_written_permits_nothing() -> None:
    held = Held1()
    waiting = held.begin()
    await until(lambda: len(held.desk.asked) == 1)
    held.give(held.grant(held.desk.asked[0]))
    append = held.world.journal.append

    async def taken_back_meanwhile(record: str, entry: Any) -> None:
        await append(record, entry)
        if entry.fields.get("decision") == "permit" and held.world.knowledge.snapshot.grants:
            held.desk.revoked.add("g-aaaaaaaaaa")
            held.know(replace(held.world.knowledge.snapshot, grants={}))
            held.desk.answer = Answered(word=Word.DENIED, approval="a-b", detail="alice denied approval a-b")

    held.world.journal.append = taken_back_meanwhile  # type: ignore[method-assign]
    await denied(waiting, "approval_denied")
    assert [one["decision"] for one in held.world.records()] == ["hold", "permit", "deny"]
    assert held.world.openings.using("grant", "g-aaaaaaaaaa") == {}


@pytest.mark.parametrize("judging", [1, 2])
async def test_a_grant_that_comes_while_the_request_is_being_decided_is_not_missed(
    monkeypatch: pytest.MonkeyPatch, judging: int
) -> None:
    held = Held1()
    grant = held.grant(await held.question())
    held.desk.answer = Answered(word=Word.APPROVED, approval=grant.approval)
    judge, judged = testing.StaticPolicies.judge, 0

    async def granted_meanwhile(policies: testing.StaticPolicies, candidate: Candidate) -> Opinion:
        nonlocal judged
        judged += 1
        if judged == judging:
            held.give(grant)
        return await judge(policies, candidate)

    monkeypatch.setattr(testing.StaticPolicies, "judge", granted_meanwhile)
    waiting = held.begin()
    await until(lambda: len(held.desk.asked) == 1)
    if judging > 1:
        held.holding.ring(TASK)  # something else changed for it
    assert isinstance(await waiting, Permitted)


async def test_one_use_lets_one_of_two_through() -> None:
    held = Held1()
    both = [held.begin(), held.begin()]
    await until(lambda: len(held.desk.asked) == 2)
    held.give(held.grant(held.desk.asked[0]))
    done, open_ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    assert [type(task.result()) for task in done] == [Permitted]
    await until(lambda: len(held.desk.asked) == 3)  # the other one asks again
    held.desk.answer = Answered(word=Word.DENIED, approval="a-b", detail="alice denied approval a-b")
    held.holding.ring(TASK)
    await denied(open_.pop(), "approval_denied")


async def test_a_grant_for_another_body_or_path_is_none() -> None:
    held = Held1()
    waiting = held.begin(BODY)
    await until(lambda: len(held.desk.asked) == 1)
    for change in ({"body": ""}, {"target": "/v1/other", "path": "/v1/other"}, {"task": "t-bbbbbbbbbb"}):
        held.give(held.grant(replace(held.desk.asked[0], **change)))
        held.holding.ring()
        asked = len(held.desk.asked)
        await until(lambda: len(held.desk.asked) > asked)  # noqa: B023
    assert not waiting.done()
    assert held.desk.uses == {"g-aaaaaaaaaa": 1}
    waiting.cancel()


async def test_a_standing_grant_lets_the_fast_check_through() -> None:
    held = Held1()
    question = await held.question()
    held.give(held.grant(question, Scope.PREFIX))
    assert isinstance(await held.world.decider.check(asking()), Permitted)
    held.give(held.grant(question, Scope.REQUEST))
    assert isinstance(await held.world.decider.check(asking()), Held)  # it would have to see the body
    held.give(held.grant(question, Scope.PREFIX, expires=NOW - timedelta(seconds=1)))
    assert isinstance(await held.world.decider.check(asking()), Held)


async def test_a_denial_says_who_and_why() -> None:
    held = Held1()
    held.desk.answer = Answered(word=Word.DENIED, approval="a-b", detail="alice denied approval a-b: no")
    said = await denied(held.begin(), "approval_denied")
    assert said.refusal.detail == "alice denied approval a-b: no"
    (record,) = held.world.records()
    assert (record["approval"], record["task"]) == ("a-b", TASK)


async def test_when_the_hold_is_over_the_agent_is_told_to_ask_again() -> None:
    said = await denied(Held1(hold_s=0.02).begin(), "approval_pending")
    assert said.refusal.detail.endswith("ask again, approval a-aaaaaaaaaa is pending")


async def test_a_control_plane_that_is_away_is_a_denial_when_the_hold_is_over() -> None:
    held = Held1(hold_s=0.02)
    held.desk.available = False
    await denied(held.begin(), "approval_unavailable")


async def test_a_control_plane_that_comes_back_is_asked_again() -> None:
    held = Held1()
    held.desk.available = False
    waiting = held.begin()
    await until(lambda: held.holding.waiting(TASK) == 1)
    held.desk.available = True
    held.holding.ring(None)
    await until(lambda: len(held.desk.asked) == 1)
    waiting.cancel()


async def test_a_use_that_nobody_could_take_is_a_denial() -> None:
    held = Held1()
    held.give(held.grant(await held.question()))
    held.desk.available = False
    await denied(held.begin(), "approval_unavailable")


async def test_a_task_that_is_revoked_waits_no_longer() -> None:
    held = Held1()
    waiting = held.begin()
    await until(lambda: len(held.desk.asked) == 1)
    held.know(knowing(State.REVOKED))
    await denied(waiting, "task_revoked")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"revoked": Revoked(capabilities=frozenset({"c"}))}, "capability_revoked"),
        ({"rules": Rules(digest="other")}, "role_invalid"),
    ],
)
async def test_rules_that_change_are_heard_by_whoever_waits(change: dict[str, Any], reason: str) -> None:
    held = Held1()
    held.know(held.world.knowledge.snapshot)
    waiting = held.begin()
    await until(lambda: len(held.desk.asked) == 1)
    held.know(replace(held.world.knowledge.snapshot, **change))
    await denied(waiting, reason)


async def test_that_a_request_waits_is_written_down_once() -> None:
    held = Held1()
    waiting = held.begin()
    for asked in (1, 2, 3):
        await until(lambda asked=asked: len(held.desk.asked) == asked)  # type: ignore[misc]
        held.holding.ring(TASK)
    await until(lambda: len(held.desk.asked) == 4)
    waiting.cancel()
    assert [record["decision"] for record in held.world.records()] == ["hold"]


async def test_a_policy_that_denies_is_not_asked_about() -> None:
    held = Held1(opinion=Opinion(denials=(("p", "no"),), holds=HOLDS.holds))
    await denied(held.begin(), "policy_denied")
    assert held.desk.asked == []


async def test_no_more_of_one_task_wait_than_may() -> None:
    held = Held1()
    waiting = [held.begin() for _ in range(PER_TASK_MAX)]
    await until(lambda: held.holding.waiting(TASK) == PER_TASK_MAX)
    await denied(held.begin(), "approvals_exceeded")
    for one in waiting:
        one.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await one
    assert held.holding.waiting(TASK) == 0


@pytest.mark.parametrize("word", [Word.EXCEEDED, Word.REFUSED])
async def test_what_the_control_plane_will_not_ask_is_denied(word: Word) -> None:
    held = Held1()
    held.desk.answer = Answered(word=word, detail="too many")
    await denied(held.begin(), "approvals_exceeded" if word is Word.EXCEEDED else "approval_unavailable")


async def test_a_hold_that_cannot_be_recorded_goes_on_and_its_permit_does_not() -> None:
    held = Held1()
    held.world.journal.full = True
    waiting = held.begin()
    await until(lambda: len(held.desk.asked) == 1)
    held.give(held.grant(held.desk.asked[0]))
    await denied(waiting, "audit_unavailable")


AWS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: r}
spec: {capabilities: [c]}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: c}
spec: {hosts: [api.a.com], credential: k}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {name: k}
spec: {hosts: [api.a.com], inject: {sigv4: {services: [dynamodb], regions: [eu-central-1]}}}
"""


async def test_what_can_be_signed_only_with_its_body_is_decided_again_with_it_and_asks_nobody() -> None:
    rules = compiler.rules(manifests.parse(AWS, "m"))
    held = Held1(opinion=Opinion(), snapshot=knowing(rules=rules))
    keys = b'{"accessKeyId": "AKIAREALREALREAL0000", "secretAccessKey": "real-secret-key"}'
    held.world.secrets.table["k"] = keys
    scope = f"AKIAPLACEHOLDER00000/{NOW:%Y%m%d}/eu-central-1/dynamodb/aws4_request"
    headers = {
        "authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-date, Signature={'0' * 64}",
        "x-amz-date": f"{NOW:%Y%m%dT%H%M%SZ}",
        "content-length": "9",
    }
    asked = asking(method="POST", headers=headers)
    assert await held.world.decider.check(asked) == Held(question=None)
    assert held.world.records() == []
    signed = [await held.holding.check(asked, body) for body in (BODY, replace(BODY, digest="cd" * 32))]
    assert all(isinstance(answer, Permitted) for answer in signed)
    assert len({dict(answer.headers)[b"authorization"] for answer in signed if isinstance(answer, Permitted)}) == 2
    assert held.desk.asked == []
