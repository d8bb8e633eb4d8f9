"""Ids by their first letters, as people give them: `t-a7` or `a7` for the only task whose id begins so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from remit.core.errors import Conflict, NotFound

LONGEST = 32
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Noun:
    """What has ids that begin with `letter` and a hyphen. `listing`: the command that shows them all."""

    name: str
    letter: str
    listing: str

    def start(self, prefix: str) -> str | None:
        """What an id must begin with; None where none can. Letters and digits, so no pattern of SQL."""
        rest = prefix.removeprefix(f"{self.letter}-")
        usable = rest.isascii() and rest.isalnum() and len(rest) <= LONGEST
        return f"{self.letter}-{rest}" if usable else None

    def only(self, prefix: str, found: Sequence[Found]) -> Found:
        """The one in `found`. `NotFound`, or `Conflict` for several."""
        if not found:
            raise self.missing(prefix)
        if len(found) > 1:
            start = self.start(prefix)
            raise Conflict(f"several {self.name}s start with {start}", hint=f"give more letters; {self.listing}")
        return found[0]

    def missing(self, identity: str) -> NotFound:
        return NotFound(f"no {self.name} {ascii(identity[:LONGEST])[1:-1]}", hint=self.listing)


TASK = Noun(name="task", letter="t", listing="remit ps --all")
APPROVAL = Noun(name="approval", letter="a", listing="remit approvals list --all")
GRANT = Noun(name="grant", letter="g", listing="remit approvals grants")
