"""Cells without root: the whole path as an ordinary user, where the system allows user namespaces."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cells_rig import Rig, rig

ORDINARY_USER = 64_991


@pytest.fixture(scope="module")
def node() -> Iterator[Rig]:
    user = ORDINARY_USER if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="remit-rootless-") as directory, rig(Path(directory), user) as made:
        yield made


@pytest.fixture
def workspace(node: Rig) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="remit-workspace-") as directory:
        path = Path(directory)
        if node.user is not None:
            os.chown(path, node.user, node.user)
        yield path


def test_a_command_runs_connects_and_ends(node: Rig) -> None:
    done = node.sh("id -u; curl -sS http://api.example.com/x; echo; curl -sS -4 http://203.0.113.9:8080/y; exit 5")
    assert done.returncode == 5, done.stderr
    user, first, second = done.stdout.decode().splitlines()
    assert user == "1000"
    assert json.loads(first)["token"].startswith("token-of-")
    assert (json.loads(second)["destination"], json.loads(second)["port"]) == ("203.0.113.9", 8080)


def test_what_cannot_be_limited_is_told(node: Rig) -> None:
    assert b"cannot hold the limit on memory" in node.sh("true").stderr


def test_there_is_no_way_out_of_the_namespace(node: Rig) -> None:
    with socket.socket() as host:
        host.bind(("127.0.0.1", 0))
        host.listen()
        port = host.getsockname()[1]
        done = node.sh(
            f"curl -sS -m 3 http://127.0.0.1:{port}/; ip link 2>/dev/null | grep -c '^[0-9]'; unshare -U true"
        )
    assert done.stdout.split() in ([b"1"], [])
    assert done.returncode != 0


def test_a_copy_of_the_workspace_is_merged_back(node: Rig, workspace: Path) -> None:
    (workspace / "file").write_text("one\n")
    (workspace / "old").mkdir()
    (workspace / "old/inner").write_text("x\n")
    for path in workspace.rglob("*"):
        os.chown(path, node.user or -1, node.user or -1)
    done = node.sh(
        "echo two >> file; rm -r old; mkdir old; echo y > old/new; echo made > made", "--workspace", str(workspace)
    )
    assert done.returncode == 0, done.stderr
    assert (workspace / "file").read_text() == "one\n"
    task = node.calls("/exited")[-1]["target"].split("/")[3]
    changes = {(c["path"], c["kind"]) for c in node.ask(op="diff", task=task)["changes"]}
    assert {("file", "modified"), ("made", "added"), ("old/new", "added"), ("old/inner", "deleted")} == changes
    merged = node.ask(op="merge", task=task)
    assert merged["refused"] == []
    assert (workspace / "file").read_text() == "one\ntwo\n"
    assert (workspace / "made").stat().st_uid == (node.user or os.geteuid())


def test_a_bound_workspace_is_written(node: Rig, workspace: Path) -> None:
    done = node.sh("echo x > made; mkdir -p .git/hooks; echo evil > .envrc", "--workspace", str(workspace), "--bind")
    assert (workspace / "made").read_text() == "x\n", done.stderr
    assert sorted(path.name for path in workspace.iterdir()) == ["made"]


def test_exec_joins_and_the_task_dies_whole(node: Rig) -> None:
    task = node.detached("--", "sh", "-c", "setsid sleep 4343 & exec sleep 4343")
    done = node.run(task, "--", "sh", "-c", "ls /proc/self/fd; exit 3", verb="exec")
    assert (done.returncode, done.stdout.split()) == (3, [b"0", b"1", b"2", b"3"]), done.stderr
    assert node.ask(op="stop", task=task, grace_s=0)["code"] == 137
    node.gone(task)
    left = [p for p in Path("/proc").iterdir() if p.name.isdigit() and _words(p)[:2] == [b"sleep", b"4343"]]
    assert left == []


def _words(process: Path) -> list[bytes]:
    try:
        return (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
