"""The node's questions to humans, over the link to its control plane; `node.link` carries the messages.

A question is not remembered here: whoever holds a request asks again when the link is back, and the control plane
knows the question by its content. What is not answered in time counts as not asked.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from remit.control.ports_approvals import Answered, Word
from remit.core import frame
from remit.core import grant as granting
from remit.core.errors import Unavailable
from remit.core.grant import Question

ANSWER_S = 6.0
"""Longer than the control plane waits for the record of a question (5 s), which this node writes."""
MAX_DETAIL = 1000


class Asking:
    """Implements `control.ports_approvals.ApprovalDesk`. `on_news` hears of tasks that have something to learn, None
    meaning all of them."""

    def __init__(self) -> None:
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        self._news: list[Callable[[str | None], None]] = []

    def on_news(self, listener: Callable[[str | None], None]) -> None:
        self._news.append(listener)

    async def ask(self, question: Question) -> Answered:
        answer = await self._exchange({"type": "question", "question": granting.question_json(question)})
        try:
            word = Word(str(answer.get("word")))
        except ValueError as error:
            raise Unavailable("the control plane gave an answer of another language") from error
        detail = str(answer.get("detail", ""))[:MAX_DETAIL]
        return Answered(word=word, approval=str(answer.get("approval", ""))[:32], detail=detail)

    async def use(self, grant: str) -> bool:
        answer = await self._exchange({"type": "use", "grant": grant})
        return answer.get("used") is True

    async def stands(self, grant: str) -> bool:
        answer = await self._exchange({"type": "use", "grant": grant, "taken": True})
        return answer.get("used") is True

    def connected(self, writer: asyncio.StreamWriter) -> None:
        """The link stands: whoever waits may ask (again)."""
        self._writer = writer
        self._tell(None)

    def lost(self) -> None:
        self._writer = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Unavailable("the link to the control plane broke before it answered"))

    def answered(self, message: dict[str, Any]) -> None:
        number = message.get("id")
        waiting = self._waiting.get(number) if isinstance(number, int) else None
        if waiting is None or waiting.done():
            return
        if message.get("error"):
            waiting.set_exception(Unavailable(str(message["error"])[:MAX_DETAIL]))
        else:
            waiting.set_result(message)

    def rang(self, message: dict[str, Any]) -> None:
        self._tell(str(message.get("task")))

    def _tell(self, task: str | None) -> None:
        for listener in self._news:
            listener(task)

    async def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._writer is None:
            raise Unavailable("the control plane is away", hint="remit status")
        number = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(ANSWER_S):
                self._writer.write(frame.encode({**message, "id": number}))
                return await answer
        except TimeoutError as error:
            raise Unavailable("the control plane did not answer in time", hint="remit status") from error
        except OSError as error:
            raise Unavailable("the link to the control plane broke", hint="remit status") from error
        finally:
            del self._waiting[number]
