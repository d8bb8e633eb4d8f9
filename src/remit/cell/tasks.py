"""A task from `remit run` to its last byte: asked of control, put into a cell, kept, ended, reported.

Authority and process end together: when the command is gone the forwarder closes the cell's flows, control hears the
exit code, and everything left in the cell is killed. A token is renewed at half of its life for as long as it runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from remit.cell import cell as cells
from remit.cell import (
    control_client,
    environment,
    forward_link,
    network,
    output,
    process,
    request,
    stored,
    unread,
    workspace,
)
from remit.core import flow, snapshot
from remit.core.claims import MAX_TOKEN_BYTES
from remit.core.errors import RemitError, Unavailable
from remit.core.task import TASK_ID

log = logging.getLogger(__name__)

DRAIN_S = 3.0
"""How long output may still come after the command is gone; its writers are dead, so this is the kernel's delay."""
RETRY_S = 5.0


class Task:
    """A running task. `keep` watches it; `done` is set when all of it is over."""

    def __init__(
        self,
        cell: cells.Cell,
        main: process.Process,
        *,
        role: str,
        parent: str | None,
        argv: tuple[str, ...],
        operator: str,
        control: control_client.ControlClient,
        link: forward_link.ForwardLink,
        ttl_s: float,
        ended: Callable[[Task], None],
    ) -> None:
        self.cell, self.main, self.id = cell, main, cell.wanted.task
        self._parent = parent
        self._role, self._argv, self.operator = role, argv, operator
        self._control, self._link, self._ttl_s, self._ended = control, link, ttl_s, ended
        self._since = time.time()
        self._stopped = ""
        self._kept = False
        self._work: set[asyncio.Task[Any]] = set()
        self.over = asyncio.Event()
        self.done = asyncio.Event()
        self.code = 0
        self.detail = ""

    def keep(self, running: Mapping[str, Task]) -> None:
        """Begin to watch it, once. Its end is handled whether or not anybody waits, and ends those below it."""
        if not self._kept:
            self._kept = True
            self._spawn(self._live(running))
            if self._parent is not None and (self._parent not in running or running[self._parent].over.is_set()):
                self._end_with_parent()

    def _end_with_parent(self) -> None:
        self._spawn(self.stop(0.0, "the task above it has ended"))

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        job: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
        self._work.add(job)
        job.add_done_callback(self._work.discard)
        return job

    def view(self) -> dict[str, Any]:
        return {
            "task": self.id,
            "cell": self.cell.wanted.number,
            "role": self._role,
            "command": list(self._argv)[:64],
            "operator": self.operator,
            "pid": self.main.first,
            "started": self._since,
            "terminal": self.main.terminal is not None,
            "absent": list(self.cell.absent),
        }

    async def _live(self, running: Mapping[str, Task]) -> None:
        started = self._spawn(self._report("started"))
        try:
            await self._run_out()
            await self._look_after()
        finally:
            await self._report_end(started)
            self.over.set()
            for below in [task for task in running.values() if task._parent == self.id]:
                below._end_with_parent()
            try:
                await self.cell.end()
            finally:
                self.main.close()  # not before: a client that feeds it has to hear of `over` first
                self._ended(self)
                self.done.set()

    async def _run_out(self) -> None:
        """Until the command is gone and all that it wrote is taken."""
        pumps = [self._spawn(pump(self.cell.hub, kind, number)) for kind, number in self.main.outputs]
        limit_s = self.cell.wanted.limits.time_s
        jobs = [self._renew(), self._watch(), *([self._expire(limit_s)] if limit_s is not None else [])]
        beside = [self._spawn(job) for job in jobs]
        try:
            self.code = await self.main.wait()
        finally:
            self.cell.group.kill()
            for job in beside:
                job.cancel()
        if self._stopped:
            self.detail = self._stopped
        elif self.cell.group.out_of_memory():
            self.detail = f"the cell reached its memory limit ({self.cell.wanted.limits.memory_bytes} bytes)"
        await asyncio.wait(pumps, timeout=DRAIN_S)
        for job in pumps:
            job.cancel()

    async def _report_end(self, started: asyncio.Task[Any]) -> None:
        """The forwarder and control know that it is over."""
        await asyncio.gather(started, return_exceptions=True)
        await asyncio.gather(
            _quietly(self._link.close(self.cell.wanted.number), self.id),
            self._report("exited", {"code": self.code, "stopped": bool(self._stopped)}),
        )

    async def _look_after(self) -> None:
        """A workspace that was bound directly is the operator's again: what must not stay in it goes first. A copy
        stays as it is, and how to see what was changed in it is said."""
        if not self.cell.wanted.bind:
            if self.cell.changed:
                self._tell(f"what it changed is kept: remit diff {self.id}, remit merge {self.id}")
            return
        await self.cell.dead()
        left = await asyncio.to_thread(stored.look_after, self.cell.directory)
        if left:
            self.cell.log.write(f"remit: {left}\n".encode(errors="backslashreplace"))
            self._tell(left)

    def _tell(self, more: str) -> None:
        self.detail = "; ".join(filter(None, (self.detail, more)))

    async def _report(self, what: str, body: dict[str, Any] | None = None) -> None:
        await _quietly(self._control.post(f"/v1/tasks/{self.id}/{what}", body), self.id)

    async def _renew(self) -> None:
        """Fail closed: a token that cannot be renewed runs out, and the decision service says so to the agent."""
        wait_s = self._ttl_s / 2
        while True:
            await asyncio.sleep(wait_s)
            try:
                answer = await self._control.post(f"/v1/tasks/{self.id}/token")
                await self._link.renew(self.cell.wanted.number, _token(answer))
                wait_s = self._ttl_s / 2
            except RemitError as error:
                log.error("the token of task %s was not renewed: %s", self.id, error.detail)
                wait_s = min(RETRY_S, self._ttl_s / 10)

    async def _watch(self) -> None:
        while not unread.beyond(self.main.first):  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(unread.EVERY_S)
        most = unread.MOST_BYTES >> 20
        self._spawn(self.stop(0.0, f"its sockets have queued more than {most} MiB of the kernel's that nobody read"))

    async def _expire(self, limit_s: float) -> None:
        await asyncio.sleep(limit_s)
        self._spawn(self._stop_after(f"the task reached its time limit ({limit_s:g} s)"))

    async def _stop_after(self, why: str) -> None:
        await self.stop(10.0, why)

    async def stop(self, grace_s: float, why: str) -> int:
        """Ask it to end (SIGTERM), then end it. Returns when its command is gone and reported; its exit code."""
        self._stopped = self._stopped or why
        if grace_s > 0:
            self.main.signal(process.SIGNALS["TERM"])
            self.main.signal(process.SIGNALS["CONT"])
            try:
                async with asyncio.timeout(grace_s):
                    await self.over.wait()
            except TimeoutError:
                log.info("task %s did not end in %g s and is killed", self.id, grace_s)
        self.cell.group.kill()
        self.main.kill()
        await self.done.wait()
        return self.code


