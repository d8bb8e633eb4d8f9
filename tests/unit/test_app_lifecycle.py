"""A start in the background, as whoever waits for it sees it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from remit.app import lifecycle
from remit.settings import Settings


def test_a_start_that_is_interrupted_says_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(read: int) -> None:
        os.close(read)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fork", lambda: 1)
    monkeypatch.setattr(os, "waitpid", lambda *_: (1, 0))
    monkeypatch.setattr(lifecycle, "_follow_start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lifecycle._detached(Settings(state_dir=tmp_path, run_dir=tmp_path), rekey=False)
    assert capsys.readouterr().err == ("\ninterrupted: the node goes on starting\nhint: remit status, or remit down\n")
