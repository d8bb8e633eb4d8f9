"""What is left of a task: its output and the changes it made, read from its directory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from remit.cell import aftermath, changes, merge, output, workspace
from remit.core.errors import Conflict, NotFound, Unavailable

log = logging.getLogger(__name__)

CHECKED = "checked"
"""In a task's directory: its bound workspace was looked through after its end."""


def _note(cells: Path, task: str) -> dict[str, Any]:
    try:
        found = json.loads((cells / task / "task.json").read_text())
    except (OSError, ValueError) as error:
        raise NotFound(f"nothing is kept of task {task}", hint="remit ps --all") from error
    return found if isinstance(found, dict) else {}


def logs(cells: Path, task: str) -> Iterator[bytes]:
    _note(cells, task)
    return output.stored(cells / task)


def copied(cells: Path, task: str) -> tuple[dict[str, Any], Path]:
    note = _note(cells, task)
    if note.get("mode") == "bind":
        raise Conflict(f"task {task} wrote into its workspace directly (--bind)", hint="git diff shows what changed")
    if note.get("workspace") is None:
        raise Conflict(f"task {task} has no workspace", hint="remit run --workspace DIR")
    return note, Path(note["workspace"])


async def diff(cells: Path, stage: Path, task: str, live: Path | None) -> dict[str, Any]:
    """`live`: where the layers of a task that still runs are mounted."""
    _, lower = copied(cells, task)

    def work() -> dict[str, Any]:
        with workspace.reopened(cells / task, stage) if live is None else contextlib.nullcontext(live) as layers:
            found, patch = changes.read(layers / "upper", lower)
        return {"changes": found, "patch": patch}

    return await asyncio.to_thread(_told, work)


async def merge_changes(cells: Path, stage: Path, task: str, paths: list[str] | None, *, force: bool) -> dict[str, Any]:
    note, lower = copied(cells, task)
    owner = (int(note["owner"][0]), int(note["owner"][1]))

    def work() -> dict[str, Any]:
        with workspace.reopened(cells / task, stage) as layers:
            return merge.apply(
                layers / "upper", lower, started_ns=int(note["started_ns"]), owner=owner, paths=paths, force=force
            )

    return await asyncio.to_thread(_told, work)


def _told(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except OSError as error:
        raise Unavailable(f"what the task wrote cannot be read: {error}", hint="remit ps --all") from error


def look_after(directory: Path) -> str:
    """Neutralise what a task that is over left in the workspace it was bound to, once; what the operator must know."""
    marker = directory / CHECKED
    try:
        note = json.loads((directory / "task.json").read_text())
        if note.get("mode") != "bind" or marker.exists():
            return ""
        root = changes.open_workspace(Path(note["workspace"]))
        try:
            guards = {PurePosixPath(path): bool(writable) for path, writable in note["guards"]}
            found = aftermath.neutralise(root, guards, int(note["started_ns"]))
        finally:
            os.close(root)
    except (OSError, ValueError, KeyError) as error:
        log.error("the workspace of %s was not looked through: %s", directory.name, error)
        return f"the bound workspace could not be looked through ({error}): look for hooks and new repositories in it"
    with contextlib.suppress(OSError):
        marker.touch(mode=0o600)
    told = found.told()
    if told:
        log.warning("task %s left in its workspace: %s", directory.name, told)
    return told


def look_after_all(cells: Path) -> None:
    """The tasks that an earlier daemon could not see to their end."""
    for note in cells.glob("*/task.json"):
        look_after(note.parent)
