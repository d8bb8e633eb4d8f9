"""Budgets where decisions are made: room looked for, taken with the record, settled when the request has ended.

Whoever decides calls `reserve` and appends the record in one turn of the event loop, so nothing can come between; a
charge is part of the record itself (`charges`), so there is no second journal that could disagree with the first.
Room is looked for twice: in its place among the steps, for the reason, and again right before the record, for the
truth. So a later step that refuses has nothing to give back.
Bytes are exact to what moves between two counts (`boundary.completions`): a stream that has used up its reserve takes
more, or is cut.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from remit.control.ports import Clock, Entry, Journal
from remit.core import bounds, flow, ledger_log, spent
from remit.core import budget as budgets
from remit.core.budget import Line, Quantity
from remit.core.capability import Capability
from remit.core.decision import Candidate
from remit.core.errors import Unavailable
from remit.core.ledger import Charge, Ledger, Shortage
from remit.core.reason import Reason, Refusal
from remit.core.request import Request
from remit.core.snapshot import Role, Snapshot
from remit.core.task import ALIVE, Task

log = logging.getLogger(__name__)

KIND = ledger_log.BUDGET
SWEEP_S = 1.0
CUTS_OF_TASK = 3
"""How often the flows of a task are cut when its time is over: a request may just have been permitted."""


class Cut(Protocol):
    """Ends connections: the flow of a task that `port` names, or all. Best effort, at once."""

    def __call__(self, task: str, port: int | None) -> None: ...


class Budgets:
    """`cut` ends what may not go on."""

    def __init__(self, *, clock: Clock, journal: Journal, cut: Cut) -> None:
        self._clock, self._journal, self._cut = clock, journal, cut
        self._ledger = Ledger()
        self._snapshot = Snapshot()
        self._over: dict[tuple[str, str], int] = {}
        """By (task, account): how often its time has been found to be over."""
        self._moving: dict[str, tuple[Line, ...]] = {}
        """By task: its budgets of what goes on while nobody asks, time and bytes."""
        self._applying: dict[tuple[str, ...], tuple[Role, Capability, Task, tuple[Line, ...]]] = {}

    def update(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._applying.clear()
        self._moving.clear()
        self._ledger.now(self._now())
        self._ledger.forget(task.id for task in snapshot.tasks.values() if task.state in ALIVE)

    # -- one request -------------------------------------------------------------------------------------------------

    def refusal(self, candidate: Candidate) -> Refusal | None:
        """The step budget: why there is no room for this request, or None. Takes nothing."""
        lines = self._lines(candidate)
        if not lines:
            return None
        late = self._late(candidate.task, lines)
        short = late or self._ledger.shortage(lines, _length(candidate.request), self._now())
        return spent.exhausted(short, self._ledger.now(self._now())) if short is not None else None

    def reserve(self, record: str, candidate: Candidate) -> Charge | Refusal | None:
        """Take what the request needs, under the record that will say so; None: no budget applies."""
        lines = self._lines(candidate)
        if not lines:
            return None
        if self._ledger.full and any(line.budget.quantity in budgets.BYTES for line in lines):
            return Refusal(Reason.OVERLOADED, "too many requests with budgets of bytes are open")
        late = self._late(candidate.task, lines)
        charge = late or self._ledger.reserve(record, lines, _length(candidate.request), self._now())
        return spent.exhausted(charge, self._ledger.now(self._now())) if isinstance(charge, Shortage) else charge

    async def recorded(self, charge: Charge, candidate: Candidate) -> None:
        """The record of `charge` is durable."""
        self._ledger.confirm(charge.record)
        for crossed in charge.crossed:
            if crossed.line.budget.quantity is not Quantity.REQUESTS:
                self._ledger.warned.add(crossed.line.account)
            whose = {"task": candidate.task.id, "role": candidate.role.name, "record": charge.record}
            await self._warn(crossed.line, crossed.used, crossed.limit, whose)

    def give_back(self, charge: Charge) -> Mapping[str, Any]:
        """Undo a charge whose request is not let through. What to write into the next record about it."""
        self._ledger.give_back(charge.record, charge.amounts, charge.at_ms)
        self._ledger.confirm(charge.record)
        return {"returned": {"record": charge.record, "charges": dict(charge.amounts), "charged_at": charge.at_ms}}

    async def returned(self, said: Mapping[str, Any]) -> None:
        """Write down what `give_back` said, by itself: the request waits, and its next record is another decision's."""
        detail = f"what record {said['returned']['record']} charged is given back: its request was not let through"
        await self._write(KIND, {"event": "returned", **said, "detail": detail})

    def usage(self, candidate: Candidate) -> tuple[Mapping[str, Any], ...]:
        """What policies are told: every budget that applies, how much of it is used and left."""
        now = self._ledger.now(self._now())
        return tuple(self._view(line, candidate.task, now) for line in self._lines(candidate))

    # -- while it runs, and after ------------------------------------------------------------------------------------

    async def counted(self, record: str, fields: Mapping[str, Any]) -> None:
        """A request runs on and has moved so many bytes until now. One that may not move more is cut."""
        out, into, now = fields.get("bytes_out") or 0, fields.get("bytes_in") or 0, self._now()
        outgrown = self._ledger.outgrown(record, out, into)
        if not outgrown:
            return
        self._ledger.count(record, out, into, ended=False, clock_ms=now)
        peer = str(fields.get("flow", ""))
        task = self._snapshot.task_in(flow.cell_at(peer))
        lines = {line.account: line for line in bounds.of_task(self._snapshot, task)} if task is not None else {}
        totals, ends = dict(self._ledger.reserved(record)), task is None
        for account in outgrown:
            line = lines.get(account)  # a budget that was taken away meanwhile limits nothing
            more = self._ledger.extension(line, now) if line is not None else budgets.RESERVE_BYTES
            totals[account] += more
            ends = ends or not more
        self._ledger.extend(record, totals, now)
        if ends and task is not None:
            self._cut(task.id, flow.port_of(peer))
        told = {"record": record, "task": task.id if task else None, "reserved": totals}
        await self._write(ledger_log.RESERVATION, {**told, "cut": ends, "charged_at": self._ledger.now(now)})

    def ended(self, record: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """A request is over: settled. What to add to the record of its end."""
        now = self._now()
        known = self._ledger.count(record, fields.get("bytes_out"), fields.get("bytes_in"), ended=True, clock_ms=now)
        return {"charged_at": self._ledger.now(now)} if known else {}

    def sweep(self) -> None:
        """Cut the connections of tasks whose time is over. To be called every second."""
        over: dict[tuple[str, str], int] = {}
        for task in self._snapshot.tasks.values():
            if task.state not in ALIVE:
                continue
            for line in self._watched(task):
                if self._late(task, (line,)) is not None:
                    done = over[task.id, line.account] = self._over.get((task.id, line.account), 0) + 1
                    if done <= CUTS_OF_TASK:
                        self._cut(task.id, None)
        self._over = over

    async def warn(self) -> None:
        """Tell once of every budget of time or bytes of which four fifths are used. To be called every second."""
        now, seen, warned = self._ledger.now(self._now()), set[str](), self._ledger.warned
        for task in self._snapshot.tasks.values():
            for line in self._watched(task) if task.state in ALIVE else ():
                if line.account in seen:
                    continue
                seen.add(line.account)
                view = self._view(line, task, now)
                if view["used"] * 5 < view["limit"] * 4:
                    warned.discard(line.account)
                elif line.account not in warned:
                    warned.add(line.account)
                    own = budgets.owner_task(line.account) is not None
                    whose = {"task": task.id if own else None, "role": task.role if own else None}
                    await self._warn(line, int(view["used"]), int(view["limit"]), whose)

    def _watched(self, task: Task) -> tuple[Line, ...]:
        if task.id not in self._moving:
            lines = bounds.of_task(self._snapshot, task)
            self._moving[task.id] = tuple(line for line in lines if line.budget.quantity is not Quantity.REQUESTS)
        return self._moving[task.id]

    async def _warn(self, line: Line, used: int, limit: int, whose: Mapping[str, Any]) -> None:
        detail = f"{line.account}: {budgets.amount(line.budget.quantity, used)} of {limit} used"
        fields = {"event": "warning", "budget": line.account, "used": used, "limit": limit}
        await self._write(KIND, {**whose, **fields, "detail": detail})

    # -- operators ---------------------------------------------------------------------------------------------------

    def raised(self, record: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """An operator's raise, taken in under the record that will say so. What to add to it. `ValueError`: it is no
        raise.
        """
        account, by = fields.get("budget"), fields.get("by")
        if not isinstance(account, str) or type(by) is not int or not 0 < by < budgets.MAX_AMOUNT:
            raise ValueError("a raise without a budget or an amount")
        budgets.kind(account)
        at_ms = self._ledger.now(self._now())
        self._ledger.raise_(record, account, by, at_ms)
        return {"charged_at": at_ms}

    def raise_failed(self, record: str, fields: Mapping[str, Any]) -> None:
        """The raise could not be recorded, so it did not happen."""
        self._ledger.confirm(record)
        self._ledger.lower(fields["budget"], fields["by"], fields["charged_at"])

    def confirm(self, record: str) -> None:
        self._ledger.confirm(record)

    def show(self, names: Sequence[str] = ()) -> Sequence[Mapping[str, Any]]:
        """Budgets in force, by account, with their use: those that `names` mean (`core.spent.meant`), or every one."""
        now = self._ledger.now(self._now())
        found = {line.account: self._view(line, None, now) for line in bounds.of_no_task(self._snapshot)}
        for task in self._snapshot.tasks.values():
            if task.state in ALIVE:
                for line in bounds.of_task(self._snapshot, task):
                    if budgets.owner_task(line.account) is not None:
                        found[line.account] = self._view(line, task, now)
        shown = (found[account] for account in sorted(found))
        return [one for one in shown if not names or spent.meant(one, names)]

    async def watch(self) -> None:
        """Sweep every second, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()
            await self.warn()

    # -- the log -----------------------------------------------------------------------------------------------------

    def fold(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add up what the log says, oldest first, beginning with a checkpoint or with the first record."""
        for found in records:
            try:
                ledger_log.add(self._ledger, found)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                # The log vouches for its content; what an older version wrote otherwise must not stop the node.
                log.error("record %s says nothing readable about budgets: %s", found.get("id"), error)

    def checkpoint(self) -> list[Mapping[str, Any]]:
        """See `core.ledger_log.checkpoint`."""
        return ledger_log.checkpoint(self._ledger)

    async def _write(self, kind: str, fields: Mapping[str, Any]) -> None:
        try:
            await self._journal.append(self._journal.new_id(), Entry(kind=kind, fields=fields))
        except Unavailable as error:
            log.error("not recorded (budget): %s", error.detail)

    def _lines(self, candidate: Candidate) -> tuple[Line, ...]:
        """`core.bounds.of_request`, remembered while the snapshot stays."""
        role, capability, task = candidate.role, candidate.capability, candidate.task
        if not (role.budgets or capability.budgets or task.budgets or task.parent):
            return ()
        key = (task.id, capability.name, *(one.capability.name for one in candidate.above if one.capability))
        known = self._applying.get(key)
        if known is not None and known[0] is role and known[1] is capability and known[2] is task:
            return known[3]
        lines = bounds.of_request(candidate)
        self._applying[key] = (role, capability, task, lines)
        return lines

    def _late(self, task: Task, lines: Sequence[Line]) -> Shortage | None:
        """The first budget of time that is over."""
        for line in lines:
            if line.budget.quantity is Quantity.TIME:
                now = self._ledger.now(self._now())
                limit = line.budget.limit + self._ledger.raised(line.account, now)
                used = bounds.age_s(self._snapshot, line, task, now)
                if used >= limit:
                    return Shortage(line=line, limit=limit, used=used, returns_ms=None)
        return None

    def _view(self, line: Line, task: Task | None, now: int) -> Mapping[str, Any]:
        standing, timed = self._ledger.standing(line, now), line.budget.quantity is Quantity.TIME
        used = bounds.age_s(self._snapshot, line, task, now) if timed else standing.used
        return spent.view(standing, used=used)

    def _now(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def fields(charge: Charge | None) -> Mapping[str, Any]:
    """What the record of a permit says of its charge."""
    return {"charges": dict(charge.amounts), "charged_at": charge.at_ms} if charge is not None else {}


def _length(request: Request) -> int | None:
    """Of the body, where the request says it and Envoy holds it to that."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
