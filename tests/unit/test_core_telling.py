"""What of a request's headers a human is shown, and an answer is bound to."""

from __future__ import annotations

import pytest

from remit.core import telling


@pytest.mark.parametrize(
    "name",
    [
        "destination",
        "x-amz-copy-source",
        "x-amz-acl",
        "x-amz-target",
        "content-type",
        "if-match",
        "soapaction",
        "x-new",
    ],
)
def test_what_may_change_what_is_asked_is_told(name: str) -> None:
    assert telling.told({name: "1", "user-agent": "x"}) == (f"{name}: 1",)


@pytest.mark.parametrize(
    "name",
    [
        "authorization", "cookie", "x-api-key", "user-agent", "accept-encoding", "traceparent", "x-amz-date",
        "amz-sdk-invocation-id", "x-stainless-retry-count", "content-length", "sec-websocket-key",
    ],
)  # fmt: skip
def test_who_asks_and_what_changes_from_try_to_try_is_not(name: str) -> None:
    assert telling.told({name: "1"}) == ()


def test_a_long_value_is_shown_in_part_and_bound_whole() -> None:
    one, two = ("x" * 5000 + end for end in "ab")
    (shown,), (other,) = telling.told({"x-a": one}), telling.told({"x-a": two})
    assert shown != other and len(shown) < 200 and shown.startswith("x-a: xxx")
