"""Bringing changes back, and looking through a workspace, where whoever made it meant to exhaust whoever reads it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from deep import dig, opened

from remit.cell import changes, guard, merge, trees, wire, workspace
from remit.core.errors import Conflict

DEEP = 100_000
OWNER = (os.geteuid(), os.getegid())


@pytest.fixture
def place() -> Iterator[Path]:
    """Not below `tmp_path`: pytest removes what is left there by recursion."""
    made = Path(tempfile.mkdtemp(prefix="remit-deep-"))
    try:
        yield made
    finally:
        with opened(made.parent) as top:
            trees.remove(made.name, top)


@pytest.fixture
def upper(place: Path) -> Path:
    (place / "upper").mkdir()
    return place / "upper"


@pytest.fixture
def lower(place: Path) -> Path:
    (place / "lower").mkdir()
    return place / "lower"


@contextlib.contextmanager
def few_descriptors() -> Iterator[None]:
    """Fewer, besides those that other tests left open, than a tree of this depth would need with one a level."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, taken + 256), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def apply(upper: Path, lower: Path, *, started_ns: int = 1 << 62, **how: Any) -> dict[str, Any]:
    return merge.apply(upper, lower, started_ns=started_ns, owner=OWNER, **{"paths": None, "force": False, **how})


@pytest.mark.timeout(400)  # fifteen seconds where nothing else runs
def test_a_tree_100000_deep_is_removed_without_a_stack_or_descriptors(upper: Path, lower: Path) -> None:
    (lower / "x").mkdir()
    dig(lower / "x", DEEP)
    (upper / "x").write_text("now a file")
    with few_descriptors():
        told = apply(upper, lower)
    assert told == {"paths": ["x"], "refused": [], "untold": 0}
    assert (lower / "x").read_text() == "now a file"


def test_what_the_operator_changed_in_the_deep_is_not_removed(upper: Path, lower: Path) -> None:
    (lower / "x").mkdir()
    dig(lower / "x", 2000)
    with opened(lower) as top:
        bottom = trees.newest_ns("x", top)
    (upper / "x").write_text("now a file")
    (told,) = apply(upper, lower, started_ns=bottom - 1)["refused"]
    assert told == {"path": "x", "why": "something in it changed in the workspace meanwhile"}
    assert (lower / "x").is_dir()


def test_a_tree_that_an_agent_made_too_deep_is_refused_by_name(upper: Path, lower: Path) -> None:
    dig(upper, 1000)
    (refused,) = apply(upper, lower)["refused"]
    assert refused["why"] == "it is too deep to be looked into"


def test_a_directory_that_was_moved_meanwhile_is_not_left_by_its_new_parent(lower: Path) -> None:
    """`..` of a directory that was moved is another one: nothing there is removed."""
    (lower / "x/inner").mkdir(parents=True)
    (lower / "elsewhere").mkdir()
    (lower / "elsewhere/inner.txt").touch()
    with opened(lower) as top, pytest.raises(OSError, match="Stale"):
        walk = trees.inside_out("x", top)
        (lower / "x/inner/file").touch()
        assert next(walk)[1] == "file"
        (lower / "x/inner").rename(lower / "elsewhere/inner")
        next(walk)
    assert (lower / "elsewhere/inner.txt").exists()


