"""What the log says since the last checkpoint, for whoever keeps something that is a fold over it.

A segment begins with its header; behind that stands the checkpoint, in parts, where one was small enough to be written.
Without one anywhere, the fold begins with the first record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from remit.audit import segments
from remit.core.errors import Unavailable

CHECKPOINT = "checkpoint"


def since_checkpoint(directory: Path, marks: tuple[bytes, ...]) -> Iterator[Mapping[str, Any]]:
    """Records in order: a whole checkpoint first, where there is one; then those whose line holds one of `marks`.

    `Unavailable`: the log cannot be read, so nothing can be added up from it.
    """
    try:
        numbers, first = segments.numbers(directory), begins(directory)
        for number in numbers:
            if first is None or number >= first:
                yield from _records(directory, number, marks, checkpoint=number == first)
    except OSError as error:
        raise Unavailable(
            f"the audit log in {directory} cannot be read: {error.strerror}", hint="remit doctor"
        ) from error


def begins(directory: Path) -> int | None:
    """The newest segment that begins with a whole checkpoint: what stands before it is in there. `OSError` passes."""
    return next((number for number in reversed(segments.numbers(directory)) if _begins_whole(directory, number)), None)


def _begins_whole(directory: Path, number: int) -> bool:
    """Whether a segment begins with all parts of a checkpoint."""
    for _, lines in segments.blocks(segments.path(directory, number)):
        second = _parsed(lines[1]) if len(lines) > 1 else None
        if second is None or second.get("kind") != CHECKPOINT:
            return False
        last = _parsed(lines[second["parts"]]) if len(lines) > second["parts"] else None
        return last is not None and last.get("kind") == CHECKPOINT and last.get("part") == second["parts"]
    return False


def _records(
    directory: Path, number: int, marks: tuple[bytes, ...], *, checkpoint: bool
) -> Iterator[Mapping[str, Any]]:
    for _, lines in segments.blocks(segments.path(directory, number)):
        for text in lines:
            if not any(mark in text for mark in marks):
                continue
            found = _parsed(text)
            if found is not None and (checkpoint or found.get("kind") != CHECKPOINT):
                yield found


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
