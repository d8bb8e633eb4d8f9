"""Ended tasks are forgotten: looked at, told to the control plane (which records it), and only then removed.

A directory is renamed before it is removed, so that nobody finds half of one; what a killed daemon had renamed goes
with the next round. What runs, starts or is being read is never among the candidates: the daemon takes `names` in one
step with what it runs. Directories were written by agents: no link is followed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from remit.cell import changes, retention, stored, workspace
from remit.cell.control_client import ControlClient
from remit.core.errors import Conflict, RemitError
from remit.core.task import TASK_ID

log = logging.getLogger(__name__)

ROUND_MAX = 500
"""Tasks in one round, so that its record stays small; the next round takes the others."""
FIRST_S, EVERY_S = 60.0, 3600.0
"""The automatic rounds: the first after a start, and then."""
YOUNG_S = 60.0
_GONE = ".gone-"


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
    for path in cells.glob(f"{_GONE}*"):
        shutil.rmtree(path, onerror=_opened)


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
    last, size = 0.0, 0
    try:
        for base, _, files in os.walk(directory):
            for path in (base, *(os.path.join(base, name) for name in files)):
                with contextlib.suppress(FileNotFoundError):
                    status = os.lstat(path)
                    size += status.st_blocks * 512
                    if os.path.dirname(path) == str(directory):
                        last = max(last, status.st_mtime)
        last = max(last, directory.stat().st_mtime)
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
            upper = changes.open_root(layers / "upper")
            stack.callback(os.close, upper)
            below = changes.open_root(lower)
            stack.callback(os.close, below)
            return next(changes.walk(upper, below), None) is not None
    except OSError:
        return True


def _opened(function: Any, path: str, _: Any) -> None:
    """Without root, a directory that the agent closed has to be opened first."""
    with contextlib.suppress(OSError):
        os.chmod(os.path.dirname(path), 0o700)
        if os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            function(path)
