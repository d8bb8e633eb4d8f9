"""The parts of a cell that are plain functions: bubblewrap's arguments, environments, guarded names, limits, requests."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from remit.cell import (
    changes,
    environment,
    guard,
    limits,
    merge,
    mounts,
    request,
    sandbox,
    seccomp,
    syscalls,
    toolchains,
    workspace,
)
from remit.core.errors import Invalid, NotFound
from remit.core.snapshot import Limits


def _spec(**more: object) -> sandbox.Spec:
    values: dict[str, object] = {
        "argv": ("true",),
        "environment": {"B": "2", "A": "1"},
        "cwd": "/work",
        "system": (("bind", "/usr", "/usr"), ("symlink", "usr/bin", "/bin")),
        "mounts": (sandbox.Mount(source="/stage/home", target="/home/agent", writable=True),),
        "seccomp": (70, 71),
        "info": 72,
        "terminals": "/stage/terminals",
    }
    return sandbox.Spec(**{**values, **more})  # type: ignore[arg-type]


def _pairs(words: list[str], name: str, count: int) -> list[tuple[str, ...]]:
    return [tuple(words[i + 1 : i + 1 + count]) for i, word in enumerate(words) if word == name]


def test_a_cell_has_every_namespace_of_its_own_and_no_further_ones() -> None:
    words = sandbox.arguments(_spec())
    for kind in ("user", "pid", "ipc", "uts", "cgroup"):
        assert f"--unshare-{kind}" in words
    for flag in ("--disable-userns", "--die-with-parent", "--clearenv"):
        assert flag in words
    assert _pairs(words, "--cap-drop", 1) == [("ALL",)]
    assert "--share-net" not in words


def test_the_system_is_read_only_and_the_root_is_closed_after_the_mounts() -> None:
    words = sandbox.arguments(_spec())
    assert _pairs(words, "--ro-bind", 2) == [("/usr", "/usr")]
    assert _pairs(words, "--bind", 2) == [("/stage/home", "/home/agent")]
    assert words.index("--remount-ro") > words.index("--bind")
    assert _pairs(words, "--remount-ro", 1) == [("/dev",), ("/",)]


def test_both_filters_are_loaded_in_their_order() -> None:
    assert _pairs(sandbox.arguments(_spec()), "--add-seccomp-fd", 1) == [("70",), ("71",)]


def test_a_joining_process_enters_the_outer_user_namespace_first_and_makes_none() -> None:
    words = sandbox.arguments(_spec(join=sandbox.Join(outer_user=30, inner_user=31, pid=32)))
    assert (_pairs(words, "--userns", 1), _pairs(words, "--userns2", 1), _pairs(words, "--pidns", 1)) == (
        [("7",)],
        [("8",)],
        [("9",)],
    )
    assert not {"--unshare-user", "--unshare-pid"} & set(words)


def test_a_joining_command_is_rid_of_the_descriptors() -> None:
    assert sandbox.command(("ls",), terminal=True, joined=True) == (
        "/bin/sh", "-c", sandbox._CLOSING + sandbox._BEGIN % "--ctty", "sh", "ls",
    )  # fmt: skip


def test_environment_values_are_arguments_of_their_own() -> None:
    words = sandbox.arguments(_spec(environment={"X": "--bind / /"}))
    assert _pairs(words, "--setenv", 2) == [("X", "--bind / /")]


def test_what_is_given_wins_over_the_role_and_the_role_over_the_default() -> None:
    built = environment.build(
        tools={"PYENV_ROOT": "/p"}, path=("/p/shims",), terminal="", role={"LANG": "de", "A": "role"}, given={"A": "me"}
    )
    assert (built["LANG"], built["A"], built["TERM"], built["PYENV_ROOT"]) == ("de", "me", "dumb", "/p")
    assert built["PATH"].startswith("/etc/remit/bin:/p/shims:/usr/local/sbin")
    assert built["NODE_EXTRA_CA_CERTS"] != built["SSL_CERT_FILE"]


@pytest.mark.parametrize(
    "variables",
    [{"A B": "x"}, {"": "x"}, {"1A": "x"}, {"A=": "x"}, {"A": "x\0"}, {"A": 1}, {1: "x"}, {"A": "x" * 200_000}],
)
def test_a_variable_that_cannot_stand_in_an_environment_is_refused(variables: dict[object, object]) -> None:
    with pytest.raises(Invalid):
        environment.checked(variables, "--env")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".git", True),
        (".git/hooks/pre-commit", True),
        (".git/config", True),
        (".git/commondir", True),
        (".git/modules/x/config", True),
        ("sub/.git/hooks", True),
        (".git/objects/ab/cd", False),
        (".git/refs/heads/main", False),
        (".git/index", False),
        (".envrc", True),
        ("deep/.envrc", True),
        (".vscode/settings.json", True),
        ("a/.husky/x", True),
        ("envrc", False),
        ("git/hooks/x", False),
        ("src/main.py", False),
        ("Makefile", False),
    ],
)
def test_guarded_names(path: str, expected: bool) -> None:
    assert guard.guarded(PurePosixPath(path)) is expected


@pytest.mark.parametrize(
    ("at", "target", "inside"),
    [
        ("link", "file", True),
        ("a/link", "../file", True),
        ("a/b/link", "../../file", True),
        ("link", "./a/file", True),
        ("link", "../file", False),
        ("a/link", "../../file", False),
        ("link", "/etc/passwd", False),
        ("a/link", "b/../../x", False),
        ("a/link", "b/../x", False),
        ("link", "", False),
        ("link", ".git/config", False),
    ],
)
def test_links_that_stay_inside(at: str, target: str, inside: bool) -> None:
    assert merge._inside(PurePosixPath(at), target) is inside


def test_no_call_is_both_allowed_and_refused() -> None:
    assert not set(syscalls.ALLOWED) & set(syscalls.REFUSED)


def test_filters_are_small_enough_for_the_kernel() -> None:
    """BPF_MAXINSNS is 4096 instructions of 8 bytes."""
    for program in seccomp.programs():
        assert len(program) % 8 == 0
        assert 0 < len(program) // 8 <= 4096


@pytest.mark.parametrize(
    "change",
    [
        {"role": "../x"}, {"role": 5}, {"role": None}, {"argv": []}, {"argv": "ls"}, {"argv": [1]}, {"argv": [""]},
        {"argv": ["a\0b"]}, {"argv": ["x" * 200_000]}, {"argv": ["x"] * 5000}, {"cwd": "/abs"}, {"cwd": "../up"},
        {"cwd": "a/../../b"}, {"argv": ["\ud800"]}, {"cwd": "\ud800"}, {"env": {"A": "\ud800"}}, {"env": ["x"]}, {"workspace": {"path": "/x", "mode": "rw"}}, {"workspace": 3},
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_meant_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        request.run({"role": "devops", "argv": ["true"], **change})


def test_no_budget_of_a_request_is_dropped() -> None:
    most = [f"requests={n}" for n in range(request.MAX_BUDGETS)]
    assert request.run({"role": "devops", "argv": ["true"], "budgets": most}).budgets == tuple(most)
    with pytest.raises(Invalid, match="8 budgets of its own at most"):
        request.run({"role": "devops", "argv": ["true"], "budgets": [*most, "requests=1"]})


def test_window_sizes_are_bounded() -> None:
    assert request.size(10**9, 5) == (24, 80)
    assert request.size("5", None) == (24, 80)
    assert request.size(50, 132) == (50, 132)


@pytest.mark.parametrize("text", ["relative", "/nul\0", 5, "/" * 5000, "/usr", "/usr/share", "/proc/self", "/"])
def test_what_cannot_be_a_workspace(text: object, tmp_path: Path) -> None:
    with pytest.raises((Invalid, NotFound)):
        workspace.checked(text, tmp_path / "state/cells")


def test_a_link_to_a_system_directory_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(Invalid):
        workspace.checked(str(tmp_path / "link"), Path("/var/lib/remit/cells"))


def _tool(directory: Path, name: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_home_is_never_bound_for_a_program_in_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    _tool(home / "bin", "mine")
    _tool(home / ".local/bin", "tool")
    _tool(home / ".cargo/bin", "cargo")
    (home / ".rustup").mkdir()
    (home / ".cargo/credentials.toml").write_text("secret")
    found = toolchains.discover(f"{home}/bin:{home}/.local/bin:{home}/.cargo/bin:/usr/bin:relative:/no/such", (home,))
    assert set(found.prefixes) == {home / "bin", home / ".local/bin", home / ".cargo/bin", home / ".rustup"}
    assert found.variables == {"RUSTUP_HOME": str(home / ".rustup")}


def test_an_entry_of_path_that_cannot_be_looked_at_is_none(tmp_path: Path) -> None:
    (tmp_path / "venv/bin").mkdir(parents=True)
    found = toolchains.discover(f"/{'x' * 300}/bin:{tmp_path}/venv/bin", ())  # stat(2) fails for it, as for root's home
    assert found.path == [f"{tmp_path}/venv/bin"]


def test_version_managers_and_deep_prefixes_are_bound_whole(tmp_path: Path) -> None:
    home = tmp_path / "home"
    _tool(home / ".pyenv/shims", "python3")
    _tool(home / ".nvm/versions/node/v20/bin", "node")
    found = toolchains.discover(f"{home}/.pyenv/shims:{home}/.nvm/versions/node/v20/bin", (home,))
    assert set(found.prefixes) == {home / ".pyenv", home / ".nvm/versions/node/v20"}
    assert found.path == [f"{home}/.pyenv/shims", f"{home}/.nvm/versions/node/v20/bin"]


def test_a_virtual_environment_brings_the_interpreter_that_it_links_to(tmp_path: Path) -> None:
    home = tmp_path / "home"
    real = _tool(home / "versions/3.11/bin", "python3")
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python3").symlink_to(real)
    found = toolchains.discover(f"{tmp_path}/venv/bin", (home,))
    assert set(found.prefixes) == {tmp_path / "venv", home / "versions/3.11"}


def test_what_is_mounted_below_a_path_is_found_whatever_is_mounted_elsewhere() -> None:
    table = rb"""1 0 0:1 / /run/a\040b/tasks/t/home rw - tmpfs cell rw
