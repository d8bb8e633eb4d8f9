"""Budgets for people: what is used of each, and a raise, with its reason.

The node alone knows what is used, since it keeps the log; so it is asked. A raise is an operator record of that log,
and in force because it stands there.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remit.control.ports_control import Node
from remit.control.recording import Recorder
from remit.core import budget as budgets
from remit.core import ledger_log
from remit.core.budget import Quantity
from remit.core.errors import Invalid, NotFound
from remit.policy.budgets import amount

MAX_REASON = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """`budget`: as it is now, see `control.budgets.Budgets.show`."""

    record: str
    budget: Mapping[str, Any]


class Spending:
    def __init__(self, *, node: Node, recorder: Recorder) -> None:
        self._node = node
        self._recorder = recorder

    async def show(self, wanted: str = "") -> Sequence[Mapping[str, Any]]:
        """Budgets whose name is `wanted` or begins with it (up to a `/`), or that are the task's own whose id it is."""
        return await self._node.usage([wanted] if wanted else ())

    async def raise_(self, name: str, by: str, reason: str, *, operator: str) -> Raised:
        """Allow `by` more (`100`, `10Mi`, `30m`). `NotFound`: there is no such budget; `Invalid`: no amount or reason.

        A budget with a window is raised until the window has passed.
        """
        found = {str(one["budget"]): one for one in await self._node.usage([name])}
        if name not in found:
            others = [str(one["budget"]) for one in await self._node.usage()]
            near = next(iter(difflib.get_close_matches(name[:200], others, n=1)), "")
            guess = f" (did you mean {near}?)" if near else ""
            raise NotFound(f"no budget {ascii(name[:200])[1:-1]} is in force{guess}", hint="remit budget show")
        reason = reason.strip()
        if not 0 < len(reason) <= MAX_REASON:
            raise Invalid(f"a raise needs a reason of at most {MAX_REASON} characters", hint="--reason TEXT")
        quantity = Quantity(found[name]["quantity"])
        try:
            more = amount(quantity, by)
        except ValueError as error:
            raise Invalid(f"--by {ascii(by[:40])[1:-1]}: {error}") from error
        if not 0 < more < budgets.MAX_AMOUNT:
            raise Invalid("a raise of nothing changes nothing", hint="--by 100")
        detail = f"budget {name} raised by {budgets.amount(quantity, more)}: {reason}"
        facts = {"budget": name, "by": more, "why": reason, "task": found[name]["task"]}
        record = await self._recorder.before(ledger_log.RAISE, operator, detail, **facts)
        now = {str(one["budget"]): one for one in await self._node.usage([name])}
        return Raised(record=record, budget=now.get(name, found[name]))
