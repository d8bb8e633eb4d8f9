"""`cells`: the one privileged process. It makes cells, keeps them, and answers for them on its socket.

Whoever may open the socket (0600) is the operator; the agents never see it. The control plane says who a task is and
with which token it speaks; this process decides nothing. When it ends, every cell ends: a cell without its keeper
could neither be stopped nor cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from remit.cell import cell as cells
from remit.cell import (
    control_client,
    forward_link,
    prune,
    request,
    retention,
    session,
    stored,
    tasks,
    wire,
    workspace,
)
from remit.core.errors import Conflict, Invalid, NotFound, RemitError, Unavailable

log = logging.getLogger(__name__)

MAX_CLIENTS = 512
MAX_CELLS = 512
FIRST_FRAME_S = 10.0
MAX_GRACE_S = 300.0
END_S = 3.0
"""The processes are dead at once; this is for control and the forwarder, which may be ending as well."""

Opens = Callable[[list[tuple[str, int]]], None]
FOR_CONTROL = frozenset({"cut", "cut-everything", "list", "reach", "delegate"})
"""What the control plane may ask for itself. It starts nothing but what hangs on a task that runs, sees no file of the
operator's and ends with that task (`_delegate`); it stops nothing."""


class Daemon:
    """The operations of the protocol, by name."""

    def __init__(
        self,
        site: cells.Site,
        control: control_client.ControlClient,
        link: forward_link.ForwardLink,
        token_ttl_s: float,
        control_uid: int,
        kept: retention.Retention,
        opens: Opens,
    ) -> None:
        self._control_uid, self._opens = control_uid, opens
        self._kept = kept
        self._site, self._control, self._link, self._ttl_s = site, control, link, token_ttl_s
        self._running: dict[str, tasks.Task] = {}
        self._bound: dict[object, Path] = {}
        self._starting = 0
        self._pruner = prune.Pruner(
            site.cells, site.stage.root, control, kept, self._running.keys(), lambda: self._starting > 0
        )
        self._clients = 0
        self._operations: dict[str, Callable[[wire.Connection, dict[str, Any]], Awaitable[None]]] = {
            "run": self._run,
            "delegate": self._delegate,
            "exec": self._exec,
            "attach": self._attach,
            "stop": self._stop,
            "cut": self._cut,
            "cut-everything": self._cut_everything,
            "list": self._list,
            "reach": self._reach,
            "logs": self._logs,
            "diff": self._diff,
            "merge": self._merge,
            "prune": self._prune,
        }

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one operation."""
        connection = wire.Connection(reader, writer)
        self._clients += 1
        try:
            await self._serve(connection)
        except wire.Gone:
            pass
        except RemitError as error:
            with contextlib.suppress(wire.Gone):
                await connection.tell(event="error", kind=error.kind, detail=error.detail, hint=error.hint)
        except Exception:
            log.exception("an operation failed")
            with contextlib.suppress(wire.Gone):
                await connection.tell(
                    event="error", kind="unavailable", detail="cells failed; its log says how", hint="remit status"
                )
        finally:
            self._clients -= 1
            await connection.close()

    async def _serve(self, connection: wire.Connection) -> None:
        if self._clients > MAX_CLIENTS:
            raise Unavailable(f"{MAX_CLIENTS} clients are connected already", hint="remit ps")
        operator = connection.user in (0, os.geteuid())
        if not operator and connection.user != self._control_uid:
            raise Invalid("only the operator of this node may ask cells", hint="run remit as the user of `remit up`")
        try:
            async with asyncio.timeout(FIRST_FRAME_S):
                message = await connection.message()
        except TimeoutError as error:
            raise Invalid("the client asked nothing") from error
        operation = self._operations.get(str(message.get("op")))
        if not operator and message.get("op") not in FOR_CONTROL:
            raise Invalid("the control plane may not ask that of cells")
        if operation is None:
            raise Invalid(f"cells knows no operation {str(message.get('op'))[:40]!r}")
        await operation(connection, message)

    async def _run(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        asked = request.run(message)
        await self._start(connection, asked, connection.user, user_name(connection.user))

    async def _delegate(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        """A part of a task that runs, for the one whose task that is: without a workspace, a terminal or variables."""
        asked = request.delegated(message)
        above = self._task({"task": asked.parent})
        command = replace(asked.command, path=above.cell.wanted.path)
        await self._start(connection, replace(asked, command=command), above.cell.wanted.operator, above.operator)

    async def _start(self, connection: wire.Connection, asked: request.Run, user: int, name: str) -> None:
        """Start it for the operator `user`, whom records call `name`, and keep it as long as its client stays."""
        if len(self._running) + self._starting >= MAX_CELLS:
            raise Unavailable(f"{MAX_CELLS} cells run already", hint="remit ps; remit stop TASK")
        path = workspace.checked(asked.workspace, self._site.cells) if asked.workspace is not None else None
        if path is not None and not (path / asked.cwd).is_dir():
            raise NotFound(
                f"--cwd {asked.cwd}: the workspace has no such directory", hint="make it, or leave --cwd out"
            )
        key = object()
        self._reserve(key, path if asked.bind else None)
        self._starting += 1
        try:
            task = await tasks.start(
                asked,
                path,
                operator=user,
                name=name,
                site=self._site,
                control=self._control,
                link=self._link,
                ttl_s=self._ttl_s,
                ended=lambda task: self._ended(task, key),
            )
            self._running[task.id] = task
        except BaseException:
            self._bound.pop(key, None)
            raise
        finally:
            self._starting -= 1
        try:
            await connection.tell(event="started", task=task.id, absent=list(task.cell.absent))
            task.cell.hub.owner = None if asked.detach else connection.send
            task.keep(self._running)
            if not asked.detach:
                await session.owner(connection, task)
        except (wire.Gone, Invalid):
            task.keep(self._running)
            await task.stop(0.0, "its client went away")
            raise

    def _reserve(self, key: object, path: Path | None) -> None:
        """No two cells write into one directory, or they could talk to each other."""
        if path is None:
            return
        for other in self._bound.values():
            if path.is_relative_to(other) or other.is_relative_to(path):
                raise Conflict(f"{other} is bound by another task", hint="leave --bind out, or remit stop that task")
        self._bound[key] = path

    def _ended(self, task: tasks.Task, key: object) -> None:
        self._running.pop(task.id, None)
        self._bound.pop(key, None)

    def _task(self, message: dict[str, Any]) -> tasks.Task:
        name = request.task(message)
        if name not in self._running or self._running[name].over.is_set():
            raise NotFound(f"no cell runs for task {name}", hint="remit ps --all")
        return self._running[name]

    async def _exec(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        await session.beside(connection, self._task(message), request.command(message))

    async def _attach(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        await session.watcher(connection, self._task(message))

    async def _stop(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        task, grace = self._task(message), message.get("grace_s", 10)
        if not isinstance(grace, int | float) or not 0 <= grace <= MAX_GRACE_S:
            raise Invalid(f"grace_s is not 0 to {MAX_GRACE_S:g} seconds")
        await connection.tell(event="done", code=await task.stop(float(grace), "stopped by the operator"))

    async def _cut(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        number, ports = self._task(message).cell.wanted.number, message.get("ports")
        if ports is not None and not (isinstance(ports, list) and all(isinstance(port, int) for port in ports)):
            raise Invalid("ports is not a list of numbers")
        await connection.tell(event="done", closed=await self._link.cut(number, ports))

    async def _cut_everything(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        await connection.tell(event="done", closed=await self._link.cut_everything())

    async def _reach(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        await asyncio.to_thread(self._opens, request.reach(message))
        await connection.tell(event="done")

    async def _list(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        found = [task.view() for task in self._running.values() if not task.over.is_set()]
        await connection.tell(event="list", cells=found)

    async def _logs(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        name = request.task(message)
        running = self._running.get(name)
        if running is not None and message.get("follow") is True:
            async for data in running.cell.log.follow():
                await connection.send(wire.STDOUT, data)
        else:
            with self._pruner.reading(name):
                for data in stored.logs(self._site.cells, name):
                    await connection.send(wire.STDOUT, data)
        await connection.tell(event="done")

    async def _prune(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        asked = request.prune(message, self._kept)
        plan = await self._pruner.prune(asked, user_name(connection.user))
        await connection.tell(event="pruned", dry_run=asked.dry_run, **prune.told(plan))

    async def keep_pruned(self) -> None:
        """Until cancelled."""
        await self._pruner.keep()

    async def _over(self, name: str) -> tasks.Task | None:
        """The task if it still runs; one whose command is gone is waited for."""
        task = self._running.get(name)
        if task is None or not task.over.is_set():
            return task
        await task.done.wait()
        return None

    async def _diff(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        name = request.task(message)
        running = await self._over(name)
        live = running.cell.layers if running is not None else None
        with self._pruner.reading(name):
            answer = await stored.diff(self._site.cells, self._site.stage.root, name, live)
        await connection.tell(event="diff", **answer)

    async def _merge(self, connection: wire.Connection, message: dict[str, Any]) -> None:
        name = request.task(message)
        if await self._over(name) is not None:
            raise Conflict(f"task {name} still runs and may still write", hint=f"remit stop {name}")
        paths = message.get("paths")
        if paths is not None and not (isinstance(paths, list) and all(isinstance(path, str) for path in paths)):
            raise Invalid("paths is not a list of paths")
        with self._pruner.reading(name):
            answer = await stored.merge_changes(
                self._site.cells, self._site.stage.root, name, paths, force=message.get("force") is True
            )
        await connection.tell(event="merged", **answer)

    async def end(self) -> None:
        """Every task, whole. What has to be told to others is told if they listen, for at most `END_S`."""
        jobs = [asyncio.ensure_future(task.stop(0.0, "cells ended")) for task in self._running.values()]
        if jobs:
            _, late = await asyncio.wait(jobs, timeout=END_S)
            for job in late:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)


def user_name(uid: int) -> str:
    """What records call this user; just as the API does (`api.access.user_name`), or four eyes could be one pair."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
