"""What is kept of tasks that have ended, and for how long: their output, and what they wrote into their workspace.

Oldest first, everything older than an age goes, and then as much as a total size asks for. Changes that nobody has
merged are somebody's work: they stay whatever their age and size, and are named, until they are asked for. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

UNMERGED = "its changes are not merged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """`age_s` counts from the last byte that the task wrote; `total_bytes` are blocks on disk of all that is kept."""

    age_s: float
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is left of an ended task. `last`: Unix seconds."""

    task: str
    last: float
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """(what, why) that goes, and that stays although it is due. `rest`: what is not due."""

    gone: tuple[tuple[Left, str], ...]
    stays: tuple[tuple[Left, str], ...]
    rest: tuple[Left, ...]

    def only(self, tasks: Container[str]) -> Plan:
        """Only these go; the others, being read at the moment, are left for the next time."""
        gone = tuple(item for item in self.gone if item[0].task in tasks)
        others = tuple(left for left, _ in self.gone if left.task not in tasks)
        return Plan(gone=gone, stays=self.stays, rest=(*self.rest, *others))


def plan(left: Sequence[Left], retention: Retention, now: float, unmerged: Callable[[str], bool]) -> Plan:
    """`unmerged` is asked only of what is due: it has to look at every file that a task wrote."""
    gone, stays, rest = list[tuple[Left, str]](), list[tuple[Left, str]](), list[Left]()
    total = sum(one.size_bytes for one in left)
    for one in sorted(left, key=lambda one: (one.last, one.task)):
        if now - one.last >= retention.age_s:
            why = f"older than {retention.age_s:g} s"
        elif total > retention.total_bytes:
            why = f"all together over {retention.total_bytes} bytes"
        else:
            rest.append(one)
            continue
        if unmerged(one.task):
            stays.append((one, UNMERGED))
        else:
            gone.append((one, why))
            total -= one.size_bytes
    return Plan(gone=tuple(gone), stays=tuple(stays), rest=tuple(rest))
