"""Budgets: how much may be used, by whom together, in which time. What was used is in `core.ledger`.

A budget limits one quantity of one owner: a role, a capability, or a task, or each task of a role or capability for
itself. Every budget that applies to a request must have room for it. What is used is kept in accounts, and the name of
an account says all that is needed to keep it (`role/devops/requests/1h`), so that the log can be added up again
without the manifests of its time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

SLICES = 60
"""A sliding window moves in steps of a sixtieth of its length; what falls into a step counts until all of it is out."""
RESERVE_BYTES = 1 << 20
"""What a request of unknown size takes of a budget of bytes before it begins, and again each time it used that up."""
AT_ONCE = 16
"""Requests of unknown size that a budget of bytes has room for at once, however small it is: each takes a part."""
DAY_S = 86400
MAX_PER_S = 366 * DAY_S
MAX_AMOUNT = 1 << 53
"""JSON readers lose digits above (RFC 8259 §6)."""
_UNITS = (("d", DAY_S), ("h", 3600), ("m", 60), ("s", 1))
_ACCOUNT = re.compile(
    r"(?:role|capability|task)/[a-z0-9-]{1,63}(?:/task/[a-z0-9-]{1,63})?/(?P<quantity>requests|bytesOut|bytesIn|time)"
    r"(?:/(?P<per>[0-9]{1,9}[dhms])(?P<calendar>/calendar)?)?"
)
_TASK = re.compile(r"(?:^|/)task/([a-z0-9-]{1,63})/")


class Quantity(StrEnum):
    """Requests are counted when they are permitted. Bytes are those of bodies: out of the cell and into it. Time is
    what has passed since the task was created, in seconds.
    """

    REQUESTS = "requests"
    BYTES_OUT = "bytesOut"
    BYTES_IN = "bytesIn"
    TIME = "time"


BYTES = frozenset({Quantity.BYTES_OUT, Quantity.BYTES_IN})


class Window(StrEnum):
    """`sliding`: at any moment, what was used in the last `per`. `calendar`: since the last multiple of `per` (UTC)."""

    SLIDING = "sliding"
    CALENDAR = "calendar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """`limit` in requests, bytes or seconds. `per_s` None: once and for all. `each_task`: every task has its own."""

    quantity: Quantity
    limit: int
    per_s: int | None = None
    window: Window = Window.SLIDING
    each_task: bool = False

    def account(self, owner: str, task: str) -> str:
        """The name of the account it is kept in. `owner`: `role/NAME`, `capability/NAME` or `task/ID`."""
        whose = f"{owner}/task/{task}" if self.each_task else owner
        per = f"/{span(self.per_s)}" if self.per_s else ""
        calendar = "/calendar" if self.per_s and self.window is Window.CALENDAR else ""
        return f"{whose}/{self.quantity}{per}{calendar}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How an account is kept: what its name says. Times in milliseconds; `width_ms` 0: not by time."""

    quantity: Quantity
    width_ms: int
    """Of one step."""
    keep_ms: int
    """How long after its end a step still counts."""

    def step(self, at_ms: int) -> int:
        return at_ms // self.width_ms if self.width_ms else 0

    def gone_ms(self, step: int) -> int | None:
        """When what was used in `step` is free again; None: never."""
        return (step + 1) * self.width_ms + self.keep_ms if self.width_ms else None


@lru_cache(maxsize=16384)
def kind(account: str) -> Kind:
    """`ValueError` where `account` is no name of one."""
    found = _ACCOUNT.fullmatch(account)
    if found is None:
        raise ValueError(f"{account[:200]!a} is not the name of an account")
    quantity = Quantity(found["quantity"])
    per_ms = 1000 * seconds(found["per"]) if found["per"] else 0
    if not per_ms:
        return Kind(quantity=quantity, width_ms=0, keep_ms=0)
    if found["calendar"]:
        return Kind(quantity=quantity, width_ms=per_ms, keep_ms=0)
    return Kind(quantity=quantity, width_ms=max(1, per_ms // SLICES), keep_ms=per_ms)


def owner_task(account: str) -> str | None:
    """The task whose own the account is, or None where several share it."""
    found = _TASK.search(account)
    return found[1] if found else None


def span(duration_s: int) -> str:
    """`1h`, `90s`: the largest unit that divides it."""
    unit, size = next((unit, size) for unit, size in _UNITS if duration_s % size == 0)
    return f"{duration_s // size}{unit}"


def seconds(text: str) -> int:
    """The opposite of `span`."""
    return int(text[:-1]) * dict(_UNITS)[text[-1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A budget that applies, and the account it is kept in."""

    account: str
    budget: Budget


def applying(owned: Iterable[tuple[str, Sequence[Budget]]], task: str) -> tuple[Line, ...]:
    """The budgets of several owners, as they apply to a request of `task`."""
    return tuple(
        Line(account=budget.account(owner, task), budget=budget) for owner, budgets in owned for budget in budgets
    )


def wanted(lines: Sequence[Line], length: int | None) -> Iterator[tuple[Line, int, int]]:
    """(line, least that must be free, what is taken where it is free) for a request with a body of `length` bytes.

    A request that says how long it is takes just that; one that does not needs a byte of room and takes a reserve.
    """
    for line in lines:
        if line.budget.quantity is Quantity.REQUESTS:
            yield line, 1, 1
        elif line.budget.quantity is Quantity.BYTES_OUT and length is not None:
            yield line, length, length
        elif line.budget.quantity in BYTES:
            yield line, 1, min(RESERVE_BYTES, max(1, line.budget.limit // AT_ONCE))


def amount(quantity: Quantity, value: int) -> str:
    """For people: `3 requests`, `1048576 bytes out`, `90 s`."""
    match quantity:
        case Quantity.REQUESTS:
            return f"{value} request{'' if value == 1 else 's'}"
        case Quantity.TIME:
            return f"{value} s"
        case _:
            return f"{value} bytes {'out' if quantity is Quantity.BYTES_OUT else 'in'}"


def as_json(budget: Budget) -> Mapping[str, Any]:
    """For the snapshot and the store."""
    return {
        "quantity": budget.quantity.value,
        "limit": budget.limit,
        "per_s": budget.per_s,
        "window": budget.window.value,
    }


def from_json(item: Mapping[str, Any]) -> Budget:
    """The opposite; a task's own. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
    limit, per_s = item["limit"], item["per_s"]
    if type(limit) is not int or not 0 <= limit < MAX_AMOUNT:
        raise ValueError("a budget without a valid limit")
    if per_s is not None and (type(per_s) is not int or not 0 < per_s <= MAX_PER_S):
        raise ValueError("a budget without a valid window")
    return Budget(quantity=Quantity(item["quantity"]), limit=limit, per_s=per_s, window=Window(item["window"]))
