"""Budgets as they are written: in manifests, and as `NAME=VALUE` on a command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from remit.core.budget import MAX_AMOUNT, Budget, Quantity, Window
from remit.core.errors import Invalid
from remit.policy import quantity, specs
from remit.policy.manifests import nearest

KNOWN = tuple(one.value for one in Quantity)


def compiled(spec: specs.BudgetSpec) -> Iterator[Budget]:
    """One budget a quantity."""
    written: tuple[tuple[Quantity, int | str | None], ...] = (
        (Quantity.REQUESTS, spec.requests),
        (Quantity.BYTES_OUT, spec.bytes_out),
        (Quantity.BYTES_IN, spec.bytes_in),
        (Quantity.TIME, spec.time),
    )
    per_s = int(quantity.duration_s(spec.per)) if spec.per is not None else None
    for what, value in written:
        if value is not None:
            yield Budget(
                quantity=what,
                limit=value if isinstance(value, int) else amount(what, value),
                per_s=per_s,
                window=Window(spec.window),
                each_task=spec.each == "task" or what is Quantity.TIME,
            )


def amount(what: Quantity, text: str) -> int:
    """`100`, `10Mi` or `30m`, as the quantity wants it. Raises `ValueError`."""
    match what:
        case Quantity.REQUESTS:
            if not text.isascii() or not text.isdigit() or len(text) > 12:
                raise ValueError("expected a number of requests")
            return int(text)
        case Quantity.TIME:
            return int(quantity.duration_s(text))
        case _:
            found = quantity.size_bytes(text)
            if found >= MAX_AMOUNT:
                raise ValueError("expected fewer bytes")
            return found


def of_task(items: Iterable[str]) -> tuple[Budget, ...]:
    """`requests=100` or just `100`, `bytesOut=10Mi`, `time=30m`: a task's own. Raises `Invalid`, naming the item."""
    found: list[Budget] = []
    hint = "--budget requests=100, bytesOut=10Mi, bytesIn=1Gi or time=30m"
    for item in items:
        name, _, value = item.partition("=") if "=" in item else ("requests", "=", item)
        try:
            if name not in KNOWN:
                raise ValueError(f"nothing is counted as {name[:40]!a}{nearest(name, KNOWN)}")
            what = Quantity(name)
            found.append(Budget(quantity=what, limit=amount(what, value)))
        except ValueError as error:
            raise Invalid(f"budget {ascii(item[:80])[1:-1]}: {error}", hint=hint) from error
    if len({budget.quantity for budget in found}) < len(found):
        raise Invalid("a budget of a task names each quantity once", hint=hint)
    return tuple(found)
