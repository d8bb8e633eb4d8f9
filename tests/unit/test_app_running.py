"""`remit down`: whom it tells to stop."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from remit import settings
from remit.app import running
from remit.core.errors import Unavailable


def test_a_node_that_has_not_said_yet_who_it_is_gets_no_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 0 would be the process group of whoever asks."""
    where = settings.load({"run_dir": tmp_path, "state_dir": tmp_path})
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *to: told.append(to))
    monkeypatch.setattr(running, "STOP_TIMEOUT_S", 0.2)
    with where.supervisor_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="did not stop"):
            running.down(where)
    assert told == []