def test_too_many_changes_are_not_held_and_none_is_merged(
    upper: Path, lower: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MAX_HELD_BYTES", 10_000)
    for number in range(40):
        (upper / f"{number}").touch()
    with pytest.raises(Conflict, match="too many to be merged at once"):
        apply(upper, lower)
    assert list(lower.iterdir()) == []
    assert apply(upper, lower, paths=["1", "2"])["paths"] == ["1", "2"]


@pytest.mark.parametrize("hostile", ["\x01", "\x7f", "é", "\udcff"])
def test_what_is_told_fits_into_a_message_whatever_the_names_are(upper: Path, lower: Path, hostile: str) -> None:
    """A client takes a frame of a MiB; JSON makes six bytes of some that an agent may choose."""
    for number in range(4000):
        (upper / f"{number:04}{hostile * 110}").touch()
    found, patch = changes.read(upper, lower)
    assert len(json.dumps({"event": "diff", "changes": found, "patch": patch})) < wire.MAX_JSON
    assert "not all shown" in found[-1]["type"]
    told = apply(upper, lower)
    assert len(json.dumps({"event": "merged", **told})) < wire.MAX_JSON
    assert len(told["paths"]) + told["untold"] == 4000
    again = apply(upper, lower, started_ns=0)
    assert len(json.dumps({"event": "merged", **again})) < wire.MAX_JSON


def test_a_text_that_json_makes_long_is_cut(upper: Path, lower: Path) -> None:
    for number in range(3):
        (upper / f"{number}.txt").write_text("\x01" * 200_000 + "\n")
    found, patch = changes.read(upper, lower)
    assert len(json.dumps({"event": "diff", "changes": found, "patch": patch})) < wire.MAX_JSON
    assert "too long to be shown" in patch


def test_a_guard_that_cannot_be_placed_leaves_none_of_the_others(lower: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, chown = list[str](), os.chown

    def refuse(path: Any, *rest: Any, **how: Any) -> None:
        made.append(str(path))
        if len(made) == 4:
            raise PermissionError(1, "Operation not permitted")
        chown(path, *rest, **how)

    monkeypatch.setattr(os, "chown", refuse)
    with opened(lower) as root, pytest.raises(PermissionError):
        guard.prepare(root, guard.look(root), OWNER)
    assert len(made) == 4
    assert list(lower.iterdir()) == []


def test_what_was_placed_and_then_used_stays(lower: Path) -> None:
    with opened(lower) as root:
        prepared = guard.prepare(root, guard.look(root), OWNER)
        (lower / ".envrc").write_text("theirs")
        guard.clear(root, prepared)
    assert [one.name for one in lower.iterdir()] == [".envrc"]


def test_a_workspace_too_deep_to_be_looked_through_is_not_bound(lower: Path) -> None:
    """A socket, or a repository, may be at the bottom of it."""
    dig(lower, 5000, "d" * 200)
    with opened(lower) as root, few_descriptors(), pytest.raises(Conflict, match="directories deep"):
        guard.prepare(root, guard.look(root), OWNER)
    assert [one.name for one in lower.iterdir()] == ["d" * 200]


def test_what_is_below_the_root_is_guarded_where_it_stands(lower: Path) -> None:
    (lower / "a/.git/hooks").mkdir(parents=True)
    (lower / "a/.git/objects/.vscode").mkdir(parents=True)
    with opened(lower) as root:
        prepared = guard.prepare(root, guard.look(root), OWNER)
        guard.clear(root, prepared)
    held = {str(one.path): one.writable for one in prepared.guards}
    assert held["a"] is True
    assert held["a/.git"] is True
    assert held["a/.git/hooks"] is False
    assert PurePosixPath("a/.git/config") in {path for path, _, _ in prepared.placed}
    assert "a/.git/objects/.vscode" not in held


def test_what_another_merge_has_half_written_is_in_nobodys_way(upper: Path, lower: Path) -> None:
    half = lower / f".remit-merge-{os.getpid()}"
    half.write_text("half")
    (upper / "file").write_text("whole")
    (upper / "link").symlink_to("file")
    assert apply(upper, lower) == {"paths": ["file", "link"], "refused": [], "untold": 0}
    assert half.read_text() == "half"


def test_another_directory_in_the_place_of_the_one_that_was_looked_through_is_not_bound(
    upper: Path, lower: Path, place: Path
) -> None:
    looked = workspace.look(lower)
    owner = workspace.Owner(user=0, group=0, agent=0, agent_group=0)
    with opened(upper) as other, contextlib.ExitStack() as undo, pytest.raises(OSError, match="taken its place"):
        workspace.mount_direct(other, looked, place, lower, owner, undo)
    assert list(upper.iterdir()) == []
