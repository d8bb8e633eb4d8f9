"""What a leak drill comes to, in words; and where it looks, whatever an agent has put there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from remit.cli import drill
from remit.cli.sinks import Search, Sink

CANARY = b"canary-1+/&<~77-of-a-test"
CLEAN = Sink(looked=3)


@pytest.mark.parametrize(
    ("sinks", "proving", "found", "said"),
    [
        ({"a": CLEAN, "b": CLEAN}, False, False, "the drill passed: the canary was nowhere in 6 places searched"),
        ({"a": Sink(looked=1, unread=["x", "y"])}, False, False, "nowhere in 1 place searched; 2 places could not"),
        ({"b": Sink(looked=1, found=["x"]), "a": Sink(found=["y"])}, False, True, "failed: the canary was found in a, b"),
        ({"a": Sink(looked=1, found=["x"])}, True, True, "failed, as it must where it is leaked on purpose (--prove)"),
        ({"a": CLEAN}, True, False, "the drill is worth nothing here"),
    ],
)  # fmt: skip
def test_the_verdict_of_a_drill_is_said(sinks: dict[str, Sink], proving: bool, found: bool, said: str) -> None:
    failed, words = drill.verdict(sinks, proving=proving)
    assert failed is found
    assert said in words


def test_directories_are_searched_however_deep_and_what_has_no_path_is_told(tmp_path: Path) -> None:
    """An agent makes them so; `rm` and the clean-up of pytest go down by descriptors."""
    here = os.open(tmp_path, os.O_PATH)
    for level in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_PATH, dir_fd=here)
        os.close(here)
        here = below
        if level == 1500:
            with os.fdopen(os.open("leak", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=here), "wb") as leak:
                leak.write(CANARY)
    os.close(here)
    search = Search(CANARY)
    search.tree("files", tmp_path)
    (found,) = search.sinks["files"].found
    assert found.count("/d") == 1501
    (unread,) = search.sinks["files"].unread
    assert unread.endswith(": File name too long")
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def test_a_file_that_turned_into_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    search = Search(CANARY)
    search.file("files", tmp_path / "fifo")
    assert search.sinks["files"].found == []
