"""A directory tree of any depth, one descriptor at a time: who made it may have meant to exhaust whoever walks it.

A path of 100,000 names is longer than the kernel takes, a descriptor a level is more than a process has, and recursion
ends the interpreter's stack. So this goes down by names and up by `..`, and makes sure that up is where it came from.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from remit.cell import changes


def inside_out(name: str, parent: int) -> Iterator[tuple[int, str, os.stat_result]]:
    """(directory open as, name in it, status) of everything below `name`, contents first, then `name` itself.

    Nothing where there is nothing. Follows no link. The descriptor is good until the next step. `OSError`, among them
    `ESTALE`: a directory was moved meanwhile.
    """
    found = changes.status(name, parent)
    if found is None or not stat.S_ISDIR(found.st_mode):
        if found is not None:
            yield parent, name, found
        return
    place = _Place(parent)
    try:
        place.down(name)
        while place.way:
            one = place.next()
            if one is None:
                yield place.up()
                continue
            found = changes.status(one, place.here)
            if found is not None and stat.S_ISDIR(found.st_mode):
                place.down(one)
            elif found is not None:
                yield place.here, one, found
    finally:
        os.close(place.here)


class _Place:
    """A directory, open as `here`. `way`: for each step down to it, the name, the directory it was taken in, and the
    names that nobody has looked at yet."""

    def __init__(self, parent: int) -> None:
        self.here = os.dup(parent)
        self.way: list[tuple[str, os.stat_result, list[str]]] = []

    def next(self) -> str | None:
        names = self.way[-1][2]
        return names.pop() if names else None

    def down(self, name: str) -> None:
        outer = os.fstat(self.here)
        self._go(name)
        self.way.append((name, outer, os.listdir(self.here)))

    def up(self) -> tuple[int, str, os.stat_result]:
        """Where it leads, and what was left."""
        name, outer, _ = self.way.pop()
        left = os.fstat(self.here)
        self._go("..")
        if not os.path.samestat(outer, os.fstat(self.here)):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return self.here, name, left

    def _go(self, name: str) -> None:
        there = os.open(name, changes.OPEN_DIRECTORY, dir_fd=self.here)
        os.close(self.here)
        self.here = there


def remove(name: str, parent: int) -> None:
    """Remove it and everything below it. `OSError`: what was not removed is still there."""
    for here, one, found in inside_out(name, parent):
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(one, dir_fd=here)
        else:
            os.unlink(one, dir_fd=here)


def newest_ns(name: str, parent: int) -> int:
    """The latest time at which something in it was changed (ctime cannot be set back), 0 where there is nothing."""
    times = (max(found.st_ctime_ns, found.st_mtime_ns) for _, _, found in inside_out(name, parent))
    return max(times, default=0)
