"""Cells as their operator sees them: `remit run`, `exec`, `attach` against the real daemon and the real forwarder."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import time
from pathlib import Path

import pytest
from cells_rig import Rig, until
from cells_rig import fresh as fresh
from cells_rig import node as node


def test_a_toolchain_that_is_installed_anew_is_seen_anew(node: Rig, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for version in ("one", "two"):
        shutil.rmtree(tmp_path / "tool", ignore_errors=True)
        program = tmp_path / "tool/bin/odd-tool"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\necho {version}\n")
        program.chmod(0o755)
        environment = _environment(node) | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
        assert node.run("--", "odd-tool", env=environment).stdout.split() == [version.encode()]


def test_a_workspace_and_arguments_of_any_bytes(node: Rig, tmp_path: Path) -> None:
    """File names are bytes: not all of them are UTF-8."""
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    odd.mkdir()
    (odd / "file").write_text("here")
    tmp_path.chmod(0o755)
    done = node.sh(
        'cat file; printf %s "$1$ODD" | od -An -tx1',
        "--workspace",
        str(odd),
        "--env",
        os.fsdecode(b"ODD=\xff"),
    )
    assert done.stdout.split() == [b"here", b"ff"], done
    mounted = Path(f"/proc/{node.parts['cells'].pid}/mountinfo")
    until(lambda: b"caf\xe9" not in mounted.read_bytes(), "its mounts to be gone")


def test_the_exit_code_is_the_commands(node: Rig) -> None:
    assert [node.sh(f"exit {code}").returncode for code in (0, 7, 255)] == [0, 7, 255]


def test_a_command_that_a_signal_ends_gives_128_and_its_number(node: Rig) -> None:
    assert node.sh("kill -KILL $$").returncode == 137


def test_a_command_that_does_not_exist_gives_127_and_says_so(node: Rig) -> None:
    done = node.run("--", "no-such-program")
    assert done.returncode == 127
    assert b"no-such-program" in done.stderr


def test_output_and_errors_stay_apart_and_whole(node: Rig) -> None:
    done = node.sh("head -c 3000000 /dev/zero; echo oops >&2")
    assert (len(done.stdout), done.stderr) == (3000000, b"oops\n")


def test_input_goes_in_to_its_end(node: Rig) -> None:
    data = os.urandom(1 << 20)
    assert node.run("--", "cat", input=data).stdout == data


def test_input_that_nobody_reads_does_not_hold_up_the_end(node: Rig) -> None:
    assert node.sh("exit 3", input=b"x" * (2 << 20)).returncode == 3


def test_an_agent_may_open_its_own_output_again(node: Rig) -> None:
    done = node.sh("echo one > /dev/stdout; echo two > /dev/stderr")
    assert (done.stdout, done.stderr) == (b"one\n", b"two\n")


def test_the_environment_is_clean_but_for_role_and_env(node: Rig) -> None:
    done = node.run("--env", "PASSED", "--env", "SET=1", "--", "env", env=_environment(node, PASSED="yes", SECRET="no"))
    lines = done.stdout.decode().splitlines()
    assert {"PASSED=yes", "SET=1", "GITHUB_TOKEN=placeholder", "HOME=/home/agent"} <= set(lines)
    assert not [line for line in lines if line.startswith(("SECRET=", "PIP_INDEX", "REMIT_", "PYTHONPATH="))]


def _environment(node: Rig, **more: str) -> dict[str, str]:
    source = str(Path(__file__).resolve().parents[2] / "src")
    return {"PATH": os.environ["PATH"], "PYTHONPATH": source, "REMIT_RUN_DIR": str(node.run_dir), **more}


def test_every_connection_carries_its_destination_its_source_and_the_token(node: Rig) -> None:
    done = node.sh("curl -sS -4 http://203.0.113.9:8080/x; curl -sS http://api.example.com/y")
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(part + "}") for part in done.stdout.decode().split("}")[:2])
    assert (first["destination"], first["port"]) == ("203.0.113.9", 8080)
    assert second["destination"] in ("198.18.7.7", "fd00:201:1::7")
    assert first["token"] == second["token"]
    assert first["source"].startswith("100.")
    assert (first["source_port"], second["source_port"]) == (1024, 1025)


def test_a_task_is_reported_from_start_to_end(node: Rig) -> None:
    task = node.detached("--", "sh", "-c", "exit 5")
    until(lambda: node.calls(f"{task}/exited"), "the end to be reported")
    assert node.calls(f"{task}/started")
    assert node.calls(f"{task}/exited")[0]["body"] == {"code": 5, "stopped": False}


def test_a_detached_task_is_listed_logged_and_stopped(node: Rig) -> None:
    task = node.detached("--", "sh", "-c", "echo hello; exec sleep 100")
    assert task in [cell["task"] for cell in node.tasks()]
    until(lambda: (node.cells_dir / task / "output.log").read_text() == "hello\n", "its output in its log")
    assert node.ask(op="stop", task=task, grace_s=5) == {"event": "done", "code": 143}
    assert task not in [cell["task"] for cell in node.tasks()]
    assert node.calls(f"{task}/exited")[0]["body"] == {"code": 143, "stopped": True}


def test_a_task_that_ignores_sigterm_is_killed_after_its_grace(node: Rig) -> None:
    task = node.detached("--", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
    until(lambda: (node.cells_dir / task / "output.log").read_text(), "the trap to be set")
    assert node.ask(op="stop", task=task, grace_s=0.2)["code"] == 137


def test_a_client_that_dies_ends_its_task(node: Rig) -> None:
    client = node.popen("--", "sh", "-c", "echo up; exec sleep 100")
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    (task,) = [cell["task"] for cell in node.tasks()]
    client.kill()
    client.communicate()
    node.gone(task)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_reach_the_command_and_its_children(node: Rig, number: int, code: int) -> None:
    client = node.popen("--", "sh", "-c", "echo up; sleep 100 | sleep 100")
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    client.send_signal(number)
    client.communicate(timeout=20)
    assert client.returncode == code


def test_exec_joins_the_running_cell(node: Rig) -> None:
    task = node.detached("--", "sh", "-c", "echo mine > /tmp/note; exec sleep 100")
    try:
        until(lambda: node.run(task, "--", "test", "-s", "/tmp/note", verb="exec").returncode == 0, "the note")
        done = node.run(task, "--", "sh", "-c", "cat /tmp/note; id -u; ps -e -o args=; exit 9", verb="exec")
        assert done.returncode == 9, done.stderr
        assert done.stdout.startswith(b"mine\n1000\n")
        assert b"sleep 100" in done.stdout
        first = node.run(task, "--", "curl", "-sS", "-4", "http://203.0.113.1/", verb="exec")
        assert json.loads(first.stdout)["destination"] == "203.0.113.1"
    finally:
        node.ask(op="stop", task=task, grace_s=0)


def test_exec_in_a_task_that_is_gone_is_not_found(node: Rig) -> None:
    done = node.run("t-aaaaaaaaaa", "--", "true", verb="exec")
    assert done.returncode == 4
    assert done.stderr.decode().splitlines() == [
        "error: no cell runs for task t-aaaaaaaaaa", "hint: remit ps --all",
    ]  # fmt: skip


def test_an_unknown_role_is_refused_before_anything_is_made(node: Rig) -> None:
    done = node.run("--", "true", role="unknown")
    assert (done.returncode, done.stderr) == (4, b"error: there is no role unknown\nhint: remit get roles\n")


def test_a_missing_role_and_a_missing_command_are_told(node: Rig) -> None:
    assert node.run("--", "true", role=None).stderr.startswith(b"error: --role is missing\n")
    assert node.run("--").stderr.startswith(b"error: there is no command to run\n")


def test_a_node_that_is_not_up_is_told_with_a_hint(node: Rig, tmp_path: Path) -> None:
    done = node.run("--", "true", env=_environment(node) | {"REMIT_RUN_DIR": str(tmp_path)})
    assert done.returncode == 6
    assert done.stderr.decode().splitlines()[0] == "error: the node does not answer"
    assert done.stderr.decode().splitlines()[-1] == "hint: remit up --detach"


def test_a_terminal_is_made_inside_and_given_back_outside(node: Rig) -> None:
    master, slave = pty.openpty()
    before = __import__("termios").tcgetattr(slave)
    client = node.popen(
        "--", "sh", "-c", "test -t 0 && test -t 1 && stty size; read line; echo got $line; exit 4",
        stdin=slave, stdout=slave, stderr=slave,
    )  # fmt: skip
    __import__("fcntl").ioctl(slave, 0x5414, __import__("struct").pack("HHHH", 33, 77, 0, 0))
    seen = b""
    while b"33 77" not in seen and b"24 80" not in seen and b"0 0" not in seen:
        seen += os.read(master, 1000)
    os.write(master, b"typed\n")
    while b"got typed" not in seen:
        seen += os.read(master, 1000)
    assert client.wait(60) == 4
    assert __import__("termios").tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_control_c_in_a_terminal_interrupts_the_foreground_job(node: Rig) -> None:
    master, slave = pty.openpty()
    client = node.popen(
        "--", "bash", "-c", "echo up; sleep 100; echo not reached", stdin=slave, stdout=slave, stderr=slave
    )
    seen = b""
    while b"up" not in seen:
        seen += os.read(master, 1000)
    os.write(master, b"\x03")
    assert client.wait(60) == 130
    os.close(master)
    os.close(slave)


def test_the_time_limit_ends_a_task_and_says_why(fresh: Rig) -> None:
    fresh.answer(limits={"time_s": 0.5, "memory_bytes": None, "processes": None})
    done = fresh.sh("sleep 100")
    assert done.returncode == 143
    assert b"time limit" in done.stderr


def test_tokens_are_renewed_and_new_connections_carry_the_new_one(fresh: Rig) -> None:
    fresh.kill("cells")
    (fresh.directory / "ttl").write_text("0.6")
    fresh.start("cells")
    fresh.accepting()
    done = fresh.sh("curl -sS -4 http://203.0.113.1/; sleep 1; curl -sS -4 http://203.0.113.1/")
    tokens = [json.loads(part + "}")["token"] for part in done.stdout.decode().split("}")[:2]]
    assert tokens[0].startswith("token-of-")
    assert tokens[1].startswith("renewed-")


def test_a_forwarder_that_was_killed_is_told_everything_again(fresh: Rig) -> None:
    task = fresh.detached("--", "sleep", "100")
    fresh.kill("forward")
    fresh.start("forward")
    done = until(
        lambda: fresh.run(task, "--", "curl", "-sS4m5", "http://203.0.113.1/", verb="exec").stdout,
        "the cell to have its connections back",
    )
    assert json.loads(done)["destination"] == "203.0.113.1"


def test_without_a_forwarder_no_task_starts_and_control_hears_why(fresh: Rig) -> None:
    fresh.kill("forward")
    done = fresh.run("--", "true")
    assert done.returncode == 6
    assert b"the forwarder is not connected" in done.stderr or b"the forwarder does not answer" in done.stderr
    assert fresh.calls("/failed")
    assert fresh.tasks() == []


def test_a_killed_daemon_takes_its_cells_along_and_the_next_one_finds_nothing_left(fresh: Rig) -> None:
    fresh.detached("--", "sh", "-c", "setsid sleep 4242 & exec sleep 4242")
    until(lambda: len(_sleeping("4242")) >= 2, "the sleepers")
    fresh.kill("cells")
    until(lambda: not _sleeping("4242"), "every process of the cell to be gone")
    fresh.start("cells")
    fresh.accepting()
    assert fresh.tasks() == []
    mark = next(Path("/run").glob("remit-*-cells"), None)
    assert mark is None or str(fresh.directory) not in Path("/proc/self/mountinfo").read_text()
    assert fresh.sh("exit 3").returncode == 3


def _sleeping(word: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if command[:2] == [b"sleep", word.encode()]:
                found.append(entry.name)
    return found


def test_nothing_is_left_after_many_cells(node: Rig) -> None:
    def left() -> tuple[int, int]:
        pid = node.parts["cells"].pid
        return len(os.listdir(f"/proc/{pid}/fd")), len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())

    node.sh("true")
    until(lambda: node.tasks() == [], "no task")
    time.sleep(0.1)
    before = left()
    for _ in range(5):
        assert node.sh("true").returncode == 0
    until(lambda: left() <= before, f"descriptors and mounts to be back at {before}")


@pytest.mark.parametrize(
    ("program", "script"),
    [
        ("/usr/bin/python3", "import threading, ssl; t = threading.Thread(target=print, args=('ok',)); t.start()"),
        ("node", "const w = require('worker_threads'); new w.Worker('console.log(\"ok\")', {eval: true})"),
        (
            "bash",
            "git init -q /tmp/r && cd /tmp/r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m ok"
            " && git log --format=%s",
        ),
        ("bash", "printf 'int main(){return 0;}' > /tmp/a.c && gcc -o /tmp/a /tmp/a.c && /tmp/a && echo ok"),
        (
            "bash",
            "cd /tmp && echo 'class A{public static void main(String[] a){System.out.println(\"ok\");}}' > A.java"
            " && java A.java 2>/dev/null",
        ),
        ("bash", "cargo new -q /tmp/c --vcs none && cd /tmp/c && cargo run -q --offline | grep -q Hello && echo ok"),
    ],
    ids=("python", "node", "git", "gcc", "java", "cargo"),
)  # fmt: skip
def test_toolchains_work_under_the_filter(node: Rig, program: str, script: str) -> None:
    flag = "-e" if program == "node" else "-c"
    done = node.run("--", program, flag, script)
    if done.returncode == 127:
        pytest.skip(f"{program} is not installed on this machine")
    assert (done.stdout.decode().strip(), done.returncode) == ("ok", 0), done.stderr
