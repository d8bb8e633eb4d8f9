"""What is used of a budget, told: to policies and people as JSON values, to whoever is refused in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from remit.core import budget as budgets
from remit.core.ledger import Shortage
from remit.core.reason import Reason, Refusal


def view(standing: Shortage, *, used: int) -> Mapping[str, Any]:
    """`used` as it counts for the budget: the ledger knows nothing of time, which is an age (`core.bounds.age_s`)."""
    line, limit = standing.line, standing.limit
    return {
        "budget": line.account,
        "scope": line.account.partition("/")[0],
        "task": budgets.owner_task(line.account),
        "quantity": line.budget.quantity.value,
        "per": budgets.span(line.budget.per_s) if line.budget.per_s else None,
        "window": line.budget.window.value if line.budget.per_s else None,
        "limit": limit,
        "raised": limit - line.budget.limit,
        "used": used,
        "left": max(0, limit - used),
        "returns": _time(standing.returns_ms),
    }


def meant(one: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether the budget of this view is one of `names`, begins with one (up to a `/`), or is the own one of a task
    whose id is among them."""
    name = str(one["budget"])
    return any(name == each or name.startswith(f"{each.rstrip('/')}/") or one["task"] == each for each in names)


def exhausted(short: Shortage, now_ms: int) -> Refusal:
    """Why there is no room, and when there will be some."""
    quantity, returns = short.line.budget.quantity, _time(short.returns_ms)
    again = f"; room returns at {returns}" if returns else "; none returns by itself"
    detail = f"budget {short.line.account}: {budgets.amount(quantity, short.left)} left of {short.limit}{again}"
    wait_s = max(1, math.ceil((short.returns_ms - now_ms) / 1000)) if short.returns_ms is not None else None
    told = {"budget": short.line.account, "limit": short.limit, "used": short.used, "left": short.left}
    return Refusal(Reason.BUDGET_EXHAUSTED, detail, facts={**told, "returns": returns}, retry_after_s=wait_s)


def _time(moment_ms: int | None) -> str | None:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat(timespec="seconds") if moment_ms else None
