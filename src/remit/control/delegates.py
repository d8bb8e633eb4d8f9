"""Tasks that ask, from inside their cells, for tasks of their own.

Who asks is what the decision service said of the connection, never what the request says. What a child may be is proven
when its cell is started (`control.tasks`, `core.delegation`); here a flood is kept within bounds, each refusal is
recorded, and a child lives no longer than somebody waits for it: whoever asked, the connection by which they asked, the
control plane. So what is counted here is all there is, and a restart, which ends every child, may begin at zero.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from remit.control.ports import Clock
from remit.control.ports_delegates import Child, Children, Wanted
from remit.control.recording import Recorder
from remit.control.tasks import Lifecycle
from remit.core.delegation import MAX_DEPTH
from remit.core.errors import Conflict, Invalid, NotFound, RemitError, Unavailable
from remit.core.reason import Reason, Refusal

log = logging.getLogger(__name__)

MAX_AT_ONCE = 8
"""Children that one task has at the same time,"""
MAX_IN_TREE = 32
"""that all tasks below one have that nobody delegated,"""
MAX_ON_NODE = 128
"""and that there are: a quarter of the cells of a node (`cell.daemon`)."""
MAX_EVER = 256
"""Children that one task has one after the other."""
MAX_EVER_IN_TREE = 1024
"""Children that all tasks below one have one after the other: what is left of each stays on the node's disk a while."""
MAX_A_MINUTE = 30
MINUTE_S = 60.0
MAX_REMEMBERED = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """The task that asks, and the record of the permit by which its request came here."""

    task: str
    record: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """`record` is empty where the refusal could not be recorded: it stands all the same."""

    refusal: Refusal
    record: str


@dataclass(slots=True)
class _Asked:
    ever: int = 0
    lately: deque[float] = field(default_factory=deque)
    """When, by a clock that nobody sets."""


class Delegates:
    def __init__(self, *, tasks: Lifecycle, children: Children, recorder: Recorder, clock: Clock) -> None:
        self._tasks, self._children = tasks, children
        self._recorder, self._clock = recorder, clock
        self._open: Counter[str] = Counter()
        self._trees: Counter[str] = Counter()
        self._asked: dict[str, _Asked] = {}
        self._had: Counter[str] = Counter()
        """By the task at the top of a tree: how many children there have been in it."""

    @contextlib.asynccontextmanager
    async def child(self, asker: Asker, wanted: Wanted) -> AsyncIterator[Child | Refused]:
        """A child of the task that asks, running until the block is left, or why there is none."""
        try:
            root = self._root(asker.task)
        except RemitError as error:
            yield await self.refused(asker, wanted.role, _why(error))
            return
        started = await self._started(asker, wanted, root)
        if isinstance(started, Refusal):
            yield await self.refused(asker, wanted.role, started)
            return
        try:
            yield started
        finally:
            try:
                await started.end()
            finally:
                self._leave(asker.task, root)

    async def _started(self, asker: Asker, wanted: Wanted, root: str) -> Child | Refusal:
        full = self._full(asker.task, root)
        if full is not None:
            return Refusal(Reason.DELEGATIONS_EXCEEDED, full)
        self._enter(asker.task, root)
        try:
            return await self._children.start(asker.task, asker.record, wanted)
        except BaseException as error:
            self._leave(asker.task, root)
            if isinstance(error, RemitError):
                return _why(error)
            raise

    async def refused(self, asker: Asker, role: str, refusal: Refusal) -> Refused:
        """`refusal`, recorded."""
        detail = f"task {asker.task} got no task under role {role or '?'}: {refusal.detail}"
        facts = {"task": asker.task, "request": asker.record, "reason": refusal.reason.value}
        try:
            record = await self._recorder.after("task.refuse", f"task {asker.task}", detail, **facts)
        except Unavailable as error:
            log.error("not recorded: %s", error.detail)
            record = ""
        return Refused(refusal=refusal, record=record)

    def _root(self, task: str) -> str:
        """The task at the top of the tree: the one that an operator started."""
        one = self._tasks.get(task)
        for _ in range(MAX_DEPTH):
            if one.parent is None:
                break
            one = self._tasks.get(one.parent)
        return one.id

    def _full(self, task: str, root: str) -> str | None:
        """Which bound this task has reached, or None."""
        asked = self._asked.get(task, _Asked())
        since = self._clock.elapsed() - MINUTE_S
        while asked.lately and asked.lately[0] <= since:
            asked.lately.popleft()
        if self._open[task] >= MAX_AT_ONCE:
            return f"task {task} has {MAX_AT_ONCE} children at once, which is the most"
        if self._trees[root] >= MAX_IN_TREE:
            return f"{MAX_IN_TREE} tasks run below task {root}, which is the most"
        if self._open.total() >= MAX_ON_NODE:
            return f"{MAX_ON_NODE} delegated tasks run on this node, which is the most"
        if asked.ever >= MAX_EVER:
            return f"task {task} has had {MAX_EVER} children, which is the most"
        if self._had[root] >= MAX_EVER_IN_TREE:
            return f"{MAX_EVER_IN_TREE} tasks have run below task {root}, which is the most"
        if len(asked.lately) >= MAX_A_MINUTE:
            return f"task {task} has asked for {MAX_A_MINUTE} children within a minute, which is the most"
        return None

    def _enter(self, task: str, root: str) -> None:
        if len(self._asked) >= MAX_REMEMBERED:
            alive = {one.id for one in self._tasks.all(alive_only=True)}
            self._asked = {name: asked for name, asked in self._asked.items() if name in alive}
            self._had = Counter({name: had for name, had in self._had.items() if name in alive})
        asked = self._asked.setdefault(task, _Asked())
        asked.ever += 1
        asked.lately.append(self._clock.elapsed())
        self._open[task] += 1
        self._trees[root] += 1
        self._had[root] += 1

    def _leave(self, task: str, root: str) -> None:
        for counted, name in ((self._open, task), (self._trees, root)):
            counted[name] -= 1
            if not counted[name]:
                del counted[name]


def _why(error: RemitError) -> Refusal:
    match error:
        case Conflict() | NotFound():
            return Refusal(Reason.NOT_DELEGATED, error.detail)
        case Invalid():
            return Refusal(Reason.MALFORMED, error.detail)
        case _:
            return Refusal(Reason.DELEGATION_UNAVAILABLE, error.detail)
