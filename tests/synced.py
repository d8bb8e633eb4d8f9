"""What was durable when: the files and directories that were synced, in that order."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest


class Synced:
    """`seen`: the size of each file that was synced, and for a directory the names in it at that time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[int | set[str]] = []
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._see)

    def _see(self, number: int) -> None:
        found = os.fstat(number)
        self.seen.append(set(os.listdir(number)) if stat.S_ISDIR(found.st_mode) else found.st_size)
        self._fsync(number)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}
