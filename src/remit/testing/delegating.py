"""Tasks that tasks ask for, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from remit.control.ports_delegates import Ended, Said, Wanted
from remit.core.errors import RemitError


class MemoryChild:
    """Implements `control.ports_delegates.Child`: says what is put into `script`; `None` in it is waited at."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.script: list[Said | Ended | None] = [Ended(code=0, detail="")]
        self.ended = asyncio.Event()

    async def said(self) -> AsyncIterator[Said | Ended]:
        for one in self.script:
            if one is None:
                await self.ended.wait()
                return
            yield one

    async def end(self) -> None:
        self.ended.set()


class MemoryChildren:
    """Implements `control.ports_delegates.Children`: the next child says `script`; `error` is raised instead of one."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str, Wanted]] = []
        self.children: list[MemoryChild] = []
        self.script: list[Said | Ended | None] = [Ended(code=0, detail="")]
        self.error: RemitError | None = None

    async def start(self, parent: str, request: str, wanted: Wanted) -> MemoryChild:
        if self.error is not None:
            raise self.error
        self.started.append((parent, request, wanted))
        child = MemoryChild(f"t-child{len(self.children):05d}".translate(str.maketrans("0189", "abcd")))
        child.script = list(self.script)
        self.children.append(child)
        return child
