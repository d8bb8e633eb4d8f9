"""Ends that are written as a time of day, held to although the clock is set.

A grant "until 14:00" means an hour from when it was given. If the clock is set back, the time of day comes an hour
later than meant; so each end is also counted from when it was first seen, by a clock that nobody sets. Whichever comes
first ends it. Not guaranteed: that a process which began after the clock was set back knows of it.
"""

from __future__ import annotations

from collections.abc import Set
from datetime import datetime

from remit.control.ports import Clock


class Ends:
    """By the id of what ends. Who asks for many forgets with `keep`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, float] = {}

    def passed(self, identity: str, until: datetime) -> bool:
        """Whether it is over. The first call for an id counts from then on."""
        left_s = (until - self._clock.now()).total_seconds()
        end = self._known.setdefault(identity, self._clock.elapsed() + left_s)
        return left_s <= 0 or self._clock.elapsed() >= end

    def keep(self, identities: Set[str]) -> None:
        """Forget all others."""
        self._known = {identity: end for identity, end in self._known.items() if identity in identities}
