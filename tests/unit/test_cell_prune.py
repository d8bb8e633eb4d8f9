"""What ended tasks left is measured and removed, however an agent built it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from deep import dig, opened

from remit.cell import prune, retention, trees

TASK = "t-aaaaaaaaaa"
ALL = retention.Retention(age_s=0, total_bytes=0)


@pytest.fixture
def cells() -> Iterator[Path]:
    """Not below `tmp_path`: pytest removes what is left there by recursion."""
    made = Path(tempfile.mkdtemp(prefix="remit-deep-"))
    (made / TASK / "upper").mkdir(parents=True)
    try:
        yield made
    finally:
        with opened(made.parent) as top:
            trees.remove(made.name, top)


def _pruned(cells: Path) -> retention.Plan:
    plan = prune.find(cells, cells, [TASK], ALL, unmerged_too=True)
    prune.remove(cells, plan)
    return plan


def test_a_tree_deeper_than_any_recursion_is_measured_and_removed(cells: Path) -> None:
    dig(cells / TASK / "upper", 3000)
    (cells / TASK / "upper/data").write_bytes(bytes(100_000))
    ((left, _),) = _pruned(cells).gone
    assert left.size_bytes >= 100_000
    assert list(cells.iterdir()) == []


def test_what_cannot_be_removed_stays_for_the_next_round_and_stops_no_other(
    cells: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (cells / ".gone-t-bbbbbbbbbb").mkdir()
    remove = os.rmdir

    def refused(name: str, *, dir_fd: int) -> None:
        if name == ".gone-t-bbbbbbbbbb":
            raise PermissionError(1, "Operation not permitted")
        remove(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", refused)
    _pruned(cells)
    assert [path.name for path in cells.iterdir()] == [".gone-t-bbbbbbbbbb"]
    assert "task t-bbbbbbbbbb was not removed: [Errno 1]" in caplog.text
    monkeypatch.undo()


def test_the_last_byte_counts_and_not_what_lies_deeper(cells: Path) -> None:
    (cells / TASK / "output.log").write_text("x")
    (cells / TASK / "upper/later").write_text("x")
    for path, time in ((cells / TASK, 1), (cells / TASK / "upper", 2), (cells / TASK / "output.log", 3)):
        os.utime(path, (time, time))
    ((left, _),) = prune.find(cells, cells, [TASK], ALL, unmerged_too=True).gone
    assert left.last == 3
