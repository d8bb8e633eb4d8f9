"""Starts the processes of a node in order, restarts the one that dies or stalls, ends them in reverse.

The parts fail closed on their own (a dead check is a 503, a dead forwarder a refused connection), so the supervisor
never has to be right for safety, only for recovery. When it is killed, they end too (prctl(2), PR_SET_PDEATHSIG): it
starts everything from its main thread, whose end the kernel takes for its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from remit.core.errors import Unavailable
from remit.node import notify, privilege

log = logging.getLogger(__name__)

START_TIMEOUT_S = 20.0
STALL_S = 5.0
STOP_TIMEOUT_S = 10.0
PIPE_BYTES = 1 << 16
"""All that a pipe can hold (pipe(7)): one read has the last words of a process that ended."""
BACKOFF_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
STEADY_S = 30.0
"""A process that ran this long starts anew from the first back-off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process. `argv` gets `--notify-fd N` appended where it `notifies`.

    Else it is ready when `socket` accepts, and is asked by `probe` whether it lives, which raises `OSError` or
    `TimeoutError` where it does not answer.
    """

    name: str
    argv: Sequence[str]
    environment: dict[str, str]
    notifies: bool = True
    socket: Path | None = None
    probe: Callable[[], Awaitable[None]] | None = None
    log: Path | None = None
    umask: int = 0o022
    user: int | None = None
    """uid and gid to run as; None: the supervisor's own."""
    shown: privilege.Window = field(default_factory=dict)


@dataclass(slots=True)
class _Child:
    program: Program
    process: asyncio.subprocess.Process
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    read: int = -1
    said: bytes = b""
    """Why it does not start, as it comes, from `notify.FAILED` on."""
    beat: float = 0.0
    started: float = 0.0


