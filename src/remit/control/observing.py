"""What happens beside decisions: names that were asked for, requests that ended, requests that Envoy itself refused.

None of it grants anything, so none of it may slow down or stop a decision: it is recorded in the background, bounded,
and what an agent can repeat without end is counted rather than repeated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from remit.control.knowledge import Knowledge
from remit.control.ports import Entry, Journal
from remit.core import flow
from remit.core.errors import Unavailable
from remit.core.reason import Reason

log = logging.getLogger(__name__)

DNS_INTERVAL_S = 60.0
DNS_NAMES_MAX = 4096
"""Distinct (cell, name) pairs remembered in one interval; what is over is counted under the name `*`."""


class Names:
    """Records, once an interval each, the names that a task asked for and no capability of its role knows."""

    def __init__(self, *, knowledge: Knowledge, journal: Journal) -> None:
        self._knowledge = knowledge
        self._journal = journal
        self._counts: dict[tuple[int, str], int] = {}
        self._fresh: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

    def asked(self, cell: int, name: str) -> None:
        """A cell asked for a canonical name."""
        if self._known(cell, name):
            return
        key = (cell, name)
        if key not in self._counts and len(self._counts) >= DNS_NAMES_MAX:
            key = (cell, "*")
        if key not in self._counts:
            self._fresh.put_nowait(key)
        self._counts[key] = self._counts.get(key, 0) + 1

    async def run(self) -> None:
        """Write a record the first time, and one with the count at the end of an interval if there were more."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._firsts())
            group.create_task(self._counted())

    async def _firsts(self) -> None:
        while True:
            cell, name = await self._fresh.get()
            await self._record(cell, name, 1)

    async def _counted(self) -> None:
        while True:
            await asyncio.sleep(DNS_INTERVAL_S)
            counts, self._counts = self._counts, {}
            for (cell, name), count in counts.items():
                if count > 1:
                    await self._record(cell, name, count - 1)

    async def _record(self, cell: int, name: str, count: int) -> None:
        task = next((t for t in self._knowledge.snapshot.tasks.values() if t.cell == cell), None)
        fields = {
            "task": task.id if task else None,
            "role": task.role if task else None,
            "decision": "deny",
            "reason": Reason.NO_CAPABILITY.value,
            "detail": f"role {task.role if task else '?'} has no capability for host {name}",
            "host": name,
            "count": count,
        }
        await _append(self._journal, Entry(kind="dns", fields=fields))

    def _known(self, cell: int, name: str) -> bool:
        snapshot = self._knowledge.snapshot
        for task in snapshot.tasks.values():
            if task.cell == cell and (role := snapshot.rules.roles.get(task.role)) is not None:
                return bool(role.index.by_host(name))
        return False


class Endings:
    """Records how requests ended, and the requests that Envoy refused before anything was asked."""

    def __init__(self, *, knowledge: Knowledge, journal: Journal) -> None:
        self._knowledge = knowledge
        self._journal = journal

    async def ended(self, record: str | None, fields: Mapping[str, Any]) -> None:
        """`record`: the decision's id; None where Envoy refused by itself (`fields` then has `flow` and `detail`)."""
        if record is not None:
            await _append(self._journal, Entry(kind="completion", fields={"record": record, **fields}))
            return
        await _append(
            self._journal,
            Entry(
                kind="boundary",
                fields={
                    "decision": "deny",
                    "reason": Reason.REFUSED_BY_BOUNDARY.value,
                    **self._whose(fields),
                    **fields,
                },
            ),
        )

    def _whose(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        cell = flow.cell_of(str(fields.get("flow", "")).rpartition(":")[0].strip("[]"))
        task = next((t for t in self._knowledge.snapshot.tasks.values() if t.cell == cell), None)
        return {"task": task.id if task else None, "role": task.role if task else None}


async def _append(journal: Journal, entry: Entry) -> None:
    try:
        await journal.append(journal.new_id(), entry)
    except Unavailable as error:
        log.error("not recorded (%s): %s", entry.kind, error.detail)
