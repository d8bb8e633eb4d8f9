"""The real clocks: the one on the wall, and the one that nobody sets."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """`control.ports.Clock`."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
