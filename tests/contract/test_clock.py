"""What every clock keeps to: the machine's and the one that stands still."""

from collections.abc import Callable
from datetime import UTC, timedelta

import pytest

from remit.app.clock import SystemClock
from remit.control.ports import Clock
from remit.testing import ManualClock


@pytest.fixture(params=[SystemClock, ManualClock])
def clock(request: pytest.FixtureRequest) -> Clock:
    make: Callable[[], Clock] = request.param
    return make()


def test_now_is_a_moment_in_utc(clock: Clock) -> None:
    assert clock.now().tzinfo is UTC
    assert clock.now().utcoffset() == timedelta(0)


def test_what_has_elapsed_never_steps_back(clock: Clock) -> None:
    seen = [clock.elapsed() for _ in range(100)]
    assert seen == sorted(seen)
    assert seen[0] >= 0


def test_setting_the_clock_moves_nothing_that_has_elapsed() -> None:
    clock = ManualClock()
    before, elapsed = clock.now(), clock.elapsed()
    clock.set_by(-3600)
    assert (before - clock.now(), clock.elapsed()) == (timedelta(hours=1), elapsed)
    clock.advance(5)
    assert clock.elapsed() == elapsed + 5
