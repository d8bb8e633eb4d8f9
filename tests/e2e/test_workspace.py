"""A workspace through the command line: copy-on-write, diff, merge with its refusals, and --bind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from instance import Instance, wait_for

pytestmark = pytest.mark.xdist_group("instance")

OWNER = 12345


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory of a user who is not root, in a place that others cannot enter."""
    work = tmp_path / "work"
    (work / "src").mkdir(parents=True)
    (work / "kept.txt").write_text("kept\n")
    (work / "src" / "main.py").write_text("print(1)\n")
    (work / "gone.txt").write_text("gone\n")
    for path in (work, *work.rglob("*")):
        os.chown(path, OWNER, OWNER)
    return work


def run(remit: Instance, work: Path, script: str, *options: str) -> str:
    """Run `script` on the workspace; the task's id."""
    script = f"set -e; {script}; : {time.monotonic_ns()}"
    done = remit.run("nothing", "sh", "-c", script, options=["--workspace", str(work), *options])
    assert done.returncode == 0, done.stderr
    (task,) = [one["id"] for one in remit.tasks("--all") if one["command"][-1] == script]
    return str(task)


def changes(remit: Instance, task: str) -> dict[str, str]:
    found = json.loads(remit.cli("diff", task, "--json").stdout)["changes"]
    return {one["path"]: one["kind"] for one in found}