class Supervisor:
    """`run` returns after SIGTERM or SIGINT. `told` hears (name, state): starting, ready, died, stalled, stopped."""

    def __init__(self, programs: Sequence[Program], told: Callable[[str, str], None]) -> None:
        self._programs = programs
        self._told = told
        self._children: dict[str, _Child] = {}
        self._stopping = asyncio.Event()
        self._restarts: dict[str, int] = {program.name: 0 for program in programs}

    def pids(self) -> dict[str, int]:
        return {name: child.process.pid for name, child in self._children.items()}

    def restarts(self) -> dict[str, int]:
        return dict(self._restarts)

    def stop(self) -> None:
        self._stopping.set()

    async def run(self, started: Callable[[], None]) -> None:
        """Start all in order, call `started`, keep them until told to stop. `Unavailable`: a first start failed."""
        loop = asyncio.get_running_loop()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # inherited: Envoy does not raise its own
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        keepers: list[asyncio.Task[None]] = []
        try:
            for program in self._programs:
                if self._stopping.is_set():
                    return
                child = await self._start(program)
                await self._await_ready(child)
                keepers.append(asyncio.ensure_future(self._keep(child)))
            started()
            await self._stopping.wait()
        finally:
            # Keepers first, or one of them starts anew what was ended a moment ago.
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            for program in reversed(self._programs):
                await self._end(program.name)

    async def _start(self, program: Program) -> _Child:
        self._told(program.name, "starting")
        argv, kept = list(program.argv), tuple[int, ...]()
        read = write = -1
        out: int | None = None
        try:
            if program.notifies:
                read, write = os.pipe()
                argv += ["--notify-fd", str(write)]
                kept = (write,)
            out = os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if program.log else None
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=program.environment,
                pass_fds=kept,
                start_new_session=True,
                umask=program.umask,
                cwd="/",
                preexec_fn=partial(_entering, program, os.getpid()),
            )
        except (OSError, subprocess.SubprocessError) as error:
            if read >= 0:
                os.close(read)
            raise Unavailable(f"{program.name} does not start: {error}", hint="remit doctor") from error
        finally:
            for descriptor in (write, out):
                if descriptor is not None and descriptor >= 0:
                    os.close(descriptor)
        child = _Child(program, process, started=time.monotonic(), beat=time.monotonic())
        self._children[program.name] = child
        if read >= 0:
            self._listen(child, read)
        return child

    def _listen(self, child: _Child, read: int) -> None:
        os.set_blocking(read, False)
        child.read = read
        asyncio.get_running_loop().add_reader(read, self._heard, child)

    def _heard(self, child: _Child) -> None:
        if child.read < 0:
            return
        try:
            data = os.read(child.read, PIPE_BYTES)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(child.read)
            os.close(child.read)
            child.read = -1
            return
        child.beat = time.monotonic()
        if child.said or notify.FAILED in data:
            child.said = (child.said + data)[:PIPE_BYTES]
        elif data.startswith(notify.READY):
            child.ready.set()

    async def _await_ready(self, child: _Child) -> None:
        name = child.program.name
        exited = asyncio.ensure_future(child.process.wait())
        ready = asyncio.ensure_future(self._ready(child))
        try:
            done, _ = await asyncio.wait({exited, ready}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            exited.cancel()
        if ready in done:
            self._told(name, "ready")
            return
        where = f"; see {child.program.log}" if child.program.log else ""
        if exited in done:
            self._heard(child)
            if (why := _last_words(child.said)) is not None:
                raise Unavailable(f"{name} does not start: {why[0]}", hint=why[1] or "remit doctor")
            raise Unavailable(f"{name} ended with code {exited.result()} while starting{where}", hint="remit doctor")
        raise Unavailable(f"{name} was not ready after {START_TIMEOUT_S:g} s{where}", hint="remit doctor")

    async def _ready(self, child: _Child) -> None:
        if child.program.socket is None:
            await child.ready.wait()
            return
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_unix_connection(str(child.program.socket))
                writer.close()
                return
            await asyncio.sleep(0.02)

    async def _keep(self, child: _Child) -> None:
        """Watch one process for as long as the supervisor runs, starting it anew whenever it dies or stalls."""
        program, failures = child.program, 0
        while not self._stopping.is_set():
            code = await self._watch(child)
            if self._stopping.is_set():
                return
            if time.monotonic() - child.started > STEADY_S:
                failures = 0
            self._told(program.name, f"died ({code})")
            self._restarts[program.name] += 1
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1
            try:
                child = await self._start(program)
                await self._await_ready(child)
            except Unavailable as error:
                log.error("%s", error)
                await self._end(program.name)

    async def _watch(self, child: _Child) -> int:
        asking = asyncio.ensure_future(self._ask(child))
        try:
            return await self._ended(child)
        finally:
            asking.cancel()

    async def _ask(self, child: _Child) -> None:
        """What a process that beats says by itself."""
        child.beat = max(child.beat, time.monotonic())
        while child.program.probe is not None:
            with contextlib.suppress(OSError, TimeoutError):
                await child.program.probe()
                child.beat = time.monotonic()
            await asyncio.sleep(notify.INTERVAL_S)

    async def _ended(self, child: _Child) -> int:
        watched = child.program.notifies or child.program.probe is not None
        exited, looked = asyncio.ensure_future(child.process.wait()), time.monotonic()
        waited_s = waited_for_processor_s(child.process.pid)
        try:
            while True:
                if (await asyncio.wait({exited}, timeout=notify.INTERVAL_S))[0]:
                    return exited.result()
                now = time.monotonic()
                if now - looked > STALL_S:
                    child.beat = now  # it was this process that stood still: what beat meanwhile is not heard yet
                looked, before_s, waited_s = now, waited_s, waited_for_processor_s(child.process.pid)
                child.beat += max(0.0, waited_s - before_s)  # no stall, and starting it anew would cost more of them
                if watched and now - child.beat > STALL_S:
                    self._told(child.program.name, "stalled")
                    child.process.kill()
        finally:
            exited.cancel()

    async def _end(self, name: str) -> None:
        child = self._children.get(name)
        if child is None or child.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()
            try:
                await asyncio.wait_for(child.process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                child.process.kill()
                await child.process.wait()
        self._told(name, "stopped")


def _last_words(said: bytes) -> tuple[str, str] | None:
    """(detail, hint) of a process that does not start; None where it said nothing that can be read."""
    try:
        why = json.loads(said.partition(notify.FAILED)[2])
        return str(why["detail"]), str(why["hint"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def waited_for_processor_s(pid: int) -> float:
    """For how many seconds the main thread of a process could have run and there was no processor for it, so far.

    Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat. 0 where the kernel does not count it.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _entering(program: Program, parent: int) -> None:
    privilege.without_core()
    if program.user is not None:
        privilege.become(program.user, program.shown)
    notify.die_with_parent(parent)