async def pump(hub: output.Hub, kind: bytes, descriptor: int) -> None:
    async for data in output.chunks(descriptor):
        await hub.put(kind, data)


async def start(
    asked: request.Run,
    path: Path | None,
    *,
    operator: int,
    name: str,
    site: cells.Site,
    control: control_client.ControlClient,
    link: forward_link.ForwardLink,
    ttl_s: float,
    ended: Callable[[Task], None],
) -> Task:
    """Admit and start a task, with the workspace `path`.

    Where anything fails after control admitted it, control hears that it failed."""
    making = asyncio.ensure_future(asyncio.to_thread(network.create))
    command, own = list(asked.command.argv), list(asked.budgets)
    body = {"role": asked.role, "command": command, "operator": name, "budgets": own, "parent": asked.parent}
    if asked.capabilities:
        body["capabilities"] = list(asked.capabilities)
    if asked.request is not None:
        body["request"] = asked.request
    try:
        answer = await control.post("/v1/tasks", body)
    except BaseException:
        _discard(making)
        raise
    task = str(answer.get("task"))
    if not TASK_ID.fullmatch(task):
        _discard(making)
        raise Unavailable("the control plane's answer has no task id", hint="remit status")
    try:
        try:
            wanted, token = _wanted(answer, task, asked, path, operator)
            looked = await asyncio.to_thread(workspace.look, path) if asked.bind and path is not None else None
            wire = await making
        except BaseException:
            _discard(making)
            raise
        return await _place(asked, wanted, token, wire, looked, site, control, link, ttl_s, ended, name)
    except BaseException as error:
        detail = error.detail if isinstance(error, RemitError) else f"{type(error).__name__}"
        await _quietly(control.post(f"/v1/tasks/{task}/failed", {"detail": detail[:500]}), task)
        raise


