"""Approvals at the control plane: asked, answered, over; by whom, how often, and what is recorded of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from questions import ALICE, BOB, begin

from remit.control.ports_approvals import Word
from remit.control.ports_control import RevocationKind
from remit.control.questions import PENDING_PER_TASK, UNANSWERED_PER_TREE
from remit.core import approval as approving
from remit.core.errors import Conflict, Invalid, NotFound, Unavailable
from remit.core.grant import Scope
from remit.core.principal import OperatorRole, Principal

JUMPS_S = [3600.0, -3600.0, 365 * 86400.0, -365 * 86400.0]
"""Somebody sets the clock."""


async def test_a_question_becomes_one_approval_however_often_it_is_asked(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    answers = [await asked.ask() for _ in range(3)] + list(await asyncio.gather(*(asked.ask() for _ in range(5))))
    assert len({(one.word, one.approval) for one in answers}) == 1
    assert answers[0].word is Word.PENDING
    assert asked.actions == ["approval.request"]
    (one,) = asked.approvals.all(pending_only=True)
    assert one.question == asked.question


async def test_an_answer_makes_a_grant_that_the_node_has_when_it_is_given(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    said = await asked.ask()
    done = await asked.approvals.approve(said.approval, scope=Scope.ONCE, who=ALICE)
    assert done.grant is not None
    assert [one["id"] for one in asked.plane.node.snapshots[-1]["grants"]] == [done.grant.id]
    assert done.grant.covers(asked.question, asked.plane.clock.now())
    assert asked.plane.rung == [asked.question.task]
    assert asked.actions == ["approval.request", "approval.approve"]
    assert asked.plane.node.records[-1][1]["operator"] == "alice"


async def test_a_use_is_taken_once(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    done = await asked.approvals.approve((await asked.ask()).approval, scope=Scope.ONCE, who=ALICE)
    assert done.grant is not None
    taken = await asyncio.gather(*(asked.questions.use(done.grant.id) for _ in range(8)))
    assert sorted(taken) == [False] * 7 + [True]
    assert asked.approvals.grants() == []
    assert asked.actions[-1] == "grant.spend"
    assert (await asked.ask()).word is Word.PENDING  # the next one is a question of its own


async def test_uses_and_time_can_only_be_narrowed(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    said = await asked.ask()
    for wrong in ({"for_s": 3601.0}, {"uses": 0}, {"uses": 10**6}):
        with pytest.raises(Invalid):
            await asked.approvals.approve(said.approval, scope=Scope.PREFIX, who=ALICE, **wrong)
    with pytest.raises(Invalid, match="has one use"):
        await asked.approvals.approve(said.approval, scope=Scope.ONCE, who=ALICE, uses=2)
    done = await asked.approvals.approve(said.approval, scope=Scope.PREFIX, who=ALICE, for_s=60, uses=2)
    assert done.grant is not None
    assert [await asked.questions.use(done.grant.id) for _ in range(3)] == [True, True, False]


async def test_a_scope_that_was_not_offered_is_refused(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    said = await asked.ask(only_once=True)
    with pytest.raises(Invalid, match="can be answered with: once"):
        await asked.approvals.approve(said.approval, scope=Scope.PREFIX, who=ALICE)


async def test_always_allows_once_and_proposes_a_manifest_without_applying_it(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    done = await asked.approvals.approve((await asked.ask()).approval, scope=Scope.ALWAYS, who=ALICE)
    assert done.grant is not None and done.grant.uses == 1
    assert done.proposal is not None
    assert done.proposal["spec"]["paths"] == ["/repos/a"]
    assert len(asked.plane.services.manifests.all("Capability")) == 1
    await asked.plane.services.manifests.apply([done.proposal], operator="bob", dry_run=True)


async def test_a_denial_is_told_and_the_question_not_shown_again_until_its_time_is_over(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    said = await asked.ask()
    await asked.approvals.deny(said.approval, who=ALICE, note="not today\x1b[2J")
    again = await asked.ask()
    assert (again.word, again.approval) == (Word.DENIED, said.approval)
    assert again.detail == f"alice denied approval {said.approval}: not today [2J"
    asked.plane.clock.advance(15 * 60)
    assert (await asked.ask()).word is Word.PENDING
    assert asked.actions == ["approval.request", "approval.deny", "approval.request"]


async def test_an_approval_is_answered_once(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    said = await asked.ask()
    await asked.approvals.deny(said.approval, who=ALICE)
    with pytest.raises(Conflict, match="is denied by alice already"):
        await asked.approvals.approve(said.approval, scope=Scope.ONCE, who=BOB)
    assert asked.approvals.grants() == []


async def test_an_expired_approval_cannot_be_answered_and_is_over_by_itself(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    said = await asked.ask()
    asked.plane.clock.advance(15 * 60)
    with pytest.raises(Conflict, match="has expired"):
        await asked.approvals.approve(said.approval, scope=Scope.ONCE, who=ALICE)
    assert await asked.approvals.sweep() == 1
    assert asked.approvals.get(said.approval).state == "expired"
    assert asked.actions == ["approval.request", "approval.expired"]
    assert await asked.approvals.sweep() == 0


async def test_a_grant_whose_time_is_up_leaves_the_node(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    done = await asked.approvals.approve((await asked.ask()).approval, scope=Scope.PREFIX, who=ALICE, for_s=30)
    assert done.grant is not None
    asked.plane.clock.advance(30)
    assert not await asked.questions.use(done.grant.id)
    assert await asked.approvals.sweep() == 1
    assert asked.approvals.grants() == []
    assert asked.actions[-1] == "grant.expired"


@pytest.mark.parametrize("jump", JUMPS_S)
async def test_a_grant_ends_no_later_than_it_was_given_for(tmp_path: Path, jump: float) -> None:
    asked = await begin(tmp_path)
    done = await asked.approvals.approve((await asked.ask()).approval, scope=Scope.PREFIX, who=ALICE, for_s=30)
    assert done.grant is not None
    assert await asked.approvals.sweep() == 0
    asked.plane.clock.set_by(jump)
    assert await asked.questions.use(done.grant.id) is (jump < 0), "what is over by either clock is over"
    asked.plane.clock.advance(29)
    assert await asked.questions.use(done.grant.id) is (jump < 0)
    asked.plane.clock.advance(1)
    assert not await asked.questions.use(done.grant.id)
    assert await asked.approvals.sweep() >= 1
    assert asked.approvals.grants() == []
    async with asyncio.timeout(5):
        while asked.plane.node.snapshots[-1]["grants"]:  # the node hears of it a moment later
            await asyncio.sleep(0.005)
    assert "grant.expired" in asked.actions


@pytest.mark.parametrize("jump", JUMPS_S)
async def test_a_question_waits_no_longer_than_it_was_meant_to(tmp_path: Path, jump: float) -> None:
    asked = await begin(tmp_path)
    said = await asked.ask()
    assert await asked.approvals.sweep() == 0
    asked.plane.clock.set_by(jump)
    asked.plane.clock.advance(15 * 60)
    assert await asked.approvals.sweep() == 1
    assert asked.approvals.get(said.approval).state == "expired"
    with pytest.raises(Conflict):
        await asked.approvals.approve(said.approval, scope=Scope.ONCE, who=ALICE)


async def test_what_a_task_waited_for_and_was_granted_ends_with_it(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    done = await asked.approvals.approve((await asked.ask()).approval, scope=Scope.REQUEST, who=ALICE)
    other = await asked.ask(path="/other", target="/other")
    await asked.plane.services.revoking.revoke(RevocationKind.TASK, asked.question.task, operator="bob")
    assert done.grant is not None
    assert not await asked.questions.use(done.grant.id)
    with pytest.raises(Conflict, match="no authority any more"):
        await asked.approvals.approve(other.approval, scope=Scope.ONCE, who=ALICE)
    assert (await asked.ask()).word is Word.REFUSED
    assert await asked.approvals.sweep() == 2
    assert {asked.approvals.get(other.approval).state, *asked.actions[-2:]} == {
        "withdrawn",
        "approval.withdrawn",
        "grant.ended",
    }


async def test_a_flood_stops_at_the_cap_and_leaves_the_next_task_room(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    words = [(await asked.ask(path=f"/{n}", target=f"/{n}")).word for n in range(PENDING_PER_TASK + 5)]
    assert words == [Word.PENDING] * PENDING_PER_TASK + [Word.EXCEEDED] * 5
    assert len(asked.approvals.all(pending_only=True)) == PENDING_PER_TASK
    second = await asked.plane.services.tasks.create("devops", ["agent"], operator="bob")
    assert (await asked.ask(task=second.task.id)).word is Word.PENDING


async def test_children_one_after_the_other_do_not_ask_without_end(tmp_path: Path) -> None:
    asked = await begin(tmp_path, delegates=["devops"])
    tasks, top = asked.plane.services.tasks, asked.question.task
    words = []
    for number in range(8):
        child = (await tasks.create("devops", ["agent"], operator="bob", parent=top)).task.id
        words += [(await asked.ask(task=child, path=f"/{number}/{n}")).word for n in range(PENDING_PER_TASK)]
        tasks.failed(child)
        await asked.approvals.sweep()
    assert words == [Word.PENDING] * UNANSWERED_PER_TREE + [Word.EXCEEDED] * (len(words) - UNANSWERED_PER_TREE)
    other = (await tasks.create("devops", ["agent"], operator="bob")).task.id
    assert (await asked.ask(task=other)).word is Word.PENDING
    asked.plane.clock.advance(approving.LIFETIME.total_seconds() + 1)
    assert (await asked.ask()).word is Word.PENDING


async def test_a_question_that_comes_again_while_it_is_recorded_is_one_approval(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    record, begun = asked.plane.node.record, asyncio.Barrier(2)

    async def slow(kind: str, fields: Mapping[str, Any]) -> str:
        await begun.wait()
        return await record(kind, fields)

    asked.plane.node.record = slow  # type: ignore[method-assign]
    async with asyncio.timeout(60):
        first, second = await asyncio.gather(asked.ask(), asked.ask())
    assert first == second
    assert len(asked.approvals.all(pending_only=True)) == 1


async def test_a_task_that_ends_while_its_answer_is_recorded_gets_no_grant(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    said, record = await asked.ask(), asked.plane.node.record

    async def meanwhile(kind: str, fields: Mapping[str, Any]) -> str:
        asked.plane.services.tasks.failed(asked.question.task)
        return await record(kind, fields)

    asked.plane.node.record = meanwhile  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="has no authority any more"):
        await asked.approvals.approve(said.approval, scope=Scope.ONCE, who=ALICE)
    assert asked.approvals.grants() == []


async def test_a_task_cannot_answer_itself(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    said = await asked.ask()
    itself = Principal(name=asked.question.task, role=OperatorRole.ADMIN, proof="forged")
    for answer in (
        asked.approvals.approve(said.approval, scope=Scope.ONCE, who=itself),
        asked.approvals.deny(said.approval, who=itself),
    ):
        with pytest.raises(Conflict, match="a task does not answer its own"):
            await answer


async def test_four_eyes_are_two_people(tmp_path: Path) -> None:
    asked = await begin(tmp_path, approvals={"fourEyes": True})
    said = await asked.ask()
    with pytest.raises(Conflict, match="bob started task"):
        await asked.approvals.approve(said.approval, scope=Scope.ONCE, who=BOB)
    await asked.approvals.approve(said.approval, scope=Scope.ONCE, who=ALICE)


async def test_whoever_started_a_task_may_answer_where_the_role_does_not_mind(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    await asked.approvals.approve((await asked.ask()).approval, scope=Scope.ONCE, who=BOB)


async def test_a_question_in_the_name_of_another_role_or_task_is_refused(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    for change in ({"role": "finops"}, {"task": "t-zzzzzzzzzz"}, {"task": ""}, {"task": "%"}):
        assert (await asked.ask(**change)).word is Word.REFUSED
    assert asked.approvals.all(pending_only=False) == []


async def test_without_a_record_nobody_is_asked_and_nothing_is_granted(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    said = await asked.ask()
    asked.plane.node.connected = False
    with pytest.raises(Unavailable, match="nothing was changed"):
        await asked.ask(path="/b", target="/b")
    with pytest.raises(Unavailable, match="nothing was changed"):
        await asked.approvals.approve(said.approval, scope=Scope.ONCE, who=ALICE)
    assert asked.approvals.grants() == []
    assert asked.approvals.get(said.approval).state == "pending"


async def test_a_grant_that_is_taken_back_is_gone_from_the_node(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    done = await asked.approvals.approve((await asked.ask()).approval, scope=Scope.PREFIX, who=ALICE)
    assert done.grant is not None
    await asked.approvals.revoke_grant(done.grant.id, who=BOB)
    assert asked.plane.node.snapshots[-1]["grants"] == []
    assert asked.actions[-1] == "grant.revoke"
    with pytest.raises(Conflict, match="is revoked"):
        await asked.approvals.revoke_grant(done.grant.id, who=BOB)


async def test_a_grant_that_is_taken_back_or_over_is_cut_from_what_is_open_under_it(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    plane, task = asked.plane, asked.question.task
    for scope, over in ((Scope.PREFIX, False), (Scope.REQUEST, True)):
        said = await asked.ask(path=f"/{scope}", target=f"/{scope}")
        done = await asked.approvals.approve(said.approval, scope=scope, who=ALICE, for_s=60)
        assert done.grant is not None
        plane.node.open = {("grant", done.grant.id): {task: [1024, 1025]}}
        plane.cells.flows[task] = 5
        if over:
            plane.clock.advance(61)
            assert await asked.approvals.sweep() == 1
        else:
            await asked.approvals.revoke_grant(done.grant.id, who=BOB)
            assert plane.node.records[-1][1]["flows_closed"] == 2
        assert plane.cells.flows[task] == 3


async def test_what_is_open_under_a_grant_that_is_over_is_asked_when_no_more_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await begin(tmp_path)
    plane, task = asked.plane, asked.question.task
    await asked.approvals.approve((await asked.ask()).approval, scope=Scope.PREFIX, who=ALICE, for_s=60)
    known: list[int] = []

    async def using(kind: str, name: str) -> dict[str, list[int]]:
        known.append(len(plane.node.snapshots[-1]["grants"]))
        return {task: [1024]}

    monkeypatch.setattr(plane.node, "using", using)
    plane.clock.advance(61)
    assert await asked.approvals.sweep() == 1
    assert known == [0], "the node had acknowledged that it is over"


async def test_where_the_node_does_not_know_that_a_grant_is_over_everything_of_its_task_is_cut(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    plane, task = asked.plane, asked.question.task
    done = await asked.approvals.approve((await asked.ask()).approval, scope=Scope.PREFIX, who=ALICE, for_s=60)
    assert done.grant is not None
    plane.node.open = {("grant", done.grant.id): {task: [1024]}}
    plane.cells.flows[task] = 5
    plane.clock.advance(61)
    plane.node.connected = False
    assert await asked.approvals.sweep() == 1
    assert plane.cells.flows.get(task, 0) == 0


async def test_a_grant_that_is_used_up_can_still_be_taken_back(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    done = await asked.approvals.approve((await asked.ask()).approval, scope=Scope.ONCE, who=ALICE)
    assert done.grant is not None
    assert await asked.questions.use(done.grant.id)
    taken = {"type": "use", "grant": done.grant.id, "taken": True}
    assert await asked.questions.answer(taken) == {"used": True}, "whoever took it has it still"
    await asked.approvals.revoke_grant(done.grant.id, who=BOB)
    assert asked.actions[-2:] == ["grant.spend", "grant.revoke"]
    assert await asked.questions.answer(taken) == {"used": False}


async def test_what_cannot_be_cut_or_told_to_the_node_is_said(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    plane, task = asked.plane, asked.question.task
    done = await asked.approvals.approve((await asked.ask()).approval, scope=Scope.PREFIX, who=ALICE)
    assert done.grant is not None
    plane.cells.available = False
    with pytest.raises(Unavailable, match="could not be closed"):
        await asked.approvals.revoke_grant(done.grant.id, who=BOB)
    plane.cells.available = True
    done = await asked.approvals.approve((await asked.ask()).approval, scope=Scope.PREFIX, who=ALICE)
    assert done.grant is not None
    plane.cells.flows[task] = 5
    plane.node.connected = False
    with pytest.raises(Unavailable, match="not yet in force"):
        await asked.approvals.revoke_grant(done.grant.id, who=BOB)
    assert plane.cells.flows.get(task, 0) == 0, "more is cut than would have to be, never less"


async def test_a_query_is_shown_to_a_human_and_never_recorded(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    said = await asked.ask()
    await asked.approvals.approve(said.approval, scope=Scope.REQUEST, who=ALICE)
    assert "secret-in-query" in asked.approvals.get(said.approval).question.offer(Scope.ONCE)
    assert "secret-in-query" not in repr(asked.plane.node.records)


async def test_what_the_link_brings_is_looked_at(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    assert await asked.questions.answer({"type": "use", "grant": None}) == {"used": False}
    for wrong in ({}, {"question": None}, {"question": {}}, {"question": {"task": 1}}):
        with pytest.raises(Invalid, match="unknown shape"):
            await asked.questions.answer({"type": "question", **wrong})


async def test_an_approval_is_found_by_its_first_letters(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    said = await asked.ask()
    assert asked.approvals.get(said.approval[2:7]).id == said.approval
    with pytest.raises(NotFound):
        asked.approvals.get("a-")
    with pytest.raises(NotFound):
        asked.approvals.get("%")
