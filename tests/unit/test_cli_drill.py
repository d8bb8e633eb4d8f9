"""What a leak drill comes to, in words."""

from __future__ import annotations

import pytest

from remit.cli import drill
from remit.cli.sinks import Sink

CLEAN = Sink(looked=3)


@pytest.mark.parametrize(
    ("sinks", "proving", "found", "said"),
    [
        ({"a": CLEAN, "b": CLEAN}, False, False, "the drill passed: the canary was nowhere in 6 places searched"),
        ({"a": Sink(looked=1, unread=["x", "y"])}, False, False, "nowhere in 1 place searched; 2 places could not"),
        ({"b": Sink(looked=1, found=["x"]), "a": Sink(found=["y"])}, False, True, "failed: the canary was found in a, b"),
        ({"a": Sink(looked=1, found=["x"])}, True, True, "failed, as it must where it is leaked on purpose (--prove)"),
        ({"a": CLEAN}, True, False, "the drill is worth nothing here"),
    ],
)  # fmt: skip
def test_the_verdict_of_a_drill_is_said(sinks: dict[str, Sink], proving: bool, found: bool, said: str) -> None:
    failed, words = drill.verdict(sinks, proving=proving)
    assert failed is found
    assert said in words
