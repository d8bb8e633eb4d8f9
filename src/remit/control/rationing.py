"""How fast one cell may fill the audit log. A full log refuses everybody, so none may fill it alone.

Every decision is a record, refusals included, and what an agent writes (a path of 8 KB) stands in it. A cell that asks
faster than its share is refused, and those refusals are told together, once a minute, with their number: nothing of
them went out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from remit.control.ports import Entry, Journal
from remit.core import flow
from remit.core.errors import Unavailable
from remit.core.reason import Reason

PER_SECOND = 2 << 20
"""Bytes, in the long run: about 3,000 ordinary requests a second."""
BURST = 512 << 20
"""Bytes."""
ORDINARY = 650
"""Bytes of a record beside what an agent can make long."""
TOLD_EVERY_S = 60.0
CELLS_MAX = 4096


class Exceeded(Unavailable):
    """This cell has had its share of the log."""


@dataclass(slots=True)
class _Share:
    since: float
    used: float = 0.0
    untold: int = 0
    told: float | None = None


class Rationed:
    """A `Journal` that takes no more than its share from each cell. Memory is bounded: the cell that was longest silent
    is forgotten first, and begins anew."""

    def __init__(
        self,
        journal: Journal,
        monotonic: Callable[[], float],
        *,
        per_second: int = PER_SECOND,
        burst: int = BURST,
    ) -> None:
        self._journal = journal
        self._monotonic = monotonic
        self._per_second = per_second
        self._burst = burst
        self._cells: OrderedDict[int | None, _Share] = OrderedDict()

    def new_id(self) -> str:
        return self._journal.new_id()

    async def append(self, record: str, entry: Entry) -> None:
        """Raises `Exceeded` where the cell that `entry` is about has had its share."""
        fields = entry.fields
        peer = fields.get("flow")
        if peer:
            now = self._monotonic()
            share = self._of(flow.cell_at(str(peer)), now)
            share.used = max(share.used - (now - share.since) * self._per_second, 0.0)
            share.since = now
            if share.used >= self._burst:
                share.untold += 1
                await self._tell(share, record, fields, now)
                raise Exceeded(
                    f"this cell's decisions fill the audit log faster than {self._per_second} bytes a second"
                )
            share.used += ORDINARY + len(fields.get("path") or "") + len(fields.get("detail") or "")
            share.used += len(fields.get("host") or "") + len(fields.get("sni") or "")
            if share.untold:
                await self._tell(share, self.new_id(), fields, now)
        await self._journal.append(record, entry)

    async def _tell(self, share: _Share, record: str, fields: Any, now: float) -> None:
        if share.told is not None and now - share.told < TOLD_EVERY_S:
            return
        count, share.untold, share.told = share.untold, 0, now
        told = {
            **{name: fields.get(name) for name in ("task", "role", "flow")},
            "decision": "deny",
            "reason": Reason.RECORDS_EXCEEDED.value,
            "detail": f"{count} requests were refused without a record of their own",
            "count": count,
        }
        await self._journal.append(record, Entry(kind="decision", fields=told))

    def _of(self, cell: int | None, now: float) -> _Share:
        found = self._cells.get(cell)
        if found is None:
            found = self._cells[cell] = _Share(since=now)
            if len(self._cells) > CELLS_MAX:
                self._cells.popitem(last=False)
        else:
            self._cells.move_to_end(cell)
        return found
