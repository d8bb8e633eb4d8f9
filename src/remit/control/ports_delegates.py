"""What tasks that ask for tasks need from outside: something that starts them, listens to them and ends them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A task that another one asks for, as it asks."""

    role: str
    command: tuple[str, ...]
    capabilities: tuple[str, ...] = ()
    """Of the role's, those it is to have; none: all."""
    budgets: tuple[str, ...] = ()
    stdin: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """`stream`: stdout or stderr."""

    stream: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """`code`: its exit code, 128+n where signal n ended it. `detail`: why it was ended, if it was."""

    code: int | None
    detail: str


class Child(Protocol):
    """A task that runs for another one."""

    task: str

    def said(self) -> AsyncIterator[Said | Ended]:
        """What it writes, as it does, and then its end. `Unavailable`: nobody knows any more."""
        ...

    async def end(self) -> None:
        """It ends now, if it has not."""
        ...


class Children(Protocol):
    """Starts them, by way of `cells`."""

    async def start(self, parent: str, request: str, wanted: Wanted) -> Child:
        """Returns when its command runs. `request`: the record of the request by which `parent` asked.

        `Conflict` where it may not be, `NotFound` where its role or its parent is not, `Invalid` where it cannot be.
        """
        ...
