"""What happens beside decisions: names that were asked for, requests that ended, requests that Envoy itself refused.

None of it grants anything, so none of it may stop a decision: what cannot be recorded is logged and goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from remit.control.budgets import Budgets
from remit.control.knowledge import Knowledge
from remit.control.openings import Openings
from remit.control.ports import Entry, Journal, Secrets
from remit.control.rationing import Exceeded
from remit.core import flow
from remit.core.errors import Unavailable
from remit.core.reason import Reason
from remit.core.task import Task

UNAUTHORIZED = 401
UNHEARD = "given up before the permit came: nothing was dialled"
log = logging.getLogger(__name__)


class Observer:
    """Attributes what it sees to the task of the cell it comes from. `journal`: the one that decisions are written to,
    or a cell would fill the log with what Envoy refuses by itself (`control.rationing`)."""

    def __init__(
        self, *, knowledge: Knowledge, journal: Journal, openings: Openings, budgets: Budgets, secrets: Secrets
    ) -> None:
        self._knowledge = knowledge
        self._openings = openings
        self._secrets = secrets
        self._budgets = budgets
        self._journal = journal

    def knows(self, cell: int, name: str) -> bool:
        """Whether a capability of the role of the task in `cell` names this host."""
        task = self._task(cell)
        role = self._knowledge.snapshot.rules.roles.get(task.role) if task else None
        return role is not None and bool(role.index.by_host(name))

    async def name_refused(self, *, cell: int, name: str, kind: str, reason: Reason, count: int) -> None:
        """A cell asked DNS for a name that its task may not reach, `count` times since the last record of it."""
        task = self._task(cell)
        detail = f"role {task.role if task else '?'} has no capability for host {name}"
        if reason is Reason.OVERLOADED:
            detail = "the task has asked for too many different names"
        fields = {
            "decision": "deny",
            "reason": reason.value,
            "detail": detail,
            "host": name,
            "type": kind,
            "count": count,
        }
        await self._append("dns", {**_whose(task), **fields})

    async def ended(self, record: str | None, fields: Mapping[str, Any]) -> None:
        """A request ended, or runs on (`interim`); with no `record`, Envoy refused it before it asked anybody.

        Best effort: Envoy may lose a line when it dies.
        """
        if record is not None:
            if fields.get("interim"):
                await self._budgets.counted(record, fields)
                return
            credential = self._openings.ended(record)
            if credential is not None and fields.get("status") == UNAUTHORIZED:
                self._secrets.rejected(credential)
            await self._append("completion", {"record": record, **fields, **self._budgets.ended(record, fields)})
            return
        cell = flow.cell_at(str(fields.get("flow", "")))
        stated = {"decision": "deny", "reason": Reason.REFUSED_BY_BOUNDARY.value}
        await self._append("boundary", {**_whose(self._task(cell)), **stated, **fields})

    async def unheard(self, record: str) -> None:
        """Nobody was there any more to hear a permit (its client had gone, or a stalled disk took too long)."""
        await self.ended(record, {"bytes_out": 0, "bytes_in": 0, "ending": UNHEARD})

    def _task(self, cell: int | None) -> Task | None:
        return self._knowledge.snapshot.task_in(cell)

    async def _append(self, kind: str, fields: Mapping[str, Any]) -> None:
        try:
            await self._journal.append(self._journal.new_id(), Entry(kind=kind, fields=fields))
        except Exceeded:
            return  # counted, and told once a minute
        except Unavailable as error:
            log.error("not recorded (%s): %s", kind, error.detail)


def _whose(task: Task | None) -> dict[str, Any]:
    return {"task": task.id if task else None, "role": task.role if task else None}
