"""Where decisions are kept that an Open Policy Agent uploads (`policy.uploads`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Decisions(Protocol):
    """Called from threads: both read and write files."""

    def add(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Keep them; the oldest go where there is no room. `Unavailable`: they are not kept."""
        ...

    def latest(self, limit: int) -> Sequence[Mapping[str, Any]]:
        """Oldest first."""
        ...
