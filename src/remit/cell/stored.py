"""What is left of a task: its output and the changes it made, read from its directory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from remit.cell import changes, merge, output
from remit.core.errors import Conflict, NotFound


def _note(cells: Path, task: str) -> dict[str, Any]:
    try:
        found = json.loads((cells / task / "task.json").read_text())
    except (OSError, ValueError) as error:
        raise NotFound(f"nothing is kept of task {task}", hint="remit ps --all") from error
    return found if isinstance(found, dict) else {}


def logs(cells: Path, task: str) -> Iterator[bytes]:
    _note(cells, task)
    return output.stored(cells / task)


def _copied(cells: Path, task: str) -> tuple[dict[str, Any], Path, Path]:
    note = _note(cells, task)
    if note.get("mode") == "bind":
        raise Conflict(f"task {task} wrote into its workspace directly (--bind)", hint="git diff shows what changed")
    if note.get("workspace") is None:
        raise Conflict(f"task {task} has no workspace", hint="remit run --workspace DIR")
    return note, cells / task / "upper", Path(note["workspace"])


async def diff(cells: Path, task: str) -> dict[str, Any]:
    _, upper, lower = _copied(cells, task)
    found, patch = await asyncio.to_thread(changes.read, upper, lower)
    return {"changes": found, "patch": patch}


async def merge_changes(cells: Path, task: str, paths: list[str] | None, *, force: bool) -> dict[str, Any]:
    note, upper, lower = _copied(cells, task)
    owner = (int(note["owner"][0]), int(note["owner"][1]))
    return await asyncio.to_thread(
        merge.apply, upper, lower, started_ns=int(note["started_ns"]), owner=owner, paths=paths, force=force
    )