2 0 0:1 / /media/caf%b rw - ext4 /dev/sda rw
3 0 0:1 / /run/a\040b/tasks/t/caf%b rw - ext4 /dev/sda rw
4 0 0:1 / /run/a\040b/tasks/t2/home rw - tmpfs cell rw
""" % (b"\xc2\x85", b"\xe9")
    home, odd = mounts.below(Path("/run/a b/tasks/t"), table)
    assert (home, os.fsencode(odd)) == (Path("/run/a b/tasks/t/home"), b"/run/a b/tasks/t/caf\xe9")


def _process(directory: Path, cgroup: str, mounts: str) -> Path:
    directory.mkdir()
    (directory / "cgroup").write_text(cgroup)
    (directory / "mountinfo").write_text(mounts)
    return directory


def test_a_hybrid_hierarchy_limits_in_v1_and_kills_in_v2(tmp_path: Path) -> None:
    for name in ("memory/own", "pids/own", "cpu/own", "unified/own"):
        (tmp_path / name).mkdir(parents=True)
    mounts = "".join(
        f"1 1 0:1 / {tmp_path}/{name} rw - cgroup cgroup rw,{name}\n" for name in ("memory", "pids", "cpu")
    )
    mounts += f"1 1 0:1 / {tmp_path}/unified rw - cgroup2 cgroup2 rw\n"
    process = _process(tmp_path / "p", "3:memory:/own\n2:pids:/own\n1:cpu:/own\n0::/own\n", mounts)
    with (process / "mountinfo").open("ab") as file:
        file.write(b"1 1 0:1 / /media/caf\xe9\xc2\x85 rw - ext4 /dev/sda rw\n")
    tree = limits.tree(process)
    assert tree.v1["memory"] == tmp_path / "memory/own"
    assert (tree.v2, tree.v2_controllers) == (tmp_path / "unified/own", frozenset())
    group = limits.make(tree, "cell-1", Limits(memory_bytes=1 << 20, processes=9, cpu_cores=0.5))
    assert group.absent == ()
    assert (tmp_path / "memory/own/cell-1/memory.limit_in_bytes").read_text() == str(1 << 20)
    assert int((tmp_path / "pids/own/cell-1/pids.max").read_text()) >= 9
    assert (tmp_path / "cpu/own/cell-1/cpu.cfs_quota_us").read_text() == "50000"
    assert (tmp_path / "unified/own/cell-1").is_dir()


def test_a_pure_v2_hierarchy_limits_where_controllers_are_delegated(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "cgroup.controllers").write_text("cpu io memory pids\n")
    (own / "cgroup.subtree_control").write_text("memory pids\n")
    process = _process(tmp_path / "p", "0::/own\n", f"1 1 0:1 / {tmp_path} rw - cgroup2 cgroup2 rw\n")
    tree = limits.tree(process)
    assert tree.v2 == own
    (own / "cgroup.subtree_control").write_text("memory pids\n")
    again = limits.Tree(v2=own, v2_controllers=frozenset({"memory", "pids"}))
    group = limits.make(again, "cell-1", Limits(memory_bytes=5 << 20, processes=7, cpu_cores=1.0))
    assert group.absent == ("cpu",)
    assert (own / "cell-1/memory.max").read_text() == str(5 << 20)


def test_a_group_that_cannot_delegate_uses_the_nearest_one_above_that_does(tmp_path: Path) -> None:
    """As on a stock machine with systemd: our own group holds processes, the slice above gives its children limits."""
    own = tmp_path / "slice/session"
    own.mkdir(parents=True)
    for path, controllers, given in ((own, "", ""), (own.parent, "memory pids", "memory pids"), (tmp_path, "cpu", "")):
        (path / "cgroup.controllers").write_text(controllers)
        (path / "cgroup.subtree_control").write_text(given)
    process = _process(tmp_path / "p", "0::/slice/session\n", f"1 1 0:1 / {tmp_path} rw - cgroup2 cgroup2 rw\n")
    tree = limits.tree(process)
    assert (tree.v2, tree.v2_controllers) == (own.parent, frozenset({"memory", "pids"}))
    assert (own.parent / "cgroup.subtree_control").read_text() == "memory pids"


def test_one_group_stands_around_all_cells_and_goes_with_them(tmp_path: Path) -> None:
    for name in ("memory", "pids", "cpu", "cpuset", "unified"):
        (tmp_path / name).mkdir()
    tree = limits.Tree(
        v1={name: tmp_path / name for name in ("memory", "pids", "cpu", "cpuset")}, v2=tmp_path / "unified"
    )
    around = limits.around(tree, "remit-1-", Limits(memory_bytes=5 << 30, processes=900))
    assert around.v1 == {name: tmp_path / name / "remit-1-cells" for name in ("memory", "pids", "cpu")}
    assert around.v2 == tmp_path / "unified/remit-1-cells"
    assert (tmp_path / "memory/remit-1-cells/memory.limit_in_bytes").read_text() == str(5 << 30)
    assert (tmp_path / "pids/remit-1-cells/pids.max").read_text() == "900"
    group = limits.make(around, "remit-1-t-a", Limits(memory_bytes=None, processes=None))
    assert group.absent == ()
    assert (tmp_path / "cpu/remit-1-cells/remit-1-t-a").is_dir(), "a cell without a limit has its share too"
    (tmp_path / "cpu/remit-1-t-b").mkdir()  # as a daemon of before made them
    (tmp_path / "cpu/remit-2-cells").mkdir()
    for file in ("memory/remit-1-cells/memory.limit_in_bytes", "pids/remit-1-cells/pids.max"):
        (tmp_path / file).unlink()  # the kernel's own go with their directory
    assert limits.sweep(tree, "remit-1-") == 2
    assert [path.name for path in (tmp_path / "cpu").iterdir()] == ["remit-2-cells"]
    assert list((tmp_path / "unified").iterdir()) == []


def test_the_group_around_gives_its_children_what_it_was_given(tmp_path: Path) -> None:
    inner = tmp_path / "remit-1-cells"
    inner.mkdir()
    (inner / "cgroup.subtree_control").touch()
    where = limits.Tree(v2=tmp_path, v2_controllers=frozenset({"memory"}))
    assert limits.around(where, "remit-1-", Limits(memory_bytes=7 << 30)).v2 == inner
    assert (inner / "cgroup.subtree_control").read_text() == "+memory"  # the kernel would show `memory`
    assert (inner / "memory.max").read_text() == str(7 << 30)
    assert not (inner / "pids.max").exists(), "of a controller that is not there"
    (tmp_path / "remit-2-cells").touch()  # it cannot be made
    assert limits.around(where, "remit-2-", Limits()) == limits.Tree()


def test_all_cells_together_leave_memory_and_process_numbers_to_others() -> None:
    most = limits.together()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert most.memory_bytes is not None
    assert most.processes is not None
    assert memory // 2 <= most.memory_bytes < memory
    assert most.processes < int(Path("/proc/sys/kernel/pid_max").read_text())


def test_that_nothing_holds_the_cells_share_of_the_processors_is_named(tmp_path: Path) -> None:
    tree = limits.Tree(v2=tmp_path, v2_controllers=frozenset({"memory", "pids"}))
    assert limits.make(tree, "remit-1-t-a", Limits()).absent == (limits.SHARE,)


def test_without_any_hierarchy_every_limit_is_named_as_absent(tmp_path: Path) -> None:
    tree = limits.tree(_process(tmp_path / "p", "", ""))
    group = limits.make(tree, "cell-1", Limits(memory_bytes=1, processes=1, cpu_cores=1.0))
    assert group.absent == ("memory", "processes", "cpu")
    group.join()
    group.kill()
    assert group.remove()


@pytest.mark.parametrize(
    ("files", "processes", "each"),
    [("9223372036854775807", 512, 1 << 19), ("2000000", 100, 10_000), ("2000000", None, 1953), ("100000", 512, 1024)],
)
def test_all_processes_of_a_cell_may_open_half_of_what_the_machine_may(
    monkeypatch: pytest.MonkeyPatch, files: str, processes: int | None, each: int
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: files)
    assert limits.open_files(processes) == each


def test_a_directory_above_a_workspace_that_becomes_a_link_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "mine/work").mkdir(parents=True)
    (tmp_path / "another/work").mkdir(parents=True)
    path = workspace.checked(str(tmp_path / "mine/work"), tmp_path / "state/cells")
    os.close(changes.open_workspace(path))
    (tmp_path / "mine").rename(tmp_path / "away")
    (tmp_path / "mine").symlink_to(tmp_path / "another")
    with pytest.raises(OSError, match="has become a link"):
        changes.open_workspace(path)
