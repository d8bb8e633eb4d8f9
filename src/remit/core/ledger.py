"""What was used of each budget: taken when a request is permitted, settled when it has ended.

One value, changed by a few operations, each of which stands in a record of the audit log with everything that it
needs. So the ledger is a fold over the log: the same operations in the same order give the same ledger, and a ledger
that died with its process is added up again. A reservation whose end nobody told stays taken in full.

Time never runs back here: the latest moment that was ever seen counts, so a clock that is set back returns nothing.
Not thread-safe, and no I/O: whoever calls it writes the record in the same turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remit.core import budget as budgets
from remit.core.budget import BYTES, Line, Quantity

MAX_OPEN = 65536
"""Requests with bytes reserved that may be open at once."""
FORGOTTEN_MS = 24 * 3600 * 1000
"""After how long without use the accounts of a task that has ended are given up, and a request that nobody told the end
of stays charged in full. Above the longest life of a connection."""
MAX_RETURNED = 1024


@dataclass(slots=True)
class _Account:
    """Amounts by step (`budget.Kind`): `used` of requests, `raised` by operators. `touched`: when last changed."""

    used: dict[int, int] = field(default_factory=dict)
    raised: dict[int, int] = field(default_factory=dict)
    touched: int = 0


@dataclass(slots=True)
class _Open:
    """Bytes that a request has reserved, by account: [[step, amount], …] in the order in which they were taken."""

    at_ms: int
    taken: dict[str, list[list[int]]]

    def of(self, account: str) -> int:
        return sum(amount for _, amount in self.taken[account])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """A budget without room. `returns_ms`: when there will be some (Unix time), None: not by itself."""

    line: Line
    limit: int
    used: int
    returns_ms: int | None

    @property
    def left(self) -> int:
        return max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one request was charged. `crossed`: budgets of which it took the last fifth's first part."""

    record: str
    at_ms: int
    amounts: Mapping[str, int]
    bytes: bool = False
    """Whether bytes are among it, which are counted while the request runs."""
    crossed: tuple[Shortage, ...] = ()


