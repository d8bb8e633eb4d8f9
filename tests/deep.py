"""Directory trees deeper than a path can name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from remit.cell import changes


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    number = changes.open_root(path)
    try:
        yield number
    finally:
        os.close(number)


def dig(directory: Path, depth: int, name: str = "d") -> None:
    here = changes.open_root(directory)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, changes.OPEN_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=here))
    os.close(here)
