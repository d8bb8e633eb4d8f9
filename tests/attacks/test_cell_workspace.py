"""The workspace as an exit: what an agent leaves in a directory for its operator, in a real cell."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cells_rig import Rig, until
from cells_rig import node as node
from cells_rig import workspace as workspace


def _worked(node: Rig, workspace: Path, script: str, *options: str) -> str:
    """Run `script` in the workspace; its task, over."""
    done = node.sh(script, "--workspace", str(workspace), *options)
    assert done.returncode == 0, done.stderr
    (call,) = [call for call in node.calls("/exited")][-1:]
    return str(call["target"].split("/")[3])


def _merged(node: Rig, task: str, **options: Any) -> tuple[set[str], dict[str, str]]:
    answer = node.ask(op="merge", task=task, **options)
    assert answer["event"] == "merged", answer
    return set(answer["paths"]), {item["path"]: item["why"] for item in answer["refused"]}


def test_what_an_agent_writes_stays_out_until_it_is_merged(node: Rig, workspace: Path) -> None:
    (workspace / "kept.txt").write_text("one\n")
    (workspace / "gone.txt").write_text("x\n")
    task = _worked(
        node, workspace, "echo two >> kept.txt; rm gone.txt; mkdir d; echo new > d/new.txt; pwd", "--cwd", ""
    )
    assert (workspace / "kept.txt").read_text() == "one\n"
    answer = node.ask(op="diff", task=task)
    assert {(c["path"], c["kind"], c["type"]) for c in answer["changes"]} == {
        ("kept.txt", "modified", "file"),
        ("gone.txt", "deleted", "file"),
        ("d", "added", "directory"),
        ("d/new.txt", "added", "file"),
    }
    assert "+two\n" in answer["patch"]
    paths, refused = _merged(node, task)
    assert paths == {"kept.txt", "gone.txt", "d", "d/new.txt"}
    assert refused == {}
    assert (workspace / "kept.txt").read_text() == "one\ntwo\n"
    assert not (workspace / "gone.txt").exists()
    made = (workspace / "d/new.txt").stat()
    assert (made.st_uid, made.st_gid) == (workspace.stat().st_uid, workspace.stat().st_gid)
    assert node.ask(op="diff", task=task)["changes"] == []


GUARDED = [
    ".git/hooks/pre-commit", ".git/config", ".git/commondir", ".git/info/attributes", ".envrc", ".vscode/tasks.json",
    ".idea/workspace.xml", ".husky/pre-commit", ".devcontainer/devcontainer.json", "deep/down/.git/hooks/post-checkout",
    "deep/.envrc", ".bashrc",
]  # fmt: skip


def test_files_that_run_later_are_merged_only_by_name_and_force(node: Rig, workspace: Path) -> None:
    script = "; ".join(f"mkdir -p $(dirname {path}); echo evil > {path}" for path in GUARDED)
    task = _worked(node, workspace, f"{script}; echo fine > fine.txt")
    paths, refused = _merged(node, task, force=True)
    assert "fine.txt" in paths
    assert set(GUARDED) <= set(refused)
    assert not any((workspace / path).exists() for path in GUARDED)
    _, refused = _merged(node, task, paths=[".envrc"])
    assert "runs later" in refused[".envrc"] or "run later" in refused[".envrc"]
    paths, _ = _merged(node, task, paths=[".envrc"], force=True)
    assert paths == {".envrc"}


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../outside", "a/../../outside", "d/../../x", "./../x", "/", "..", ".git/config", "../../.ssh/id"],
)
def test_links_out_of_the_workspace_are_refused(node: Rig, workspace: Path, target: str) -> None:
    task = _worked(node, workspace, f"mkdir -p d a; ln -s '{target}' link; ln -s fine inside")
    paths, refused = _merged(node, task)
    assert "leads out" in refused["link"]
    assert "inside" in paths
    assert not (workspace / "link").is_symlink()


def test_a_link_in_place_of_a_directory_redirects_no_merge(node: Rig, workspace: Path, tmp_path: Path) -> None:
    """The operator's own link, and one that the agent put in a directory's place."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "target").write_text("mine")
    (workspace / "sub").mkdir()
    (workspace / "sub/target").write_text("old")
    task = _worked(node, workspace, "echo evil > sub/target; echo evil > sub/other")
    (workspace / "sub/target").unlink()
    (workspace / "sub").rmdir()
    (workspace / "sub").symlink_to(outside)
    paths, refused = _merged(node, task)
    assert (paths, set(refused)) == (set(), {"sub", "sub/target", "sub/other"})
    _merged(node, task, force=True)
    assert (outside / "target").read_text() == "mine"
    assert not (outside / "other").exists()


