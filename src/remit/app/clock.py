"""The one real clock."""

from __future__ import annotations

from datetime import UTC, datetime


class SystemClock:
    """`control.ports.Clock`."""

    def now(self) -> datetime:
        return datetime.now(UTC)
