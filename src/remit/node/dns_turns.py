"""Whose question comes next, where cells ask faster than anybody can answer: each cell that waits has its turn.

In one queue two hundred questions of one agent would stand before the only one of another, whose resolver gives up
after some seconds. Bounded: what a cell asks beyond its room is not kept.
"""

from __future__ import annotations

from collections import OrderedDict, deque

BYTES_PER_CELL = 1 << 16
"""Some hundred questions of ordinary size."""


class Turns:
    """Questions that wait, of each cell in the order in which they came. True while there are any."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, deque[bytes]] = OrderedDict()
        self._bytes: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, cell: int, question: bytes) -> bool:
        """Whether there is room for one more question of `cell`."""
        held = self._bytes.get(cell, 0) + len(question)
        if held > BYTES_PER_CELL:
            return False
        self._bytes[cell] = held
        self._waiting.setdefault(cell, deque()).append(question)
        return True

    def take(self) -> bytes:
        """The next question. Raises `KeyError` where none waits."""
        cell, questions = self._waiting.popitem(last=False)
        question = questions.popleft()
        if questions:
            self._waiting[cell] = questions
            self._bytes[cell] -= len(question)
        else:
            del self._bytes[cell]
        return question