def test_sockets_fifos_and_setuid_bits_do_not_come_out(node: Rig, workspace: Path) -> None:
    task = _worked(
        node,
        workspace,
        "mkfifo pipe; /usr/bin/python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\";"
        " cp /bin/true tool; chmod 6755 tool || chmod 755 tool; mkdir dir; chmod 1777 dir",
    )
    paths, refused = _merged(node, task)
    assert {"tool", "dir"} <= paths
    assert set(refused) == {"pipe", "sock"}
    assert stat.S_IMODE((workspace / "tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((workspace / "dir").stat().st_mode) == 0o777


def test_a_merge_does_not_overwrite_what_changed_meanwhile(node: Rig, workspace: Path) -> None:
    (workspace / "both").write_text("old\n")
    (workspace / "tree").mkdir()
    (workspace / "tree/file").write_text("old\n")
    task = _worked(node, workspace, "echo agent > both; echo agent > new; rm -r tree; echo agent > alone")
    (workspace / "both").write_text("operator\n")
    os.utime(workspace / "both", (0, 0))
    (workspace / "new").write_text("operator\n")
    (workspace / "tree/file").write_text("operator\n")
    paths, refused = _merged(node, task)
    assert paths == {"alone"}
    assert {path: "meanwhile" in why for path, why in refused.items()} == {"both": True, "new": True, "tree": True}
    assert (workspace / "both").read_text() == "operator\n"
    assert (workspace / "tree/file").read_text() == "operator\n"
    paths, _ = _merged(node, task, paths=["both"], force=True)
    assert (workspace / "both").read_text() == "agent\n"


def test_what_is_too_deep_to_be_looked_into_is_told_and_stays(node: Rig, workspace: Path) -> None:
    deep = "import os\nfor _ in range(250): os.mkdir('d'); os.chdir('d')\nopen('hidden', 'w').close()"
    task = _worked(node, workspace, f'/usr/bin/python3 -c "{deep}"')
    shown = node.ask(op="diff", task=task)["changes"]
    assert shown[-1]["type"] == "directory too deep to be looked into"
    paths, refused = _merged(node, task)
    assert (len(paths), list(refused.values())) == (200, ["it is too deep to be looked into"])


def test_a_file_of_terabytes_that_is_a_hole_fills_no_disk_when_it_is_merged(node: Rig, workspace: Path) -> None:
    script = (
        "truncate -s 4T huge; printf end >> huge; printf begin | dd of=huge conv=notrunc status=none; printf x > all"
    )
    task = _worked(node, workspace, script)
    paths, refused = _merged(node, task)
    assert (paths, refused) == ({"huge", "all"}, {})
    found = (workspace / "huge").stat()
    assert (found.st_size, found.st_blocks < 100) == ((4 << 40) + 3, True)
    with (workspace / "huge").open("rb") as file:
        assert file.read(8) == b"begin\0\0\0"
        file.seek(-4, os.SEEK_END)
        assert file.read() == b"\0end"
    assert (workspace / "all").read_text() == "x"


def test_hard_links_reach_nothing_of_the_operators(node: Rig, workspace: Path) -> None:
    (workspace / "original").write_text("mine\n")
    os.link(workspace / "original", workspace / "twin")
    task = _worked(node, workspace, "echo agent > twin; ln original third || true")
    _merged(node, task, force=True)
    assert (workspace / "original").read_text() == "mine\n"


def test_names_and_texts_that_a_terminal_would_act_on_are_quoted_in_the_patch(node: Rig, workspace: Path) -> None:
    task = _worked(node, workspace, "printf x > \"$(printf 'a\\033[2Jb\\n+++ c')\"")
    patch = node.ask(op="diff", task=task)["patch"]
    assert "\x1b" not in patch.splitlines()[0] + patch.splitlines()[1]
    assert "\n+++ c" not in patch


def test_merging_while_the_task_runs_is_refused(node: Rig, workspace: Path) -> None:
    task = node.detached("--workspace", str(workspace), "--", "sleep", "60")
    try:
        assert node.ask(op="merge", task=task)["kind"] == "conflict"
        assert node.ask(op="diff", task=task)["event"] == "diff"
    finally:
        node.ask(op="stop", task=task, grace_s=0)


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/lib", "/dev", "/proc", "/run"])
def test_a_system_directory_is_no_workspace(node: Rig, path: str) -> None:
    done = node.sh("true", "--workspace", path)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")


def test_the_state_of_remit_is_no_workspace(node: Rig) -> None:
    for path in (node.cells_dir, node.cells_dir.parent, node.directory):
        assert node.sh("true", "--workspace", str(path)).returncode == 2


@pytest.mark.parametrize("mode", [[], ["--bind"]], ids=["cow", "bind"])
def test_files_of_others_in_the_workspace_stay_theirs(node: Rig, workspace: Path, mode: list[str]) -> None:
    (workspace / "others").write_text("theirs\n")
    (workspace / "others").chmod(0o600)
    os.chown(workspace / "others", 4321, 4321)
    done = node.sh("cat others; echo x > others", "--workspace", str(workspace), *mode)
    assert done.stdout == b""
    assert (workspace / "others").read_text() == "theirs\n"


def test_a_bound_workspace_is_written_directly_and_keeps_its_owner(node: Rig, workspace: Path) -> None:
    os.chown(workspace, 1234, 1234)
    done = node.sh("echo one > made; stat -c %U made", "--workspace", str(workspace), "--bind")
    assert done.stdout == b"agent\n", done.stderr
    assert (workspace / "made").read_text() == "one\n"
    assert ((workspace / "made").stat().st_uid, (workspace / "made").stat().st_gid) == (1234, 1234)


def test_what_runs_later_is_read_only_in_a_bound_workspace(node: Rig, workspace: Path) -> None:
    os.system(f"git init -q {workspace} && rm -f {workspace}/.git/hooks/*")
    (workspace / ".envrc").write_text("mine\n")
    script = (
        "echo evil > .git/hooks/pre-commit; echo evil >> .git/config; echo evil > .envrc; mkdir -p .vscode;"
        "echo evil > .vscode/tasks.json; mv .git other; mv .git/hooks x; rm -rf x .git/hooks; echo evil > .git/config.worktree;"
        "ln -sf /tmp/x .envrc; rm -f .envrc; mkdir .idea/x; git config core.fsmonitor evil; echo ok > fine;"
        "git -c user.name=a -c user.email=a@b commit -q --allow-empty -m fine && echo committed"
    )
    before = (workspace / ".git/config").read_text()
    done = node.sh(script, "--workspace", str(workspace), "--bind")
    assert done.stdout == b"committed\n"
    assert (workspace / ".git/config").read_text() == before
    assert list((workspace / ".git/hooks").iterdir()) == []
    assert (workspace / ".envrc").read_text() == "mine\n"
    assert sorted(p.name for p in workspace.iterdir()) == [".envrc", ".git", "fine"]
    assert not (workspace / ".git/config.worktree").exists()


def test_a_guard_does_not_move_with_the_directory_above_it(node: Rig, workspace: Path) -> None:
    (workspace / "deep/sub").mkdir(parents=True)
    os.system(f"git init -q {workspace}/deep/sub && rm -f {workspace}/deep/sub/.git/hooks/*")
    script = (
        "mv deep deep2; mv deep/sub deep/sub2; mkdir -p deep/sub/.git/hooks; echo evil > deep/sub/.git/hooks/pre-commit;"
        "echo fine > deep/sub/fine"
    )
    node.sh(script, "--workspace", str(workspace), "--bind")
    assert [p.name for p in (workspace / "deep").iterdir()] == ["sub"]
    assert list((workspace / "deep/sub/.git/hooks").iterdir()) == []
    assert (workspace / "deep/sub/fine").exists()
    assert sorted(p.name for p in workspace.iterdir()) == ["deep"]


def test_no_file_of_the_operators_becomes_set_user_id(node: Rig, workspace: Path) -> None:
    script = "cp /bin/true x; chmod 4755 x; chmod 2755 x; chmod u+s x; install -m 6755 /bin/true y; mkdir -m 2777 z"
    node.sh(script, "--workspace", str(workspace), "--bind")
    assert [p.name for p in workspace.iterdir() if p.stat().st_mode & 0o6000] == []


def test_a_bound_workspace_without_a_repository_gets_none(node: Rig, workspace: Path) -> None:
    node.sh(
        "git init -q . ; mkdir -p .git/hooks; echo evil > .git/hooks/pre-commit",
        "--workspace",
        str(workspace),
        "--bind",
    )
    assert not (workspace / ".git").exists()


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_sockets_and_fifos_refuse_a_bind_by_name(node: Rig, workspace: Path, kind: str) -> None:
    (workspace / "sub").mkdir()
    if kind == "fifo":
        os.mkfifo(workspace / "sub/agent.1")
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(workspace / "sub/agent.1"))
    done = node.sh("true", "--workspace", str(workspace), "--bind")
    assert done.returncode == 5
    assert b"sub/agent.1" in done.stderr
    assert not (workspace / ".vscode").exists()


def test_two_cells_do_not_share_a_writable_directory(node: Rig, workspace: Path) -> None:
    (workspace / "inner").mkdir()
    task = node.detached("--workspace", str(workspace), "--bind", "--", "sleep", "60")
    try:
        for path in (workspace, workspace / "inner"):
            done = node.sh("true", "--workspace", str(path), "--bind")
            assert done.returncode == 5
            assert b"is bound by" in done.stderr
    finally:
        node.ask(op="stop", task=task, grace_s=0)
    assert node.sh("true", "--workspace", str(workspace), "--bind").returncode == 0


def test_filling_the_workspace_fills_only_the_tasks_own_share(node: Rig, workspace: Path) -> None:
    done = node.sh("head -c 200000000 /dev/zero > big; stat -c %s big", "--workspace", str(workspace))
    assert b"No space left" in done.stderr
    assert int(done.stdout) <= 64 << 20


def test_a_path_with_odd_characters_is_a_workspace_too(node: Rig, workspace: Path) -> None:
    odd = workspace / "a b,c:d\\e=f"
    odd.mkdir()
    (odd / "x").write_text("here\n")
    done = node.sh("cat x; pwd", "--workspace", str(odd))
    assert done.stdout.decode() == f"here\n{odd}\n", done.stderr


def _bound(node: Rig, workspace: Path, script: str) -> str:
    """Run `script` in the workspace itself; what is told afterwards."""
    done = node.sh(script, "--workspace", str(workspace), "--bind")
    assert done.returncode == 0, done.stderr
    return done.stderr.decode()


PLANTED = {
    "a repository made anew": ("git init -q sub && echo '#!/bin/sh' > sub/.git/hooks/pre-commit", "sub/.git"),
    "a repository far below": ("mkdir -p a/b && git init -q a/b/c", "a/b/c/.git"),
    "a file that names another repository": ("mkdir sub && echo 'gitdir: ../evil' > sub/.git", "sub/.git"),
    "a link in place of a repository": ("mkdir sub && ln -s ../evil sub/.git", "sub/.git"),
    "a repository without a working tree": ("git init -q --bare sub", "sub/HEAD"),
    "the workspace itself as one": ("git init -q --bare b && mv b/* .", "HEAD"),
    "another's objects": ("mkdir sub && echo 'ref: refs/heads/x' > sub/HEAD && echo ../x > sub/commondir", "sub/HEAD"),
    "an .envrc below": ("mkdir sub && echo 'touch /tmp/x' > sub/.envrc", "sub/.envrc"),
    "an editor's tasks below": ("mkdir -p sub/.vscode && echo '{}' > sub/.vscode/tasks.json", "sub/.vscode"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_an_agent_plants_in_a_bound_workspace_is_put_aside_and_told(node: Rig, workspace: Path, what: str) -> None:
    script, planted = PLANTED[what]
    told = _bound(node, workspace, script)
    assert not os.path.lexists(workspace / planted)
    (aside,) = (workspace / planted).parent.glob(f"{Path(planted).name}.quarantined-*")
    assert f"put aside: {planted} (now {aside.name})" in told
    if shutil.which("git"):
        asked = subprocess.run(
            ["git", "-C", str((workspace / planted).parent), "rev-parse", "--git-dir"],
            capture_output=True, text=True, env={"PATH": os.environ["PATH"], "GIT_CEILING_DIRECTORIES": str(workspace.parent)},
        )  # fmt: skip
        assert asked.returncode != 0, "git still takes it for a repository"


def test_a_repository_put_aside_is_disarmed_inside_too(node: Rig, workspace: Path) -> None:
    node.sh("git init -q sub", "--workspace", str(workspace), "--bind")
    (aside,) = (workspace / "sub").glob(".git.quarantined-*")
    assert not (aside / "HEAD").exists(), "git would read it when somebody enters it"
    assert (aside / "config").exists(), "nothing is lost"


def test_the_operators_own_repository_is_left_as_it_is(node: Rig, workspace: Path) -> None:
    for name in (".", "vendor/lib"):
        subprocess.run(["git", "init", "-q", str(workspace / name)], check=True)
    subprocess.run(["git", "init", "-q", "--bare", str(workspace / "bare")], check=True)
    (workspace / ".git/rebase-merge").mkdir()
    (workspace / ".git/rebase-merge/git-rebase-todo").write_text("exec make\n")
    time.sleep(1.1)  # more than the clocks of two file systems differ: what follows is newer
    told = _bound(node, workspace, "git add -A . 2>/dev/null; echo x > new.txt")
    assert "put aside" not in told
    for name in (".git/HEAD", ".git/config", ".git/rebase-merge/git-rebase-todo", "vendor/lib/.git/HEAD", "bare/HEAD"):
        assert (workspace / name).exists(), name


def test_a_repository_that_was_there_is_put_aside_when_the_agent_changes_it(node: Rig, workspace: Path) -> None:
    subprocess.run(["git", "init", "-q", "--bare", str(workspace / "bare")], check=True)
    told = _bound(node, workspace, "git config -f bare/config core.fsmonitor ./x")
    assert "put aside: bare/HEAD" in told


def test_wires_and_set_user_id_bits_do_not_stay_in_a_bound_workspace(node: Rig, workspace: Path) -> None:
    script = (
        "mkfifo fifo; ln -s /etc/passwd out; ln -s ../../x up; ln -s kept.txt in; echo x > kept.txt; "
        "python3 -c \"import socket; s = socket.socket(socket.AF_UNIX); s.bind('sock')\"; "
        "cp /bin/true tool; chmod 4755 tool; true"
    )
    told = _bound(node, workspace, script)
    assert not (workspace / "fifo").exists()
    assert not (workspace / "sock").exists()
    assert (workspace / "tool").stat().st_mode & (stat.S_ISUID | stat.S_ISGID) == 0
    assert "fifo" in told
    assert "leads out of the workspace; look before you follow it: out, up" in told
    assert (workspace / "in").is_symlink()


def test_a_socket_that_the_operator_serves_meanwhile_stays(node: Rig, workspace: Path) -> None:
    with socket.socket(socket.AF_UNIX) as own:
        process = node.popen(
            "--workspace", str(workspace), "--bind", "--", "sh", "-c", "read line", stdin=subprocess.PIPE
        )
        until(node.tasks, "it runs")
        own.bind(str(workspace / "mine"))
        own.listen()
        process.communicate(b"go\n", timeout=20)
        assert (workspace / "mine").exists()


def test_what_was_planted_is_put_aside_even_when_the_daemon_was_killed(node: Rig, workspace: Path) -> None:
    node.detached("--workspace", str(workspace), "--bind", "--", "sh", "-c", "git init -q sub; sleep 600")
    until((workspace / "sub/.git/HEAD").exists, "it is planted")
    node.kill("cells")
    node.start("cells")
    until(lambda: list((workspace / "sub").glob(".git.quarantined-*")), "it is put aside")
    assert not (workspace / "sub/.git").exists()
    node.accepting()


REPOSITORIES = {
    "made anew": ("git init -q --bare sub && git config -f sub/config core.fsmonitor ./x", "sub/HEAD"),
    "far below": ("mkdir -p a/b && git init -q --bare a/b/c", "a/b/c/HEAD"),
    "the workspace itself": ("git init -q --bare b && mv b/* . && rmdir b", "HEAD"),
    "another's objects": ("mkdir sub && echo 'ref: refs/heads/x' > sub/HEAD && echo ../x > sub/commondir", "sub/HEAD"),
    "one that was there, changed": ("git config -f bare/config core.fsmonitor ./x", "bare/config"),
    "one that was there, with a hook": ("echo x > bare/hooks/post-checkout", "bare/hooks/post-checkout"),
    "the last piece of one": ("mkdir most/refs", "most/refs"),
}


@pytest.mark.parametrize("what", REPOSITORIES)
def test_a_repository_without_a_working_tree_is_merged_only_by_name_and_force(
    node: Rig, workspace: Path, what: str
) -> None:
    """git takes a directory for one by what lies in it (setup.c, is_git_directory), and runs what its config names."""
    subprocess.run(["git", "init", "-q", "--bare", str(workspace / "bare")], check=True)
    (workspace / "most/objects").mkdir(parents=True)
    (workspace / "most/HEAD").write_text("ref: refs/heads/x\n")
    script, planted = REPOSITORIES[what]
    task = _worked(node, workspace, f"{script}; echo fine > fine.txt")
    paths, refused = _merged(node, task)
    assert "fine.txt" in paths
    assert "run later" in refused[planted]
    if "bare" not in planted:
        place = (workspace / planted).parent
        assert not place.exists() or _no_repository(place, workspace)
    paths, _ = _merged(node, task, paths=[planted], force=True)
    assert planted in paths or not (workspace / planted).parent.exists()


def _no_repository(place: Path, workspace: Path) -> bool:
    environment = {"PATH": os.environ["PATH"], "GIT_CEILING_DIRECTORIES": str(workspace.parent)}
    asked = subprocess.run(["git", "-C", str(place), "rev-parse", "--git-dir"], capture_output=True, env=environment)
    return asked.returncode != 0


STEPS = (
    *("rebase-merge/git-rebase-todo", "rebase-apply/next", "sequencer/todo"),
    *("remotes/origin", "branches/upstream"),
)


def test_steps_that_git_would_go_on_with_are_merged_only_by_name_and_force(node: Rig, workspace: Path) -> None:
    """`exec` in a list of steps runs when the operator says `git rebase --continue`, as `git status` advises. Where a
    push goes is no less theirs to say."""
    subprocess.run(["git", "init", "-q", str(workspace)], check=True)
    script = "; ".join(f"mkdir -p .git/$(dirname {step}); echo 'exec evil' > .git/{step}" for step in STEPS)
    task = _worked(node, workspace, script)
    _, refused = _merged(node, task)
    for step in STEPS:
        assert "run later" in refused[f".git/{step}"]
        assert not (workspace / ".git" / step).exists()
