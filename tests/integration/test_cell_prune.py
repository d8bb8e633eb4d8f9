"""Real cells that ended, pruned for good: recorded first, never what runs or what nobody has merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cells_rig import Rig, until
from cells_rig import node as node
from cells_rig import workspace as workspace


def _ended(node: Rig, script: str, *options: str) -> str:
    task = node.detached(*options, "--", "sh", "-c", script)
    until(lambda: task in set().union(*_prune(node, dry_run=True)), "all of it is over")
    return task


def _prune(node: Rig, **asked: Any) -> tuple[set[str], set[str]]:
    """(pruned, kept although due)."""
    answer = node.ask(op="prune", **{"age_s": 0, **asked})
    assert answer["event"] == "pruned", answer
    return {one["task"] for one in answer["pruned"]}, {one["task"] for one in answer["kept"]}


def _there(node: Rig) -> set[str]:
    return {path.name for path in node.cells_dir.iterdir() if path.is_dir()}


def test_what_ended_goes_and_what_runs_stays(node: Rig, workspace: Path) -> None:
    quiet = _ended(node, "echo hello")
    looked = _ended(node, "cat /dev/null", "--workspace", str(workspace))
    runs = node.detached("--", "sleep", "600")
    _prune(node, dry_run=True)
    assert {quiet, looked, runs} <= _there(node), "a dry run removes nothing"
    told = len(node.calls("/v1/tasks/pruned"))
    pruned, _ = _prune(node)
    assert {quiet, looked} <= pruned
    assert runs not in pruned
    assert _there(node) & {quiet, looked, runs} == {runs}
    calls = node.calls("/v1/tasks/pruned")[told:]
    assert len(calls) == 1
    assert set(calls[0]["body"]["tasks"]) == pruned
    assert runs in calls[0]["body"]["kept"]
    assert node.ask(op="logs", task=quiet)["kind"] == "not-found"
    assert [one["task"] for one in node.tasks()] == [runs]
    node.ask(op="stop", task=runs, grace_s=0)


def test_changes_that_nobody_merged_stay_until_they_are_asked_for(node: Rig, workspace: Path) -> None:
    task = _ended(node, "echo work > new.txt", "--workspace", str(workspace))
    assert task in _prune(node)[1]
    assert task in _there(node)
    assert node.ask(op="merge", task=task)["event"] == "merged"
    assert node.ask(op="diff", task=task)["changes"] == []
    assert task in _prune(node)[0], "what was merged is not lost"
    other = _ended(node, "echo more > other.txt", "--workspace", str(workspace))
    assert other in _prune(node, unmerged=True)[0]
    assert other not in _there(node)


def test_nothing_goes_that_cannot_be_recorded(node: Rig) -> None:
    task = _ended(node, "echo hello")
    unrecorded = node.directory / "unrecorded"
    unrecorded.touch()
    try:
        assert node.ask(op="prune", age_s=0)["kind"] == "unavailable"
    finally:
        unrecorded.unlink()
    assert task in _there(node)


def test_what_a_killed_daemon_left_half_removed_goes_with_the_next(node: Rig) -> None:
    half = node.cells_dir / ".gone-t-aaaaaaaaaa"
    (half / "upper").mkdir(parents=True)
    _ended(node, "echo hello")
    _prune(node)
    until(lambda: not half.exists(), "it is gone")
