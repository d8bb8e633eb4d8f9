"""`remit up`: one supervisor an instance, which holds the lock of its state file (`app.running`)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from remit.app import boundary_files, identities, layout, notifiers, programs, running, store_files
from remit.app.clock import SystemClock
from remit.boundary import ca_renewal
from remit.core.errors import Conflict, RemitError, Unavailable
from remit.node import doctor, fence
from remit.node.supervisor import Supervisor
from remit.settings import Settings, environment

LOCK_PATIENCE_S = 0.5


def up(settings: Settings, *, detach: bool, rekey: bool = False) -> None:
    """Bring the node up; returns when it is up (`detach`) or when it was told to stop.

    `rekey`: its own OpenBao comes up with new keys and logins. `Conflict` where it is already up, `Unavailable` where a
    part does not start.
    """
    found = running.state(settings)
    if found is not None:
        who = f"pid {found['pid']}" if found["pid"] else "and is starting"
        raise Conflict(f"Remit is already up here ({who})", hint="remit status, or remit down first")
    _needed()
    layout.prepare(settings, identities.of(settings))
    if detach:
        _detached(settings, rekey)
    else:
        _supervise(settings, sys.stderr.fileno(), rekey)


def _needed() -> None:
    """`Unavailable` where a tool that cells need is missing: every later failure would be harder to understand."""
    missing = [found for found in map(doctor.tool, doctor.TOOLS) if not found.ok]
    if missing:
        names = ", ".join(found.check for found in missing)
        raise Unavailable(f"this machine lacks {names}", hint=f"{missing[0].hint}; remit doctor says what else")


def _detached(settings: Settings, rekey: bool) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.setsid()
        if os.fork():
            os._exit(0)
        null = os.open(os.devnull, os.O_RDWR)
        out = os.open(settings.log_dir / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for target, source in ((0, null), (1, out), (2, out)):
            os.dup2(source, target)
        code = 1
        try:
            _supervise(settings, write, rekey)
            code = 0
        except RemitError as error:
            _say(write, {"error": error.kind, "detail": error.detail, "hint": error.hint})
        except Exception:
            logging.getLogger("remit").exception("the node does not start")
        finally:
            os._exit(code)
    os.close(write)
    try:
        os.waitpid(child, 0)
        _follow_start(read)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: the node goes on starting\nhint: remit status, or remit down\n")
        raise


def _follow_start(read: int) -> None:
    with os.fdopen(read) as lines:
        for line in lines:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if "error" in said:
                kind = Conflict if said["error"] == Conflict.kind else Unavailable
                raise kind(said["detail"], hint=said["hint"])
            sys.stderr.write(f"{said['name']}: {said['state']}\n")
            if said["name"] == "remit":
                return
    raise Unavailable("the node ended while it started", hint="remit doctor; the logs are in the state directory")


def _supervise(settings: Settings, progress: int, rekey: bool) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    lock = _lock(settings.supervisor_lock)
    settings.supervisor_file.unlink(missing_ok=True)
    boundary_files.write(settings)
    store_files.write(settings, identities.of(settings), rekey=rekey)
    notifiers.hand_over(settings, identities.of(settings))
    states: dict[str, str] = {}

    def told(name: str, state: str) -> None:
        states[name] = state
        if progress == sys.stderr.fileno():
            _write(progress, f"{name}: {state}\n".encode())
        else:
            _say(progress, {"name": name, "state": state})
        restarts = supervisor.restarts()
        pids = supervisor.pids()
        parts = {
            part: {"state": said, "pid": pids.get(part), "restarts": restarts[part]}
            for part, said in states.items()
            if part in restarts
        }
        _rewrite(
            settings.supervisor_file,
            {"pid": os.getpid(), "state": states.get("remit", "starting"), "processes": parts},
        )

    who = identities.of(settings)
    supervisor = Supervisor(programs.programs(settings, who, environment().get("PATH", programs.PATH)), told)
    if who is not None:
        fence.load(who.fence, who.envoy, control_port=settings.api_port)
    try:
        asyncio.run(_run(settings, supervisor, lambda: told("remit", "up")))
    finally:
        # Envoy leaves its sockets behind.
        sockets = (*settings.proxy_socket.parent.glob("*.sock"), settings.envoy_admin)
        for left in (*sockets, settings.supervisor_file, settings.supervisor_lock):
            left.unlink(missing_ok=True)
        if who is not None:
            fence.remove(who.fence)
        os.close(lock)


async def _run(settings: Settings, supervisor: Supervisor, up: Callable[[], None]) -> None:
    renewing = asyncio.ensure_future(ca_renewal.keep(settings.root_ca_dir, settings.ca_dir, SystemClock().now))
    try:
        await supervisor.run(up)
    finally:
        renewing.cancel()


def _lock(path: Path) -> int:
    """Whoever looks (`running.state`) holds the lock for a moment too, and a supervisor that ends removes the file.

    Nobody else may open it: whoever can read a file can lock it.
    """
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise Conflict("another `remit up` is starting here", hint="remit status")
        time.sleep(0.02)


def _rewrite(path: Path, content: dict[str, Any]) -> None:
    """Whoever looks (`running.state`) finds the old or the new; what runs goes on where it cannot be written."""
    fresh = path.with_suffix(".new")
    with contextlib.suppress(OSError):
        fresh.write_text(json.dumps(content))
        fresh.chmod(0o644)
        fresh.replace(path)


def _say(descriptor: int, what: dict[str, Any]) -> None:
    _write(descriptor, json.dumps(what).encode() + b"\n")


def _write(descriptor: int, data: bytes) -> None:
    """Whoever started this may have gone since, or read no further."""
    with contextlib.suppress(OSError):
        os.write(descriptor, data)