def merged(remit: Instance, task: str, *arguments: str, code: int = 0) -> tuple[set[str], dict[str, str]]:
    """(paths that were merged, why by path that was refused)."""
    done = remit.cli("merge", task, *arguments, "--json", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    return set(answer["paths"]), {one["path"]: one["why"] for one in answer["refused"]}


def tree(work: Path) -> dict[str, str]:
    return {
        str(path.relative_to(work)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in work.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_changes_stay_beside_the_workspace_until_they_are_merged(remit: Instance, work: Path) -> None:
    before = tree(work)
    task = run(
        remit,
        work,
        "echo more >> kept.txt; mkdir -p new/deep; echo x > new/deep/file; rm gone.txt; ln -s kept.txt link",
    )
    assert tree(work) == before
    expected = {"kept.txt": "modified", "new": "added", "new/deep": "added", "new/deep/file": "added"}
    assert changes(remit, task) == {**expected, "gone.txt": "deleted", "link": "added"}
    shown = remit.cli("diff", task).stdout
    assert "+more" in shown
    assert "-gone" in shown
    paths, refused = merged(remit, task)
    assert (paths, refused) == ({*expected, "gone.txt", "link"}, {})
    assert tree(work) == {
        "kept.txt": "kept\nmore\n", "src/main.py": "print(1)\n", "new/deep/file": "x\n", "link": "kept.txt",
    }  # fmt: skip
    assert {os.lstat(path).st_uid for path in work.rglob("*")} == {OWNER}
    assert changes(remit, task) == {}


def test_a_run_that_changed_its_copy_says_where_the_changes_are(remit: Instance, work: Path) -> None:
    options = ["--workspace", str(work)]
    done = remit.run("nothing", "sh", "-c", "echo a > a", options=options)
    task = remit.tasks("--all")[-1]["id"]
    assert done.stderr == f"remit: what it changed is kept: remit diff {task}, remit merge {task}\n"
    assert remit.run("nothing", "cat", "kept.txt", options=options).stderr == ""


def test_only_the_named_paths_are_merged(remit: Instance, work: Path) -> None:
    task = run(remit, work, "echo a > a; echo b > b; echo c > src/c")
    assert merged(remit, task, "a", "src") == ({"a", "src/c"}, {})
    assert not (work / "b").exists()


def test_what_the_user_changed_meanwhile_is_not_overwritten_without_force(remit: Instance, work: Path) -> None:
    task = run(remit, work, "echo agent > kept.txt; echo agent > appeared; rm gone.txt; echo fine > fine")
    (work / "kept.txt").write_text("user\n")
    (work / "appeared").write_text("user\n")
    (work / "gone.txt").write_text("user\n")
    paths, refused = merged(remit, task, code=5)
    assert paths == {"fine"}
    assert set(refused) == {"kept.txt", "appeared", "gone.txt"}
    assert all("meanwhile" in why for why in refused.values()), refused
    assert tree(work)["kept.txt"] == tree(work)["appeared"] == tree(work)["gone.txt"] == "user\n"
    assert merged(remit, task, "--force") == ({"kept.txt", "appeared", "gone.txt"}, {})
    assert tree(work)["kept.txt"] == "agent\n"
    assert not (work / "gone.txt").exists()


def test_what_would_run_later_is_merged_only_by_name_and_force(remit: Instance, work: Path) -> None:
    guarded = (".git/hooks/pre-commit", ".git/config", ".envrc", ".vscode/tasks.json")
    script = "mkdir -p .git/hooks .vscode; " + "; ".join(f"echo evil > {path}" for path in guarded)
    task = run(remit, work, f"{script}; echo fine > fine")
    paths, refused = merged(remit, task, code=5)
    assert paths == {"fine"}
    assert set(guarded) <= set(refused)
    assert set(guarded) <= set(merged(remit, task, "--force", code=5)[1])
    merged(remit, task, ".envrc", code=5)
    assert not [path for path in guarded if (work / path).exists()]
    assert merged(remit, task, ".envrc", "--force") == ({".envrc"}, {})
    assert (work / ".envrc").read_text() == "evil\n"


def test_links_out_special_files_and_set_user_id_bits_stay_behind(remit: Instance, work: Path) -> None:
    task = run(
        remit, work,
        "ln -s /etc/passwd out; ln -s ../../up up; ln -s src inside; mkfifo pipe; "
        "cp /bin/true tool; ! chmod 6755 tool 2>/dev/null; chmod 755 tool; cp /bin/true sticky; chmod 1777 sticky",
    )  # fmt: skip
    paths, refused = merged(remit, task, code=5)
    assert paths == {"inside", "tool", "sticky"}
    assert set(refused) == {"out", "up", "pipe"}
    assert (work / "tool").stat().st_mode & 0o7777 == 0o755
    assert (work / "sticky").stat().st_mode & 0o7777 == 0o777
    assert set(merged(remit, task, "--force", code=5)[1]) == {"out", "up", "pipe"}


def test_a_task_that_runs_is_not_merged(remit: Instance, work: Path) -> None:
    detached = remit.cli("run", "--role", "nothing", "--workspace", str(work), "--detach", "--", "sleep", "1000")
    task = detached.stdout.strip()
    refused = remit.cli("merge", task, check=False)
    assert refused.returncode == 5
    assert f"hint: remit stop {task}" in refused.stderr
    remit.cli("stop", task, "--grace", "0")
    assert remit.cli("merge", task).returncode == 0


def test_a_bound_workspace_is_written_directly_as_its_owner(remit: Instance, work: Path) -> None:
    subprocess.run(["git", "init", "-q", str(work)], check=True)
    (work / ".git" / "hooks" / "pre-commit").write_text("user's\n")
    task = run(
        remit, work,
        "echo agent > made; echo more >> kept.txt; rm gone.txt; "
        "for path in .git/hooks/pre-commit .git/hooks/new .git/config .envrc .vscode/tasks.json; do "
        "(echo evil > $path) 2>/dev/null && exit 9; done; mv .git .other 2>/dev/null && exit 9; true",
        "--bind",
    )  # fmt: skip
    assert (work / "made").read_text() == "agent\n"
    assert ((work / "made").stat().st_uid, (work / "made").stat().st_gid) == (OWNER, OWNER)
    assert (work / "kept.txt").read_text() == "kept\nmore\n"
    assert not (work / "gone.txt").exists()
    assert (work / ".git" / "hooks" / "pre-commit").read_text() == "user's\n"
    assert sorted(path.name for path in work.iterdir()) == [".git", "kept.txt", "made", "src"]
    done = remit.cli("diff", task, check=False)
    assert (done.returncode, "--bind" in done.stderr) == (5, True)


@pytest.mark.parametrize("kind", ["socket", "fifo"])
def test_a_workspace_with_a_wire_out_is_not_bound(remit: Instance, work: Path, kind: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "socket":
            listener.bind(str(work / "src" / "wire"))
        else:
            os.mkfifo(work / "src" / "wire")
        done = remit.run("nothing", "true", options=["--workspace", str(work), "--bind"])
    assert done.returncode == 5, done.stderr
    assert "src/wire" in done.stderr
    assert "hint: " in done.stderr
    assert sorted(path.name for path in work.iterdir()) == ["gone.txt", "kept.txt", "src"]


@pytest.mark.parametrize("path", ["/etc", "/", "/nowhere/at/all", "{state}"])
def test_a_directory_that_is_no_workspace_is_named(remit: Instance, path: str) -> None:
    path = path.format(state=remit.state)
    done = remit.run("nothing", "true", options=["--workspace", path])
    assert done.returncode in (2, 4)
    assert f"error: {path} " in done.stderr or f"workspace {path} " in done.stderr
    assert "hint: " in done.stderr


def test_what_ended_is_pruned_and_what_is_not_merged_stays(remit: Instance, work: Path) -> None:
    remit.run("nothing", "echo", "hello", check=True)
    quiet = max(remit.tasks("--all"), key=lambda task: task["created"])["id"]
    remit.run("nothing", "sh", "-c", "echo work > new.txt", options=["--workspace", str(work)], check=True)
    busy = max(remit.tasks("--all"), key=lambda task: task["created"])["id"]

    def due() -> dict[str, dict[str, object]]:
        found = json.loads(remit.cli("prune", "--dry-run", "--older-than", "0", "--json").stdout)
        assert found["dry_run"] is True
        return {one["task"]: one for kind in ("pruned", "kept") for one in found[kind]}

    wait_for(lambda: {quiet, busy} <= set(due()), "both are over")
    assert due()[busy]["why"] == "its changes are not merged"
    done = remit.cli("prune", "--older-than", "0")
    assert f"remit diff {busy}" in done.stderr or busy in done.stdout
    left = {task["id"] for task in remit.tasks("--all")}
    assert quiet not in left
    assert busy in left
    gone = remit.cli("logs", quiet, check=False)
    assert (gone.returncode, gone.stderr.count("error: ")) == (4, 1), gone.stderr
    (record,) = [one for one in remit.audit(kind="operator") if one["action"] == "task.prune"]
    assert quiet in record["tasks"]
    remit.cli("prune", "--older-than", "0", "--unmerged")
    assert busy not in {task["id"] for task in remit.tasks("--all")}


@pytest.mark.parametrize("options", [("--older-than", "soon"), ("--total", "much")])
def test_what_is_no_age_or_size_is_told(remit: Instance, options: tuple[str, str]) -> None:
    done = remit.cli("prune", *options, check=False)
    assert done.returncode == 2
    assert options[1] in done.stderr
