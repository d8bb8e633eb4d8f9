"""The ledger as the audit log tells it: what each record adds, and a checkpoint, so that a fold need not begin at the
first one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from remit.core import budget
from remit.core.budget import Quantity
from remit.core.ledger import Ledger

RESERVATION, CHECKPOINT = "reservation", "checkpoint"
"""Kinds of record: reservations that grew; the ledger as it was when a segment began."""
BUDGET = "budget"
"""The kind of records that warn, or give back."""
RAISE = "budget.raise"
"""The operator action."""
MARKS = (b'"charged_at":', b'"kind":"checkpoint"', b'"kind":"budget"')
"""One of these stands in every line that `add` needs."""
PART_BYTES = 16 << 10
CHECKPOINT_BYTES = 256 << 10
"""A larger ledger is not written into a segment: the log is then added up from an earlier one."""


def add(ledger: Ledger, found: Mapping[str, Any]) -> None:
    """What one record says. `KeyError`, `TypeError`, `ValueError` or `AttributeError` for one of another shape."""
    record, kind = found["id"], found["kind"]
    if kind == CHECKPOINT:
        ledger.load(found)
        return
    if "returned" in found:
        returned = found["returned"]
        ledger.give_back(returned["record"], returned["charges"], returned["charged_at"])
    if "charges" in found:
        ledger.charge(record, found["charges"], found["charged_at"])
        ledger.confirm(record)
    elif kind == "completion" and "charged_at" in found:
        out, into = found.get("bytes_out"), found.get("bytes_in")
        ledger.count(found["record"], out, into, ended=True, clock_ms=found["charged_at"])
    elif kind == RESERVATION:
        ledger.extend(found["record"], found["reserved"], found["charged_at"])
    elif (
        kind == BUDGET
        and found.get("event") == "warning"
        and budget.kind(found["budget"]).quantity is not Quantity.REQUESTS
    ):
        ledger.warned.add(found["budget"])
    elif kind == "operator" and found.get("action") == RAISE:
        ledger.raise_(record, found["budget"], found["by"], found["charged_at"])
        ledger.confirm(record)


def checkpoint(ledger: Ledger) -> list[Mapping[str, Any]]:
    """The ledger as fields of records, of `PART_BYTES` or so each; nothing where it is larger than
    `CHECKPOINT_BYTES`."""
    dumped = ledger.dump()
    parts: list[dict[str, Any]] = []
    size = total = PART_BYTES
    for name in ("accounts", "open", "written", "returned", "warned"):
        items = dumped[name]
        for key in items:
            length = len(json.dumps([key, items[key] if isinstance(items, Mapping) else None])) + 8
            size, total = size + length, total + length
            if size > PART_BYTES or not parts:
                empty: dict[str, Any] = {"accounts": {}, "open": {}, "written": [], "returned": [], "warned": []}
                parts.append({"now": dumped["now"], **empty})
                size = length
            if isinstance(items, Mapping):
                parts[-1][name][key] = items[key]
            else:
                parts[-1][name].append(key)
    if total > CHECKPOINT_BYTES:
        return []
    parts = parts or [{"now": dumped["now"]}]
    return [{"part": n, "parts": len(parts), **part} for n, part in enumerate(parts, start=1)]
