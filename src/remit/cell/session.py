"""A client and a command, joined for a while: output one way; input, signals and window size the other.

Input has credit: a client may have `CREDIT_BYTES` on the way that the command has not read, and is told as it reads.
So a command that reads nothing does not block the client's signals, and no client fills the daemon's memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from remit.cell import output, process, request, tasks, wire
from remit.core.errors import Invalid

CREDIT_BYTES = 1 << 20
"""More than the client's own limit (256 KiB)."""


class _Input:
    """Feeds one process from one client."""

    def __init__(self, connection: wire.Connection, main: process.Process) -> None:
        self._connection, self._main = connection, main
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting = 0

    async def receive(self) -> None:
        """Take what the client sends until it hangs up (`Gone`)."""
        while True:
            kind, payload = await self._connection.receive()
            if kind == wire.STDIN:
                self._waiting += len(payload)
                if self._waiting > CREDIT_BYTES:
                    raise Invalid("the client sent more input than it was given credit for")
                self._queue.put_nowait(payload)
            else:
                self._control(wire.parsed(payload))

    def _control(self, message: dict[str, Any]) -> None:
        window, name = message.get("resize"), message.get("signal")
        if isinstance(window, list) and len(window) == 2:
            self._main.resize(*request.size(window[0], window[1]))
        if isinstance(name, str) and name in process.SIGNALS:
            self._main.signal(process.SIGNALS[name])

    async def feed(self) -> None:
        """Write it to the command; nothing more after it stopped reading, but the credit goes on."""
        while True:
            payload = await self._queue.get()
            target = self._main.terminal if self._main.terminal is not None else self._main.stdin
            if not payload:
                self._main.close_stdin()
            elif target is not None:
                with contextlib.suppress(OSError):
                    await output.write_all(target, payload)
            self._waiting -= len(payload)
            if payload:
                await self._connection.tell(event="stdin", bytes=len(payload))


async def owner(connection: wire.Connection, task: tasks.Task) -> None:
    """The client that runs the task. `Gone`: it hung up before the end."""
    await _joined(connection, task.main, task.over)
    await connection.tell(event="exit", code=task.code, signal=None, detail=task.detail)


async def watcher(connection: wire.Connection, task: tasks.Task) -> None:
    """A client that came later (`attach`), and may leave."""
    await connection.tell(event="attached", task=task.id, terminal=task.main.terminal is not None)
    key = object()
    task.cell.hub.watchers[key] = connection.send
    try:
        await _joined(connection, task.main, task.over)
    finally:
        task.cell.hub.watchers.pop(key, None)
    await connection.tell(event="exit", code=task.code, signal=None, detail=task.detail)


async def beside(connection: wire.Connection, task: tasks.Task, command: request.Command) -> None:
    """A further process in a running cell (`exec`). It ends when its client goes."""
    main = await task.cell.run(
        command.argv,
        given=command.environment,
        terminal=command.terminal,
        terminal_kind=command.terminal_kind,
        inputs=True,
        joined=True,
    )
    hub, over = output.Hub(None), asyncio.Event()
    hub.owner = connection.send
    code = 0

    async def live() -> None:
        nonlocal code
        async with asyncio.TaskGroup() as group:
            pumps = [group.create_task(tasks.pump(hub, kind, number)) for kind, number in main.outputs]
            code = await main.wait()
            # What it started may go on and hold the pipes; what it wrote itself is there to be read.
            await asyncio.wait(pumps, timeout=tasks.DRAIN_S / 10)
            for pump in pumps:
                pump.cancel()
        over.set()

    living = asyncio.ensure_future(live())
    try:
        await connection.tell(event="started", task=task.id)
        await _joined(connection, main, over)
        await connection.tell(event="exit", code=code, signal=None, detail="")
    finally:
        main.signal(process.SIGNALS["HUP"])
        main.kill()
        await asyncio.gather(living, return_exceptions=True)
        main.close()


async def _joined(connection: wire.Connection, main: process.Process, over: asyncio.Event) -> None:
    """Carry input until `over`. `Gone` or `Invalid` from the client's side is raised."""
    inputs = _Input(connection, main)
    jobs = [asyncio.ensure_future(work) for work in (inputs.receive(), inputs.feed())]
    ending = asyncio.ensure_future(over.wait())
    try:
        done, _ = await asyncio.wait((*jobs, ending), return_when=asyncio.FIRST_COMPLETED)
        if ending not in done:
            for job in done:
                job.result()
    finally:
        for job in (*jobs, ending):
            job.cancel()
        await asyncio.gather(*jobs, ending, return_exceptions=True)
