"""The instance that is up here, found through the locked state file of its supervisor; and `remit down`.

A module of its own, because `lifecycle` imports all that a start needs, which takes longer than a stop.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from typing import Any

from remit.core.errors import Unavailable
from remit.settings import Settings

STOP_TIMEOUT_S = 30.0


def down(settings: Settings) -> bool:
    """Stop the node and wait until it is gone; False where none was up. `Unavailable` where it does not stop."""
    running, told = state(settings), 0
    if running is None:
        return False
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        if running["pid"] and not told:  # 0 while it starts: that would be our own process group
            told = running["pid"]
            with contextlib.suppress(ProcessLookupError):
                os.kill(told, signal.SIGTERM)
        time.sleep(0.05)
        running = state(settings)
        if running is None:
            return True
    raise Unavailable(f"pid {told} did not stop in {STOP_TIMEOUT_S:g} s", hint=f"see {settings.log_dir}")


def state(settings: Settings) -> dict[str, Any] | None:
    """What the supervisor that holds the lock says of itself (pid, state, processes), or None where none does."""
    try:
        with settings.supervisor_lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(settings.supervisor_file.read_bytes())
            return found
        return {"pid": 0, "state": "starting"}
    except OSError:
        return None
    return None
