"""Who pays for a new name's certificate: the cell that asked DNS for it.

A handshake reaches SDS without an identity, so an agent that connects to random names would spend what all cells have.
But a client asks for a name before it connects to it, and DNS knows which cell asks. So each cell has an allowance of
its own for names that it asked for, and names that nobody asked for share a small one, which is all that an agent can
take from others. Sans-io. Not guaranteed: that a cell gets a leaf for a name that it never asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

PER_CELL = 600
"""New names a minute for one cell, also its burst. At 0.2 ms a leaf that is 2 ms a second of one core."""
UNASKED = 120
"""A minute, for all cells together: clients that remember addresses across a restart of the decision service."""
CELLS_MAX = 4096

Askers = Callable[[str], Iterable[int]]
"""The cells that have asked for a canonical name."""


class Allowance:
    """A token bucket. A clock that steps back grants nothing."""

    __slots__ = ("_left", "_per_minute", "_since")

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left = float(per_minute)
        self._since: datetime | None = None

    def take(self, now: datetime) -> bool:
        if self._since is not None:
            elapsed = max((now - self._since) / timedelta(minutes=1), 0.0)
            self._left = min(self._left + elapsed * self._per_minute, float(self._per_minute))
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Ration:
    """Memory is bounded: the cell that longest took nothing is forgotten first, and begins with a whole allowance."""

    def __init__(self, askers: Askers, *, per_cell: int = PER_CELL, unasked: int = UNASKED) -> None:
        self._askers = askers
        self._per_cell = per_cell
        self._unasked = Allowance(unasked)
        self._cells: OrderedDict[int, Allowance] = OrderedDict()

    def take(self, name: str, now: datetime) -> bool:
        """Whether one more leaf may be made, for `name`. Of several cells that asked, any may pay."""
        asked = False
        for cell in self._askers(name):
            asked = True
            if self._of(cell).take(now):
                return True
        return not asked and self._unasked.take(now)

    def _of(self, cell: int) -> Allowance:
        found = self._cells.setdefault(cell, Allowance(self._per_cell))
        self._cells.move_to_end(cell)
        while len(self._cells) > CELLS_MAX:
            self._cells.popitem(last=False)
        return found


def nobody(name: str) -> Iterable[int]:
    """Askers where no DNS is looked at: every name counts as unasked."""
    return ()
