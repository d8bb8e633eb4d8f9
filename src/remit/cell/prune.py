"""Ended tasks are forgotten: looked at, told to the control plane (which records it), and only then removed.

A directory is renamed before it is removed, so that nobody finds half of one; what a killed daemon had renamed goes
with the next round. What runs, starts or is being read is never among the candidates: `names` is taken in one step with
what runs. Directories were written by agents: no link is followed, and none is too deep.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from remit.cell import changes, request, retention, stored, trees, workspace
from remit.cell.control_client import ControlClient
from remit.core.errors import Conflict, NotFound, RemitError
from remit.core.task import TASK_ID

log = logging.getLogger(__name__)

ROUND_MAX = 500
"""Tasks in one round, so that its record stays small; the next round takes the others."""
FIRST_S, EVERY_S = 60.0, 3600.0
"""The automatic rounds: the first after a start, and then."""
YOUNG_S = 60.0
_GONE = ".gone-"


class Pruner:
    """Rounds of it, one at a time. `running`: the tasks that have a cell; `starting`: whether some are being made."""

    def __init__(
        self,
        cells: Path,
        stage: Path,
        control: ControlClient,
        usual: retention.Retention,
        running: Collection[str],
        starting: Callable[[], bool],
    ) -> None:
        self._cells, self._stage, self._control, self._usual = cells, stage, control, usual
        self._running, self._starting = running, starting
        self._reading: Counter[str] = Counter()
        self._going: set[str] = set()
        self._round = asyncio.Lock()

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Inside, what is left of the task stays. `NotFound`: it is going already."""
        if name in self._going:
            raise NotFound(f"task {name} is being pruned", hint="remit ps --all")
        self._reading[name] += 1
        try:
            yield
        finally:
            self._reading[name] -= 1
            if not self._reading[name]:
                del self._reading[name]

    async def prune(self, asked: request.Prune, operator: str) -> retention.Plan:
        """Forget ended tasks; what it did, or would do. `Unavailable`: it could not be recorded, nothing is gone."""
        async with self._round:
            busy = {*self._running, *self._reading}
            found = [name for name in names(self._cells, starting=self._starting()) if name not in busy]
            plan = await asyncio.to_thread(
                find, self._cells, self._stage, found, asked.kept, unmerged_too=asked.unmerged_too
            )
            if asked.dry_run or not plan.gone:
                return plan
            reading = set(self._reading)
            self._going = {one.task for one, _ in plan.gone} - reading
            try:
                plan = plan.only(self._going)
                await tell(self._control, plan, asked.kept, operator, busy | reading)
                await asyncio.to_thread(remove, self._cells, plan)
            finally:
                self._going = set()
            return plan

    async def keep(self) -> None:
        """Until cancelled: what is due goes, a while after the start and then every hour."""
        wait_s = FIRST_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = EVERY_S
            try:
                plan = await self.prune(request.Prune(kept=self._usual), "remit")
            except (RemitError, OSError) as error:
                log.error("ended tasks were not pruned: %s", error)
                continue
            if plan.stays:
                log.warning("%d tasks are due but keep unmerged changes: remit prune --dry-run", len(plan.stays))


def names(cells: Path, *, starting: bool) -> list[str]:
    """Tasks of which something is kept. While some are `starting`, those made a moment ago are not among them."""
    young = time.time() - YOUNG_S if starting else float("inf")
    with os.scandir(cells) as entries:
        return [
            entry.name
            for entry in entries
            if TASK_ID.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < young
        ]


def find(
    cells: Path, stage: Path, candidates: Iterable[str], wanted: retention.Retention, *, unmerged_too: bool
) -> retention.Plan:
    """What would go. Looks at files: not for the event loop."""
    left = [found for task in candidates if (found := _left(cells / task)) is not None]

    def unmerged(task: str) -> bool:
        return not unmerged_too and _unmerged(cells, stage, task)

    return retention.plan(left, wanted, time.time(), unmerged)


async def tell(
    control: ControlClient, plan: retention.Plan, wanted: retention.Retention, operator: str, kept: Iterable[str]
) -> None:
    """Have it recorded, and forgotten by the control plane. `Unavailable`: then nothing may be removed."""
    going = [one for one, _ in plan.gone[:ROUND_MAX]]
    staying = [one.task for one, _ in (*plan.stays, *plan.gone[ROUND_MAX:])] + [one.task for one in plan.rest]
    body = {
        "operator": operator,
        "tasks": [one.task for one in going],
        "kept": sorted({*staying, *kept}),
        "bytes": sum(one.size_bytes for one in going),
        "older_than_s": wanted.age_s,
    }
    await control.post("/v1/tasks/pruned", body)


def remove(cells: Path, plan: retention.Plan) -> None:
    for one, why in plan.gone[:ROUND_MAX]:
        with contextlib.suppress(FileNotFoundError):
            (cells / one.task).rename(cells / f"{_GONE}{one.task}")
            log.info("task %s is pruned: %s", one.task, why)
    with _opened(cells) as top:
        for name in [entry for entry in os.listdir(top) if entry.startswith(_GONE)]:
            try:
                trees.remove(name, top)
            except OSError as error:
                log.error("what is left of task %s was not removed: %s", name.removeprefix(_GONE), error)


def told(plan: retention.Plan) -> dict[str, Any]:
    """For people and programs. Times are Unix seconds."""
    going = plan.gone[:ROUND_MAX]
    return {
        "pruned": [_one(left, why) for left, why in going],
        "kept": [_one(left, why) for left, why in plan.stays],
        "bytes": sum(left.size_bytes for left, _ in going),
        "more": len(plan.gone) - len(going),
    }


def _one(left: retention.Left, why: str) -> dict[str, Any]:
    return {"task": left.task, "last": left.last, "bytes": left.size_bytes, "why": why}


def _left(directory: Path) -> retention.Left | None:
    size = 0
    try:
        last = max(os.lstat(path).st_mtime for path in (directory, *directory.iterdir()))
        with _opened(directory.parent) as top:
            for _, _, found in trees.inside_out(directory.name, top):
                size += found.st_blocks * 512
    except FileNotFoundError:
        return None
    return retention.Left(task=directory.name, last=last, size_bytes=size)


def _unmerged(cells: Path, stage: Path, task: str) -> bool:
    """Whether anything differs from the workspace. What cannot be read is taken for a difference."""
    try:
        _, lower = stored.copied(cells, task)
    except Conflict:
        return False  # it had no copy
    except RemitError:
        return False  # nothing says what it belonged to: its cell was never made
    try:
        with contextlib.ExitStack() as stack:
            layers = stack.enter_context(workspace.reopened(cells / task, stage))
            upper = stack.enter_context(_opened(layers / "upper"))
            below = changes.open_workspace(lower)
            stack.callback(os.close, below)
            return next(changes.walk(upper, below), None) is not None
    except OSError:
        return True


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    number = changes.open_root(directory)
    try:
        yield number
    finally:
        os.close(number)
