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
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from remit.control.ports import Clock, Entry, Journal
from remit.core import budget as budgets
from remit.core import delegation, flow
from remit.core.budget import Budget, Line, Quantity
from remit.core.capability import Capability
from remit.core.decision import Candidate
from remit.core.errors import Unavailable
from remit.core.ledger import Charge, Ledger, Shortage
from remit.core.reason import Reason, Refusal
from remit.core.request import Request
from remit.core.snapshot import Role, Snapshot
from remit.core.task import ALIVE, Task

log = logging.getLogger(__name__)

KIND, RESERVATION, CHECKPOINT = "budget", "reservation", "checkpoint"
"""Kinds of record: warnings; reservations that grew; the ledger as it was when a segment began."""
RAISE = "budget.raise"
MARKS = (b'"charged_at":', b'"kind":"checkpoint"')
"""One of these stands in every line that `Budgets.fold` needs."""
PART_BYTES = 16 << 10
CHECKPOINT_BYTES = 256 << 10
"""A larger ledger is not written into a segment: the log is then added up from an earlier one."""
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
        self._timed: dict[str, tuple[Line, ...]] = {}
        self._applying: dict[tuple[str, ...], tuple[Role, Capability, Task, tuple[Line, ...]]] = {}

    def update(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._applying.clear()
        self._timed.clear()
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
        return _exhausted(short, self._ledger.now(self._now())) if short is not None else None

    def reserve(self, record: str, candidate: Candidate) -> Charge | Refusal | None:
        """Take what the request needs, under the record that will say so; None: no budget applies."""
        lines = self._lines(candidate)
        if not lines:
            return None
        if self._ledger.full and any(line.budget.quantity in budgets.BYTES for line in lines):
            return Refusal(Reason.OVERLOADED, "too many requests with budgets of bytes are open")
        late = self._late(candidate.task, lines)
        charge = late or self._ledger.reserve(record, lines, _length(candidate.request), self._now())
        return _exhausted(charge, self._ledger.now(self._now())) if isinstance(charge, Shortage) else charge

    async def recorded(self, charge: Charge, candidate: Candidate) -> None:
        """The record of `charge` is durable."""
        self._ledger.confirm(charge.record)
        for crossed in charge.crossed:
            detail = (
                f"{crossed.line.account}: {budgets.amount(crossed.line.budget.quantity, crossed.used)} of "
                f"{crossed.limit} used"
            )
            fields = {"event": "warning", "budget": crossed.line.account, "used": crossed.used, "limit": crossed.limit}
            whose = {"task": candidate.task.id, "role": candidate.role.name, "record": charge.record}
            await self._write(KIND, {**whose, **fields, "detail": detail})

    def give_back(self, charge: Charge) -> Mapping[str, Any]:
        """Undo a charge whose request is not let through. What to write into the next record about it."""
        self._ledger.give_back(charge.record, charge.amounts, charge.at_ms)
        self._ledger.confirm(charge.record)
        return {"returned": {"record": charge.record, "charges": dict(charge.amounts), "charged_at": charge.at_ms}}

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
        task = self._task_of(peer)
        lines = {line.account: line for line in self._any_of(task)} if task is not None else {}
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
        await self._write(RESERVATION, {**told, "cut": ends, "charged_at": self._ledger.now(now)})

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
            if task.id not in self._timed:
                lines = (line for line in self._any_of(task) if line.budget.quantity is Quantity.TIME)
                self._timed[task.id] = tuple(lines)
            for line in self._timed[task.id]:
                if self._late(task, (line,)) is not None:
                    done = over[task.id, line.account] = self._over.get((task.id, line.account), 0) + 1
                    if done <= CUTS_OF_TASK:
                        self._cut(task.id, None)
        self._over = over

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

    def show(self) -> Sequence[Mapping[str, Any]]:
        """Every budget in force, by account, with its use."""
        now = self._ledger.now(self._now())
        rules, found = self._snapshot.rules, dict[str, Mapping[str, Any]]()
        nobody = Task(id="*", role="", state=next(iter(ALIVE)), cell=1, created=datetime.fromtimestamp(now / 1000, UTC))
        for owner, listed in (
            *((f"role/{role.name}", role.budgets) for role in rules.roles.values()),
            *((f"capability/{one.name}", one.budgets) for one in rules.capabilities.values()),
        ):
            for line in budgets.applying([(owner, [one for one in listed if not one.each_task])], ""):
                found[line.account] = self._view(line, nobody, now)
        for task in self._snapshot.tasks.values():
            if task.state in ALIVE:
                for line in self._of_task(task):
                    found[line.account] = self._view(line, task, now)
        return [found[account] for account in sorted(found)]

    async def watch(self) -> None:
        """Sweep every second, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    # -- the log -----------------------------------------------------------------------------------------------------

    def fold(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add up what the log says, oldest first, beginning with a checkpoint or with the first record."""
        for found in records:
            try:
                self._fold(found)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                # The log vouches for its content; what an older version wrote otherwise must not stop the node.
                log.error("record %s says nothing readable about budgets: %s", found.get("id"), error)

    def checkpoint(self) -> list[Mapping[str, Any]]:
        """The ledger as fields of records, or nothing where it is too large."""
        dumped = self._ledger.dump()
        parts: list[dict[str, Any]] = []
        size = total = PART_BYTES
        for name in ("accounts", "open", "written", "returned"):
            items = dumped[name]
            for key in items:
                length = len(json.dumps([key, items[key] if isinstance(items, Mapping) else None])) + 8
                size, total = size + length, total + length
                if size > PART_BYTES or not parts:
                    parts.append({"now": dumped["now"], "accounts": {}, "open": {}, "written": [], "returned": []})
                    size = length
                if isinstance(items, Mapping):
                    parts[-1][name][key] = items[key]
                else:
                    parts[-1][name].append(key)
        if total > CHECKPOINT_BYTES:
            return []
        parts = parts or [{"now": dumped["now"]}]
        return [{"part": n, "parts": len(parts), **part} for n, part in enumerate(parts, start=1)]

    def _fold(self, found: Mapping[str, Any]) -> None:
        record, kind = found["id"], found["kind"]
        if kind == CHECKPOINT:
            self._ledger.load(found)
            return
        if "returned" in found and "charges" not in found:
            _return(self._ledger, found["returned"])
        if "charges" in found:
            if "returned" in found:
                _return(self._ledger, found["returned"])
            self._ledger.charge(record, found["charges"], found["charged_at"])
            self._ledger.confirm(record)
        elif kind == "completion" and "charged_at" in found:
            out, into = found.get("bytes_out"), found.get("bytes_in")
            self._ledger.count(found["record"], out, into, ended=True, clock_ms=found["charged_at"])
        elif kind == RESERVATION:
            self._ledger.extend(found["record"], found["reserved"], found["charged_at"])
        elif kind == "operator" and found.get("action") == RAISE:
            self._ledger.raise_(record, found["budget"], found["by"], found["charged_at"])
            self._ledger.confirm(record)

    async def _write(self, kind: str, fields: Mapping[str, Any]) -> None:
        try:
            await self._journal.append(self._journal.new_id(), Entry(kind=kind, fields=fields))
        except Unavailable as error:
            log.error("not recorded (budget): %s", error.detail)

    def _of_task(self, task: Task) -> tuple[Line, ...]:
        """Budgets that are this task's own, whatever it asks for."""
        return tuple(line for line in self._any_of(task) if budgets.owner_task(line.account) is not None)

    def _lines(self, candidate: Candidate) -> tuple[Line, ...]:
        """The budgets that apply, in the order in which they are named: the task's, the role's, the capability's."""
        role, capability, task = candidate.role, candidate.capability, candidate.task
        if not (role.budgets or capability.budgets or task.budgets or task.parent):
            return ()
        key = (task.id, capability.name, *(one.capability.name for one in candidate.above if one.capability))
        known = self._applying.get(key)
        if known is not None and known[0] is role and known[1] is capability and known[2] is task:
            return known[3]
        owned = ((f"role/{role.name}", role.budgets), (f"capability/{capability.name}", capability.budgets))
        lines = _distinct(
            budgets.applying((*self._tree(task), *owned), task.id),
            *(_of_above(one.task, one.role, (one.capability,) if one.capability else ()) for one in candidate.above),
        )
        self._applying[key] = (role, capability, task, lines)
        return lines

    def _task_of(self, peer: str) -> Task | None:
        cell = flow.cell_of(peer.rpartition(":")[0].strip("[]"))
        tasks = [task for task in self._snapshot.tasks.values() if task.cell == cell]
        return max(tasks, key=lambda task: task.created, default=None)

    def _any_of(self, task: Task) -> tuple[Line, ...]:
        """Every budget that can apply to a request of `task`."""
        role = self._snapshot.rules.roles.get(task.role) or Role(name=task.role)
        owned = [*self._tree(task), (f"role/{role.name}", role.budgets)]
        own = budgets.applying([*owned, *((f"capability/{c.name}", c.budgets) for c in role.capabilities)], task.id)
        return _distinct(own, *(_of_above(one, above, above.capabilities) for one, above in self._above(task)))

    def _above(self, task: Task) -> Iterator[tuple[Task, Role]]:
        """The tasks it descends from, its parent first, with their roles."""
        one, roles = self._snapshot.tasks.get(task.parent or ""), self._snapshot.rules.roles
        for _ in range(delegation.MAX_DEPTH):
            if one is None:
                return
            yield one, roles.get(one.role) or Role(name=one.role)
            one = self._snapshot.tasks.get(one.parent or "")

    def _tree(self, task: Task) -> list[tuple[str, Sequence[Budget]]]:
        """What the task has of its own, and what the tasks have that it descends from: a child spends of both."""
        return [(f"task/{one.id}", one.budgets) for one in (task, *(above for above, _ in self._above(task)))]

    def _late(self, task: Task, lines: Sequence[Line]) -> Shortage | None:
        """The first budget of time that is over."""
        for line in lines:
            if line.budget.quantity is Quantity.TIME:
                now = self._ledger.now(self._now())
                limit, used = line.budget.limit + self._ledger.raised(line.account, now), self._age_s(line, task, now)
                if used >= limit:
                    return Shortage(line=line, limit=limit, used=used, returns_ms=None)
        return None

    def _age_s(self, line: Line, task: Task, now_ms: int) -> int:
        """Of the task whose own the budget is."""
        whose = self._snapshot.tasks.get(budgets.owner_task(line.account) or "") or task
        return max(0, now_ms // 1000 - math.floor(whose.created.timestamp()))

    def _view(self, line: Line, task: Task, now: int) -> Mapping[str, Any]:
        standing, quantity = self._ledger.standing(line, now), line.budget.quantity
        used = self._age_s(line, task, now) if quantity is Quantity.TIME else standing.used
        raised = self._ledger.raised(line.account, now)
        return {
            "budget": line.account,
            "scope": line.account.partition("/")[0],
            "task": budgets.owner_task(line.account),
            "quantity": quantity.value,
            "per": budgets.span(line.budget.per_s) if line.budget.per_s else None,
            "window": line.budget.window.value if line.budget.per_s else None,
            "limit": line.budget.limit + raised,
            "raised": raised,
            "used": used,
            "left": max(0, line.budget.limit + raised - used),
            "returns": _time(standing.returns_ms),
        }

    def _now(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def fields(charge: Charge | None) -> Mapping[str, Any]:
    """What the record of a permit says of its charge."""
    return {"charges": dict(charge.amounts), "charged_at": charge.at_ms} if charge is not None else {}


def _of_above(task: Task, role: Role, capabilities: Sequence[Capability]) -> tuple[Line, ...]:
    """What a request of a child uses of the budgets of a task above it."""
    owned = [(f"role/{role.name}", role.budgets), *((f"capability/{one.name}", one.budgets) for one in capabilities)]
    return budgets.applying(owned, task.id)


def _distinct(*groups: Sequence[Line]) -> tuple[Line, ...]:
    """Each account once: a request is charged once to what several tasks share."""
    return tuple({line.account: line for group in groups for line in group}.values())


def _return(ledger: Ledger, returned: Mapping[str, Any]) -> None:
    ledger.give_back(returned["record"], returned["charges"], returned["charged_at"])


def _length(request: Request) -> int | None:
    """Of the body, where the request says it and Envoy holds it to that."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _time(moment_ms: int | None) -> str | None:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat(timespec="seconds") if moment_ms else None


def _exhausted(short: Shortage, now_ms: int) -> Refusal:
    quantity, returns = short.line.budget.quantity, _time(short.returns_ms)
    again = f"; room returns at {returns}" if returns else "; none returns by itself"
    detail = f"budget {short.line.account}: {budgets.amount(quantity, short.left)} left of {short.limit}{again}"
    wait_s = max(1, math.ceil((short.returns_ms - now_ms) / 1000)) if short.returns_ms is not None else None
    told = {"budget": short.line.account, "limit": short.limit, "used": short.used, "left": short.left}
    return Refusal(Reason.BUDGET_EXHAUSTED, detail, facts={**told, "returns": returns}, retry_after_s=wait_s)


def states(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Views (`Budgets.show`) in words, for explanations."""
    for row in rows:
        yield f"{row['budget']}: {budgets.amount(Quantity(row['quantity']), row['used'])} of {row['limit']} used"
