"""Budgets as people write them for one task."""

import pytest

from remit.core.budget import Quantity
from remit.core.errors import Invalid
from remit.policy import budgets


@pytest.mark.parametrize(
    ("text", "what", "limit"),
    [
        ("3", Quantity.REQUESTS, 3),
        ("requests=3", Quantity.REQUESTS, 3),
        ("bytesOut=10Mi", Quantity.BYTES_OUT, 10 << 20),
        ("time=30m", Quantity.TIME, 1800),
    ],
)
def test_a_number_alone_is_of_requests(text: str, what: Quantity, limit: int) -> None:
    (found,) = budgets.of_task([text])
    assert (found.quantity, found.limit) == (what, limit)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("request=3", "nothing is counted as 'request' (did you mean requests?)"),
        ("bytes=3", "nothing is counted as 'bytes'"),
        ("=3", "nothing is counted as ''"),
        ("lots", "expected a number of requests"),
        ("requests=", "expected a number of requests"),
        ("-1", "expected a number of requests"),
        ("\x1b[31m=3", r"nothing is counted as '\x1b[31m'"),
    ],
)
def test_what_is_no_budget_is_told_with_what_is_one(text: str, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        budgets.of_task([text])
    assert said in caught.value.detail
    assert "--budget requests=100" in (caught.value.hint or "")


def test_each_quantity_is_named_once() -> None:
    with pytest.raises(Invalid, match="names each quantity once"):
        budgets.of_task(["3", "requests=4"])
