"""How a process tells the supervisor that it is ready, and that its event loop still turns.

A killed process is seen by its parent at once; a stalled one is not, and a stalled decision service would leave every
request of the node waiting. Each process therefore beats on a pipe from its event loop (the idea of systemd's
watchdog, sd_notify(3)); the supervisor kills what stops beating.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal

READY = b"R"
BEAT = b"."
FAILED = b"E"
"""What follows is a JSON object with `detail` and `hint`: why the process does not start."""
INTERVAL_S = 0.5
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Notifier:
    """The child's end. `descriptor` is the inherited write end of the supervisor's pipe; -1 outside a supervisor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)

    async def run(self) -> None:
        """Say ready now, then beat until cancelled. A supervisor that is gone ends this process."""
        self._write(READY)
        while True:
            await asyncio.sleep(INTERVAL_S)
            self._write(BEAT)

    def failed(self, detail: str, hint: str) -> None:
        """Say why this process ends, so that `remit up` can say it instead of naming a log."""
        self._write(FAILED + json.dumps({"detail": detail[:500], "hint": hint[:500]}).encode())

    def _write(self, what: bytes) -> None:
        if self._descriptor >= 0:
            try:
                os.write(self._descriptor, what)
            except BrokenPipeError:
                signal.raise_signal(signal.SIGTERM)


def die_with_parent(parent: int, by: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for signal `by` when the parent dies (prctl(2)); end now if it already has.

    Holds across execve(2), but not across a change of user: make that first.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)
