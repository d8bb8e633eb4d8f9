"""One command in a cell: started through bubblewrap, its terminal or pipes, its signals, its end.

The order matters: the new process joins the cell's groups and network namespace as root, then becomes the cell's own
uid for good, and only then bubblewrap runs, which makes everything else without privilege. It dies with the daemon
(PR_SET_PDEATHSIG), and with it everything in its pid namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import resource
import signal
import struct
import subprocess
import termios
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from remit.cell import kernel, limits, output, sandbox, seccomp
from remit.core.errors import Unavailable

START_TIMEOUT_S = 10.0
MAX_INFO = 4096
SIGNALS = {
    name: getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "KILL", "CONT")
}
_BWRAP = "/usr/bin/bwrap"
_FIRST_HIGH = 64
_JOINED = (sandbox.JOINED.outer_user, sandbox.JOINED.inner_user, sandbox.JOINED.pid)
_USUAL_FILES = 1024
"""What a process begins with; it may raise it (getrlimit(2))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a process of a cell stands on: the namespace of its network, its groups, the uid it has on the host."""

    network: int
    group: limits.Group
    user: int
    files: int
    """The most descriptors that a process may have."""


class Process:
    """A running command. `code` after `wait`: its exit code, 128+n where signal n ended it."""

    def __init__(self, child: subprocess.Popen[bytes], *, first: int, joined: bool, terminal: int | None) -> None:
        self._child, self._joined = child, joined
        self.first = first
        """Host pid of the process that bubblewrap reported: pid 1 of the cell, or the command that joined it."""
        self.terminal = terminal
        self.stdin: int | None = None
        self.outputs: list[tuple[bytes, int]] = []
        self._handle = os.pidfd_open(child.pid)

    async def wait(self) -> int:
        await output.readable(self._handle)
        code = self._child.wait()
        return code if code >= 0 else 128 - code

    def command(self) -> int | None:
        """Host pid of the agent's own first process, or None if there is none (yet, or any more)."""
        if self._joined:
            return self.first
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/{self.first}/task/{self.first}/children").read_text().split()[0])
        return None

    def signal(self, number: int) -> None:
        """Send to what a terminal would send to: the foreground group, else the command's own group."""
        group = 0
        if self.terminal is not None:
            with contextlib.suppress(OSError):
                group = struct.unpack("i", fcntl.ioctl(self.terminal, termios.TIOCGPGRP, b"\0\0\0\0"))[0]
        group = group if group > 1 else (self.command() or 0)
        # Never our own group (0), all (-1), nor bubblewrap's outside.
        if group > 1 and group != self._child.pid:
            with contextlib.suppress(OSError):
                os.killpg(group, number)

    def resize(self, rows: int, columns: int) -> None:
        if self.terminal is not None:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()

    def close_stdin(self) -> None:
        """End of input: closes the pipe, or types the terminal's end-of-file character."""
        if self.terminal is not None:
            with contextlib.suppress(OSError):
                os.write(self.terminal, b"\x04")
        elif self.stdin is not None:
            os.close(self.stdin)
            self.stdin = None

    def close(self) -> None:
        descriptors = {self._handle, *(number for _, number in self.outputs)}
        descriptors |= {number for number in (self.stdin, self.terminal) if number is not None}
        for number in descriptors:
            with contextlib.suppress(OSError):
                os.close(number)