async def _quietly(work: Awaitable[Any], task: str) -> None:
    """What fails here is said in the log; the task's end does not wait for it."""
    try:
        await work
    except RemitError as error:
        log.error("task %s: %s", task, error.detail)
    except Exception:
        log.exception("task %s", task)


async def _place(
    asked: request.Run,
    wanted: cells.Wanted,
    token: str,
    wire: network.Network,
    looked: workspace.Looked | None,
    site: cells.Site,
    control: control_client.ControlClient,
    link: forward_link.ForwardLink,
    ttl_s: float,
    ended: Callable[[Task], None],
    name: str,
) -> Task:
    cell = cells.build(wanted, site, wire, looked)
    command = asked.command
    try:
        await link.open(wanted.number, token, tuple(sock.fileno() for sock in wire.listeners))
        main = await cell.run(
            command.argv,
            given=command.environment,
            terminal=command.terminal,
            terminal_kind=command.terminal_kind,
            inputs=not asked.detach,
        )
    except BaseException:
        await _quietly(link.close(wanted.number), wanted.task)
        await cell.end()
        raise
    cell.main = main
    return Task(
        cell,
        main,
        role=asked.role,
        parent=asked.parent,
        argv=command.argv,
        operator=name,
        control=control,
        link=link,
        ttl_s=ttl_s,
        ended=ended,
    )


def _discard(making: asyncio.Future[network.Network]) -> None:
    """Close the network if it is, or once it is, made and nobody took it."""

    def close(done: asyncio.Future[network.Network]) -> None:
        if not done.cancelled() and done.exception() is None:
            done.result().close()

    making.add_done_callback(close)


def _token(answer: dict[str, Any]) -> str:
    token = answer.get("token")
    if not isinstance(token, str) or not 0 < len(token) <= MAX_TOKEN_BYTES or not token.isascii():
        raise Unavailable("the control plane's answer has no token", hint="remit status")
    return token


def _wanted(
    answer: dict[str, Any], task: str, asked: request.Run, path: Any, operator: int
) -> tuple[cells.Wanted, str]:
    number, given, variables = answer.get("cell"), answer.get("limits") or {}, answer.get("environment") or {}
    if not isinstance(number, int) or not 0 < number <= flow.MAX_CELL:
        raise Unavailable("the control plane's answer has no cell number", hint="remit status")
    try:
        wanted = snapshot.Limits(**given)
    except TypeError as error:
        raise Unavailable(
            "the control plane's answer has limits this node does not know", hint="remit status"
        ) from error
    return cells.Wanted(
        task=task,
        number=number,
        limits=wanted,
        role_environment=environment.checked(variables, "the role's environment"),
        workspace=path,
        bind=asked.bind,
        cwd=asked.cwd,
        operator=operator,
        path=asked.command.path,
        log_bytes=output.DELEGATED_LOG_BYTES if asked.request is not None else output.MAX_LOG_BYTES,
    ), _token(answer)
