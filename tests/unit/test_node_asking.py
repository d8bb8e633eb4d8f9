"""Questions to humans over the link: answered, refused, lost; and what a control plane may say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from remit.control.ports_approvals import Answered, Word
from remit.core import frame
from remit.core.errors import Unavailable
from remit.core.grant import Question
from remit.node.asking import Asking

QUESTION = Question(
    task="t-aaaaaaaaaa", role="r", method="GET", protocol="https", host="a.com", port=443, path="/", target="/",
    websocket=False, body="", body_bytes=0, capability="c", credential=None, reasons=("capability c asks",),
)  # fmt: skip


class Wire:
    """The writing half of a link."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self._decoder = frame.Decoder()

    def write(self, data: bytes) -> None:
        self.sent += self._decoder.feed(data)


async def answered(asking: Asking, wire: Wire, waiting: Awaitable[Any], **answer: Any) -> Any:
    task = asyncio.ensure_future(waiting)
    async with asyncio.timeout(60):
        while not wire.sent:
            await asyncio.sleep(0)
    asking.answered({"type": "answer", "id": wire.sent.pop()["id"], **answer})
    return await task


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def asking(wire: Wire) -> Asking:
    made = Asking()
    made.connected(wire)  # type: ignore[arg-type]
    return made


async def test_a_question_is_answered(asking: Asking, wire: Wire) -> None:
    said = await answered(asking, wire, asking.ask(QUESTION), word="denied", approval="a-b", detail="no")
    assert said == Answered(word=Word.DENIED, approval="a-b", detail="no")


@pytest.mark.parametrize(("used", "had"), [(True, True), (False, False), (None, False), ("yes", False), (1, False)])
async def test_a_use_is_had_only_when_it_is_said_so(asking: Asking, wire: Wire, used: object, had: bool) -> None:
    assert await answered(asking, wire, asking.use("g-a"), used=used) is had
    assert await answered(asking, wire, asking.stands("g-a"), used=used) is had


async def test_what_is_no_answer_is_none(asking: Asking, wire: Wire) -> None:
    for answer in ({"word": "permit"}, {}, {"error": "the store is gone"}):
        with pytest.raises(Unavailable):
            await answered(asking, wire, asking.ask(QUESTION), **answer)


async def test_without_a_link_nobody_is_asked(wire: Wire) -> None:
    with pytest.raises(Unavailable, match="is away"):
        await Asking().ask(QUESTION)


async def test_a_link_that_breaks_leaves_nobody_waiting(asking: Asking, wire: Wire) -> None:
    task = asyncio.ensure_future(asking.ask(QUESTION))
    async with asyncio.timeout(60):
        while not wire.sent:
            await asyncio.sleep(0)
    asking.lost()
    with pytest.raises(Unavailable, match="broke before it answered"):
        await task
    asking.answered({"type": "answer", "id": wire.sent[0]["id"], "word": "approved"})  # too late: nobody's


async def test_who_waits_hears_of_news_and_of_a_link_that_is_back(asking: Asking, wire: Wire) -> None:
    heard: list[str | None] = []
    asking.on_news(heard.append)
    asking.rang({"type": "ring", "task": "t-a"})
    asking.lost()
    asking.connected(wire)  # type: ignore[arg-type]
    assert heard == ["t-a", None]