class Ledger:
    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._open: dict[str, _Open] = {}
        self._written: set[str] = set()
        """Records whose operation is in here already, though they may not be in the log yet."""
        self._returned: dict[str, None] = {}
        """Charges that were given back lately: the record that says so may follow."""
        self._now = 0
        self.warned: set[str] = set()
        """Accounts of time or bytes of which four fifths are used, as was told."""

    @property
    def full(self) -> bool:
        """Whether no further request can reserve bytes."""
        return len(self._open) >= MAX_OPEN

    def now(self, clock_ms: int) -> int:
        """The time that counts."""
        self._now = max(self._now, clock_ms)
        return self._now

    # -- reading -----------------------------------------------------------------------------------------------------

    def used(self, account: str, now_ms: int) -> int:
        found = self._accounts.get(account)
        return _sum(account, found.used, now_ms) if found is not None else 0

    def raised(self, account: str, now_ms: int) -> int:
        found = self._accounts.get(account)
        return _sum(account, found.raised, now_ms) if found is not None else 0

    def standing(self, line: Line, now_ms: int) -> Shortage:
        """How much of a budget is used, and when some of it returns."""
        return self._short(line, now_ms, 1)

    def shortage(self, lines: Sequence[Line], length: int | None, clock_ms: int) -> Shortage | None:
        """The first budget that has no room for a request with a body of `length` bytes (None: unknown)."""
        now = self.now(clock_ms)
        for line, least, _ in budgets.wanted(lines, length):
            found = self._accounts.get(line.account)
            if found is None:
                if line.budget.limit < least:
                    return self._short(line, now, least)
                continue
            raised = _sum(line.account, found.raised, now) if found.raised else 0
            if line.budget.limit + raised - _sum(line.account, found.used, now) < least:
                return self._short(line, now, least)
        return None

    def _short(self, line: Line, now: int, least: int) -> Shortage:
        used = self.used(line.account, now)
        limit = line.budget.limit + self.raised(line.account, now)
        returns, missing = None, least - (limit - used)
        kind = budgets.kind(line.account)
        if missing > 0 and kind.width_ms and line.budget.limit >= least:
            account = self._accounts.get(line.account) or _Account()
            for step in sorted({*account.used, *account.raised}):
                missing -= account.used.get(step, 0) - account.raised.get(step, 0)
                returns = kind.gone_ms(step)
                if missing <= 0:
                    break
        return Shortage(line=line, limit=limit, used=used, returns_ms=returns)

    # -- operations: each has its record -----------------------------------------------------------------------------

    def reserve(self, record: str, lines: Sequence[Line], length: int | None, clock_ms: int) -> Charge | Shortage:
        """Charge a request that `record` permits; all of it or nothing."""
        now, amounts, crossed = self.now(clock_ms), dict[str, int](), []
        for line, least, most in budgets.wanted(lines, length):
            found = self._accounts.get(line.account)
            before = _sum(line.account, found.used, now) if found is not None else 0
            limit = line.budget.limit
            if found is not None and found.raised:
                limit += _sum(line.account, found.raised, now)
            if limit - before < least:
                return self._short(line, now, least)
            take = amounts[line.account] = min(most, limit - before)
            if before * 5 < limit * 4 <= (before + take) * 5:
                crossed.append(Shortage(line=line, limit=limit, used=before + take, returns_ms=None))
        self.charge(record, amounts, now)
        counted = record in self._open
        return Charge(record=record, at_ms=now, amounts=amounts, bytes=counted, crossed=tuple(crossed))

    def charge(self, record: str, amounts: Mapping[str, int], at_ms: int) -> None:
        """Take these amounts, whatever is left. A record whose charge is in here is not charged again."""
        if record in self._written:
            return
        self._written.add(record)
        now = self.now(at_ms)
        taken: dict[str, list[list[int]]] = {}
        for account, amount in amounts.items():
            kind = budgets.kind(account)
            step = kind.step(at_ms)
            self._add(account, step, amount, now)
            if kind.quantity in BYTES:
                taken[account] = [[step, amount]]
        if taken:
            self._open[record] = _Open(at_ms, taken)

    def give_back(self, record: str, amounts: Mapping[str, int], at_ms: int) -> None:
        """Undo the charge of a request that was not let through after all. Twice is the same as once."""
        if record in self._returned:
            return
        self._returned[record] = None
        if len(self._returned) > MAX_RETURNED:
            del self._returned[next(iter(self._returned))]
        for account, amount in amounts.items():
            self._add(account, budgets.kind(account).step(at_ms), -amount, self._now)
        self._open.pop(record, None)

    def count(self, record: str, out: int | None, into: int | None, *, ended: bool, clock_ms: int) -> bool:
        """How many bytes a request has moved until now, or in all. Whether `record` was still open.

        More than it had reserved is taken as used now; less is given back when it has ended, from the end.
        """
        found = self._open.get(record)
        if found is None:
            return False
        now = self.now(clock_ms)
        for account, taken in found.taken.items():
            kind = budgets.kind(account)
            moved = out if kind.quantity is Quantity.BYTES_OUT else into
            if moved is None:
                continue
            over = moved - found.of(account)
            if over > 0:
                self._extend(account, taken, over, now)
            while ended and over < 0 and taken:
                step, amount = taken[-1]
                back = min(amount, -over)
                self._add(account, step, -back, now)
                over += back
                taken[-1][1] -= back
                if not taken[-1][1]:
                    taken.pop()
        if ended:
            del self._open[record]
        return True

    def outgrown(self, record: str, out: int, into: int) -> tuple[str, ...]:
        """The accounts of which an open request has moved more than it has reserved."""
        found = self._open.get(record)
        if found is None:
            return ()
        moved = {Quantity.BYTES_OUT: out, Quantity.BYTES_IN: into}
        return tuple(a for a in found.taken if moved[budgets.kind(a).quantity] > found.of(a))

    def extension(self, line: Line, clock_ms: int) -> int:
        """What an open request may reserve next: a reserve, or what is left; 0: it must end."""
        now = self.now(clock_ms)
        standing = self._short(line, now, 1)
        return min(budgets.RESERVE_BYTES, standing.left)

    def reserved(self, record: str) -> Mapping[str, int]:
        """What an open request has reserved in all, by account."""
        found = self._open.get(record)
        return {account: found.of(account) for account in found.taken} if found is not None else {}

    def extend(self, record: str, totals: Mapping[str, int], clock_ms: int) -> None:
        """Let an open request have reserved `totals`. The same twice is the same as once."""
        now = self.now(clock_ms)
        found = self._open.get(record)
        for account, total in totals.items():
            if found is not None and account in found.taken and total > found.of(account):
                self._extend(account, found.taken[account], total - found.of(account), now)

    def raise_(self, record: str, account: str, by: int, at_ms: int) -> None:
        """An operator allows `by` more than the limit; in a window, until the window has passed."""
        if record in self._written:
            return
        self._written.add(record)
        found = self._accounts.setdefault(account, _Account())
        step = budgets.kind(account).step(at_ms)
        found.raised[step] = max(0, found.raised.get(step, 0) + by)
        found.touched = self.now(at_ms)

    def lower(self, account: str, by: int, at_ms: int) -> None:
        """Undo a raise that could not be recorded."""
        step = budgets.kind(account).step(at_ms)
        raised = self._accounts.setdefault(account, _Account()).raised
        raised[step] = max(0, raised.get(step, 0) - by)

    def confirm(self, record: str) -> None:
        """`record` is in the log, or never will be."""
        self._written.discard(record)

    # -- bounds ------------------------------------------------------------------------------------------------------

    def forget(self, alive: Iterable[str]) -> None:
        """Give up the accounts of tasks that are not `alive` and were not used for a day, and whatever is empty."""
        kept = set(alive)
        owners = {name: budgets.owner_task(name) for name in self.warned}
        self.warned -= {
            name for name, task in owners.items() if (name not in self._accounts if task is None else task not in kept)
        }
        for record in [record for record, one in self._open.items() if self._now - one.at_ms > FORGOTTEN_MS]:
            del self._open[record]
        for name, account in list(self._accounts.items()):
            task = budgets.owner_task(name)
            old = self._now - account.touched > FORGOTTEN_MS
            if (old and task is not None and task not in kept) or not (
                _sum(name, account.used, self._now) or _sum(name, account.raised, self._now)
            ):
                del self._accounts[name]

    def dump(self) -> Mapping[str, Any]:
        """Everything, as JSON values."""
        return {
            "now": self._now,
            "accounts": {
                name: [_pairs(account.used), _pairs(account.raised), account.touched]
                for name, account in self._accounts.items()
            },
            "open": {record: [opened.at_ms, opened.taken] for record, opened in self._open.items()},
            "written": sorted(self._written),
            "returned": list(self._returned),
            "warned": sorted(self.warned),
        }

    def load(self, dumped: Mapping[str, Any]) -> None:
        """Add what `dump` gave, whole or in parts. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        self._now = max(self._now, int(dumped["now"]))
        for name, (used, raised, touched) in dumped.get("accounts", {}).items():
            budgets.kind(name)
            self._accounts[name] = _Account(
                used={int(s): int(a) for s, a in used}, raised={int(s): int(a) for s, a in raised}, touched=int(touched)
            )
        for record, (at_ms, taken) in dumped.get("open", {}).items():
            pairs = {account: [[int(s), int(n)] for s, n in steps] for account, steps in taken.items()}
            self._open[record] = _Open(int(at_ms), pairs)
        self._written.update(dumped.get("written", ()))
        self._returned.update(dict.fromkeys(dumped.get("returned", ())))
        self.warned.update(dumped.get("warned", ()))  # which former releases did not write

    def _extend(self, account: str, taken: list[list[int]], amount: int, now: int) -> None:
        step = budgets.kind(account).step(now)
        self._add(account, step, amount, now)
        if taken and taken[-1][0] == step:
            taken[-1][1] += amount
        else:
            taken.append([step, amount])

    def _add(self, account: str, step: int, amount: int, now: int) -> None:
        found = self._accounts.get(account)
        if found is None:
            found = self._accounts[account] = _Account()
        left = found.used.get(step, 0) + amount
        if left > 0:
            found.used[step] = left
        else:
            found.used.pop(step, None)  # what left the window meanwhile was returned already
        found.touched = now


def _sum(account: str, amounts: dict[int, int], now_ms: int) -> int:
    """What still counts; what does not is dropped."""
    kind = budgets.kind(account)
    if not kind.width_ms:
        return amounts.get(0, 0)
    gone = [step for step in amounts if (kind.gone_ms(step) or 0) <= now_ms]
    for step in gone:
        del amounts[step]
    return sum(amounts.values())


def _pairs(amounts: Mapping[int, int]) -> list[list[int]]:
    return [[step, amount] for step, amount in amounts.items()]
