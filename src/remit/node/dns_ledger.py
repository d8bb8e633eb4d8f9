"""Which refused names are written down, and how often: the first time at once, then once a minute with a count.

A program that retries asks for the same name a hundred times a second; an agent can ask for any number of names. The
record must show both without growing with them. Sans-io: times are seconds of any clock that does not step back.
"""

from __future__ import annotations

from dataclasses import dataclass

from remit.core.reason import Reason

EVERY_S = 60.0
KEYS_MAX = 8192
PER_CELL_MAX = 2048
SHARE = 64
"""Names that every cell may have apart, also when a few cells have taken all of `KEYS_MAX`."""
OTHER = "(other names)"
"""Stands for the names that were too many to keep apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A name that a cell asked for and may not reach. `count` queries since the last time it was written down."""

    cell: int
    name: str
    kind: str
    reason: Reason
    count: int = 1


@dataclass(slots=True)
class _Line:
    kind: str
    count: int
    due: float


class Ledger:
    """Counts refused names until they are due."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, str, Reason], _Line] = {}
        self._of_cell: dict[int, int] = {}

    def note(self, cell: int, name: str, kind: str, reason: Reason, now: float) -> None:
        """One more query. `kind` is the type of the first one that is not written down yet."""
        key = (cell, name, reason)
        if key not in self._lines and self._full(cell):
            key = (cell, OTHER, reason)
        line = self._lines.get(key)
        if line is None:
            self._lines[key] = _Line(kind, 1, now)
            self._of_cell[cell] = self._of_cell.get(cell, 0) + 1
            return
        if line.count == 0:
            line.kind = kind
        line.count += 1

    def due(self, now: float) -> list[Refused]:
        """What is to be written down now; what was quiet for a whole period is forgotten."""
        found = []
        for (cell, name, reason), line in list(self._lines.items()):
            if now < line.due:
                continue
            if line.count == 0:
                self._forget((cell, name, reason))
                continue
            found.append(Refused(cell=cell, name=name, kind=line.kind, reason=reason, count=line.count))
            line.count, line.due = 0, now + EVERY_S
        return found

    def _full(self, cell: int) -> bool:
        mine = self._of_cell.get(cell, 0)
        return mine >= PER_CELL_MAX or (len(self._lines) >= KEYS_MAX and mine >= SHARE)

    def _forget(self, key: tuple[int, str, Reason]) -> None:
        del self._lines[key]
        left = self._of_cell[key[0]] - 1
        if left:
            self._of_cell[key[0]] = left
        else:
            del self._of_cell[key[0]]
