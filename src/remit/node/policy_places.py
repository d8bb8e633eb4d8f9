"""How many requests may wait for the policies: of one task, of all, and what others keep when that is full.

An agent that delegates is several tasks, which together could take all there is. So each task has a share above the
bound, and the bound of all together is twice as much.
"""

from __future__ import annotations

from collections import Counter

MAX_WAITING = 256
MAX_WAITING_OF_TASK = 32
SHARE = 4
FULL = "too many requests wait for the policies"


class Places:
    """Requests that wait, by task."""

    def __init__(self) -> None:
        self._waiting: Counter[str] = Counter()

    def free(self, task: str) -> bool:
        """Whether one more of `task` may wait."""
        mine, everybody = self._waiting[task], self._waiting.total()
        if mine >= MAX_WAITING_OF_TASK or everybody >= 2 * MAX_WAITING:
            return False
        return everybody < MAX_WAITING or mine < SHARE

    def take(self, task: str) -> None:
        self._waiting[task] += 1

    def leave(self, task: str) -> None:
        self._waiting[task] -= 1
        if not self._waiting[task]:
            del self._waiting[task]
