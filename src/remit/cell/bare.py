"""Repositories without a working tree among what a task changed: git knows them by what lies in them, not by a name.

Whoever enters one and asks `git status` runs what its configuration names (core.fsmonitor), as a prompt does by itself.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import PurePosixPath

from remit.cell import changes, guard

_NONE: frozenset[str] = frozenset()


class Bare:
    """Of the overlay open as `upper` over `lower`, as it would be once merged."""

    def __init__(self, upper: int, lower: int) -> None:
        self._upper, self._lower = upper, lower
        self._known: dict[tuple[str, ...], frozenset[str]] = {}

    def armed_by(self, path: PurePosixPath) -> bool:
        """Whether what is made or changed at `path` makes a repository, or makes one that is there run something."""
        parts = path.parts
        return any(
            part in self._arming(parts[:depth])
            for depth, part in enumerate(parts)
            if depth == 0 or parts[depth - 1] not in guard.REPOSITORIES
        )

    def _arming(self, directory: tuple[str, ...]) -> frozenset[str]:
        """The names in `directory` that count."""
        if directory not in self._known:
            before = _names(directory, self._lower)
            if guard.repository(before):
                self._known[directory] = guard.GIT
            else:
                made = guard.repository(before | _names(directory, self._upper))
                self._known[directory] = guard.GIT | guard.BARE if made else _NONE
        return self._known[directory]


def _names(directory: tuple[str, ...], root: int) -> frozenset[str]:
    """What lies in it; nothing where it is no directory, or behind a link."""
    with contextlib.ExitStack() as stack:
        here = root
        try:
            for part in directory:
                here = stack.enter_context(changes.opened(part, here))
            return frozenset(os.listdir(here))
        except OSError:
            return _NONE