async def start(
    spec: sandbox.Spec, ground: Ground, *, terminal: tuple[int, int] | None, inputs: bool = True
) -> Process:
    """Start what `spec` says; its `seccomp` and `info` are filled in here. `terminal`: (rows, columns) of a new one.

    `Unavailable`: bubblewrap could not make the sandbox.
    """
    with contextlib.ExitStack() as undo:
        ours, theirs, master = _streams(ground.user, terminal, inputs)
        for number in theirs:
            undo.callback(_close, number)
        filters = [_memory(program) for program in seccomp.programs()]
        told, tell = (_high(number) for number in os.pipe())
        whole = replace(spec, seccomp=tuple(filters), info=tell)
        listed = _memory(b"".join(os.fsencode(item) + b"\0" for item in sandbox.arguments(whole)))
        for number in (*filters, told, listed):
            undo.callback(_close, number)
        sender = undo.enter_context(contextlib.ExitStack())  # closed once: its number may be somebody else's afterwards
        sender.callback(_close, tell)
        joined = _JOINED if spec.join is not None else ()
        failed = contextlib.ExitStack()
        for number in {number for number in ours if number >= 0}:
            failed.callback(_close, number)
        with failed:
            try:
                child = subprocess.Popen(
                    [_BWRAP, "--args", str(listed), "--", *spec.argv],
                    stdin=theirs[0],
                    stdout=theirs[1],
                    stderr=theirs[2],
                    pass_fds=(*filters, tell, listed, *joined),
                    env={},
                    cwd="/",
                    preexec_fn=_entering(ground, spec.join),
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise Unavailable(f"the sandbox does not start: {error}", hint="remit doctor") from error
            sender.close()
            try:
                first = await _reported(told)
            except Unavailable as error:
                child.kill()
                child.wait()
                said = _left(ours[2] if ours[2] >= 0 else ours[1])
                raise Unavailable(f"{error}: {said or 'no message'}", hint="remit doctor") from error
            failed.pop_all()
    process = Process(child, first=first, joined=spec.join is not None, terminal=master)
    process.stdin = ours[0] if ours[0] >= 0 else None
    process.outputs = [(b"1", ours[1])] + ([(b"2", ours[2])] if ours[2] >= 0 else [])
    return process


def _entering(ground: Ground, join: sandbox.Join | None) -> Callable[[], None]:
    early = seccomp.entering()
    bounds = (
        # 1, not 0: to a core_pattern that is a pipe, 0 means no limit (core(5)), and that runs on the host as root.
        (resource.RLIMIT_CORE, (1, 1)),
        (resource.RLIMIT_NOFILE, (_USUAL_FILES, ground.files)),
    )

    def enter() -> None:
        if join is not None:
            for ours, theirs in zip((join.outer_user, join.inner_user, join.pid), _JOINED, strict=True):
                os.dup2(ours, theirs, inheritable=True)
        ground.group.join()
        kernel.setns(ground.network, kernel.CLONE_NEWNET)
        os.setsid()
        os.umask(0o022)
        for kind, (soft, hard) in bounds:
            ours = resource.getrlimit(kind)[1]
            most = hard if ours == resource.RLIM_INFINITY else min(hard, ours)
            resource.setrlimit(kind, (min(soft, most), most))
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(ground.user, ground.user, ground.user)
            os.setresuid(ground.user, ground.user, ground.user)
        else:
            kernel.keep_from_children()
        kernel.die_with_parent(signal.SIGKILL)
        kernel.load_filter(early)

    return enter


def _left(number: int) -> str:
    """What stands in a non-blocking pipe or terminal, if anything does."""
    with contextlib.suppress(OSError):
        return os.read(number, 2000).decode(errors="replace").strip()
    return ""


async def _reported(told: int) -> int:
    """The pid that bubblewrap writes when its namespaces stand."""
    os.set_blocking(told, False)
    text = b""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            async for data in output.chunks(told):
                text += data
                with contextlib.suppress(ValueError):
                    return int(json.loads(text)["child-pid"])
                if len(text) > MAX_INFO:
                    break
    except TimeoutError as error:
        raise Unavailable("bubblewrap did not make the sandbox in time") from error
    raise Unavailable("bubblewrap could not make the sandbox")


def _streams(
    user: int, terminal: tuple[int, int] | None, inputs: bool
) -> tuple[tuple[int, int, int], tuple[int, int, int], int | None]:
    """(ours, the command's) descriptors of stdin, stdout, stderr, and the terminal's master; -1 where there is none.

    They belong to the agent's uid, so that it may open /dev/stdout again, as scripts do.
    """
    if terminal is not None:
        master, slave = os.openpty()
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *terminal, 0, 0))
        _give(slave, user)
        os.set_blocking(master, False)
        return (master, master, -1), (slave, slave, slave), master
    if inputs:
        give, ours_in = os.pipe()
        theirs_in, ours = give, ours_in
        os.set_blocking(ours, False)
    else:
        theirs_in, ours = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
    out, their_out = os.pipe()
    err, their_err = os.pipe()
    for number in (out, err):
        os.set_blocking(number, False)
    for number in (their_out, their_err, *((theirs_in,) if inputs else ())):
        _give(number, user)
    return (ours, out, err), (theirs_in, their_out, their_err), None


def _give(number: int, user: int) -> None:
    if os.geteuid() == 0:
        os.fchown(number, user, -1)


def _memory(content: bytes) -> int:
    number = os.memfd_create("remit", os.MFD_CLOEXEC)
    os.write(number, content)
    os.lseek(number, 0, os.SEEK_SET)
    return _high(number)


def _high(number: int) -> int:
    """`number` moved out of the way of the numbers that mean something to a joining process."""
    moved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _FIRST_HIGH)
    os.close(number)
    return moved


def reserve() -> None:
    """Make sure that the numbers of `sandbox.JOINED` are open here: a child may only be given what is."""
    for number in _JOINED:
        try:
            os.fstat(number)
        except OSError:
            null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            if null != number:
                os.dup2(null, number, inheritable=False)
                os.close(null)


def _close(number: int) -> None:
    with contextlib.suppress(OSError):
        os.close(number)
