"""What every desk for questions keeps to: the control plane's, the same over the link, and the one in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from questions import ALICE, Asked, begin

from remit.control.ports_approvals import ApprovalDesk, Word
from remit.core import frame
from remit.core.errors import Unavailable
from remit.core.grant import Question, Scope
from remit.node.asking import Asking
from remit.testing import MemoryDesk


class Wire:
    """The writing half of a link, at whose other end a control plane answers."""

    def __init__(self, asking: Asking, asked: Asked) -> None:
        self._asking, self._asked = asking, asked
        self._decoder = frame.Decoder()
        self._answering: list[asyncio.Task[None]] = []

    def write(self, data: bytes) -> None:
        for message in self._decoder.feed(data):
            self._answering.append(asyncio.ensure_future(self._answer(message)))

    async def _answer(self, message: dict[str, Any]) -> None:
        answer = await self._asked.questions.answer(message)
        self._asking.answered({"type": "answer", "id": message["id"], **answer})


@dataclass
class Desk:
    """`granted` gives the id of a grant with so many uses; `revoke` takes it back; `away`: the same, out of reach."""

    desk: ApprovalDesk
    question: Question
    granted: Callable[[int], Awaitable[str]]
    revoke: Callable[[str], Awaitable[None]]
    away: ApprovalDesk | None


@pytest.fixture(params=["control", "link", "memory"])
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    asked = await begin(tmp_path)

    async def granted(uses: int) -> str:
        said = await asked.ask()
        done = await asked.approvals.approve(said.approval, scope=Scope.REQUEST, who=ALICE, uses=uses)
        assert done.grant is not None
        return done.grant.id

    async def revoke(grant: str) -> None:
        await asked.approvals.revoke_grant(grant, who=ALICE)

    if request.param == "control":
        return Desk(asked.questions, asked.question, granted, revoke, None)
    if request.param == "link":
        asking = Asking()
        asking.connected(Wire(asking, asked))  # type: ignore[arg-type]
        return Desk(asking, asked.question, granted, revoke, Asking())
    memory, away = MemoryDesk(), MemoryDesk()
    away.available = False

    async def put(uses: int) -> str:
        memory.uses["g-a"] = uses
        return "g-a"

    async def take_back(grant: str) -> None:
        memory.revoked.add(grant)

    return Desk(memory, asked.question, put, take_back, away)


async def test_asking_again_is_the_same_question(desk: Desk) -> None:
    first, second = await desk.desk.ask(desk.question), await desk.desk.ask(desk.question)
    assert (first.word, first) == (Word.PENDING, second)
    assert first.approval.startswith("a-")


async def test_a_grant_is_used_as_often_as_it_may_be(desk: Desk) -> None:
    grant = await desk.granted(2)
    assert [await desk.desk.use(grant) for _ in range(3)] == [True, True, False]


async def test_a_use_that_was_taken_stands_until_the_grant_is_taken_back(desk: Desk) -> None:
    grant = await desk.granted(2)
    assert await desk.desk.use(grant)
    assert await desk.desk.stands(grant)
    await desk.revoke(grant)
    assert not await desk.desk.stands(grant)
    assert not await desk.desk.use(grant)


async def test_of_a_grant_that_nobody_made_there_is_nothing(desk: Desk) -> None:
    assert not await desk.desk.use("g-none")
    assert not await desk.desk.stands("g-none")


async def test_out_of_reach_nothing_is_had(desk: Desk) -> None:
    if desk.away is None:
        return  # whoever asks the control plane in its own process always reaches it
    for asked in (desk.away.ask(desk.question), desk.away.use("g-a"), desk.away.stands("g-a")):
        with pytest.raises(Unavailable):
            await asked
