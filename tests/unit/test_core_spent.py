"""A budget without room, told to whoever was refused: what is left, and when some returns."""

from datetime import UTC, datetime

import pytest

from remit.core import spent
from remit.core.budget import Budget, Line, Quantity
from remit.core.ledger import Shortage
from remit.core.reason import Reason

NOW_MS = 1_767_225_600_000  # 2026-01-01


def short(returns_ms: int | None) -> Shortage:
    budget = Budget(quantity=Quantity.BYTES_OUT, limit=90, per_s=3600)
    line = Line(account=budget.account("role/r", "t-aaaaaaaaaa"), budget=budget)
    return Shortage(line=line, limit=100, used=93, returns_ms=returns_ms)


@pytest.mark.parametrize(("after_ms", "wait_s"), [(1, 1), (999, 1), (1001, 2), (3_600_000, 3600), (0, 1), (-5000, 1)])
def test_what_is_left_and_when_room_returns(after_ms: int, wait_s: int) -> None:
    refusal = spent.exhausted(short(NOW_MS + after_ms), NOW_MS)
    returns = datetime.fromtimestamp((NOW_MS + after_ms) / 1000, UTC).isoformat(timespec="seconds")
    assert (refusal.reason, refusal.retry_after_s) == (Reason.BUDGET_EXHAUSTED, wait_s)
    assert refusal.facts == {
        "budget": "role/r/bytesOut/1h", "limit": 100, "used": 93, "left": 7, "returns": returns,
    }  # fmt: skip
    assert refusal.detail == f"budget role/r/bytesOut/1h: 7 bytes out left of 100; room returns at {returns}"


def test_what_does_not_return_by_itself_is_not_waited_for() -> None:
    refusal = spent.exhausted(short(None), NOW_MS)
    assert (refusal.retry_after_s, refusal.facts["returns"]) == (None, None)
    assert refusal.detail.endswith("7 bytes out left of 100; none returns by itself")


def test_a_view_tells_a_raise_apart_from_the_limit() -> None:
    told = spent.view(short(None), used=120)
    assert (told["limit"], told["raised"], told["used"], told["left"]) == (100, 10, 120, 0)
    assert (told["scope"], told["task"], told["per"], told["window"]) == ("role", None, "1h", "sliding")
