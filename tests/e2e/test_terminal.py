"""`remit run` at a terminal, tasks that go on without one, and the limits of a role."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest
from instance import REMIT, Instance, wait_for

pytestmark = pytest.mark.xdist_group("instance")

ROLES = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: small}
spec: {limits: {memory: 64Mi, processes: 24}}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: brief}
spec: {limits: {time: 2s}}
"""
PATIENCE_S = 120.0


class Terminal:
    """A command at the other side of a pseudo-terminal; `expect` reads what it shows."""

    def __init__(self, remit: Instance, *arguments: str, size: tuple[int, int] = (33, 101)) -> None:
        self._master, self.slave = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(self.slave)
        self._shown = b""
        environment = {**remit.environment, "TERM": "xterm"}
        command = ["setsid", "--ctty", str(REMIT), *arguments]  # no Python between fork and exec: we have threads
        three = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave}
        self.process = subprocess.Popen(command, env=environment, **three)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str) -> str:
        """Everything shown up to and including `text`."""
        deadline = time.monotonic() + PATIENCE_S
        while text.encode() not in self._shown:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} was not shown, but {self._shown!r}"
            self._shown += os.read(self._master, 65536)
        found, _, self._shown = self._shown.partition(text.encode())
        return found.decode() + text

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.slave)[3] & termios.ECHO)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self.slave)


@contextlib.contextmanager
def terminal(remit: Instance, *arguments: str) -> Iterator[Terminal]:
    opened = Terminal(remit, *arguments)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture(scope="module", autouse=True)
def roles(remit: Instance) -> None:
    remit.apply(ROLES)


@contextlib.contextmanager
def detached(remit: Instance, *argv: str) -> Iterator[str]:
    task = remit.cli("run", "--role", "nothing", "--detach", "--", *argv).stdout.strip()
    try:
        yield task
    finally:
        remit.cli("stop", task, "--grace", "0", check=False)


def test_a_command_has_the_terminal_its_size_and_its_keys(remit: Instance) -> None:
    script = "tty; stty size; read line; echo got:$line; trap 'stty size; exit 5' WINCH; echo wait; while :; do sleep 0.1; done"
    with terminal(remit, "run", "--role", "nothing", "--", "bash", "-c", script) as at:
        at.expect("/dev/")
        at.expect("33 101")
        assert not at.echoes
        at.type("hello\r")
        at.expect("got:hello")
        at.expect("wait")
        at.resize(44, 122)
        at.expect("44 122")
        assert at.process.wait(PATIENCE_S) == 5
        assert termios.tcgetattr(at.slave) == at.before


def test_control_c_reaches_the_command_and_not_remit(remit: Instance) -> None:
    script = "trap 'echo caught; exit 4' INT; echo up; while :; do sleep 0.1; done"
    with terminal(remit, "run", "--role", "nothing", "--", "sh", "-c", script) as at:
        at.expect("up")
        at.type("\x03")
        at.expect("caught")
        assert at.process.wait(PATIENCE_S) == 4
        assert termios.tcgetattr(at.slave) == at.before


@pytest.mark.parametrize(
    ("arguments", "code"), [(("--role", "nobody", "--", "true"), 4), (("--role", "nothing", "--", "false"), 1)]
)
def test_a_failure_leaves_the_terminal_as_it_was(remit: Instance, arguments: tuple[str, ...], code: int) -> None:
    with terminal(remit, "run", *arguments) as at:
        assert at.process.wait(PATIENCE_S) == code
        assert termios.tcgetattr(at.slave) == at.before


def test_a_killed_client_of_a_terminal_ends_its_task(remit: Instance) -> None:
    with terminal(remit, "run", "--role", "nothing", "--", "sh", "-c", "echo up; exec sleep 4321.25") as at:
        at.expect("up")
    wait_for(lambda: not [one for one in remit.tasks() if "4321.25" in one["command"][-1]], "the task to end")


def test_exec_joins_a_running_task(remit: Instance) -> None:
    with detached(remit, "sh", "-c", "echo here > /tmp/note; exec sleep 1000") as task:
        wait_for(lambda: remit.cli("exec", "--no-tty", task, "--", "cat", "/tmp/note", check=False).stdout, "the note")
        done = remit.cli("exec", "--no-tty", task, "--", "sh", "-c", "cat; echo $A; exit 6", given="in ", check=False)
        assert (done.returncode, done.stdout) == (6, "in \n")
        with terminal(
            remit, "exec", "--env", "A=b", task[:6], "--", "sh", "-c", "tty; stty size; cat /tmp/note; echo =$A"
        ) as at:
            at.expect("33 101")
            at.expect("here")
            at.expect("=b")
            assert at.process.wait(PATIENCE_S) == 0
        assert [one["state"] for one in remit.tasks() if one["id"] == task] == ["running"]


def test_a_detached_task_is_followed_attached_and_stopped(remit: Instance) -> None:
    script = "trap 'echo stopping; exit 3' TERM; echo begun; while :; do sleep 0.1; done"
    with detached(remit, "sh", "-c", script) as task:
        with subprocess.Popen(
            [REMIT, "logs", "-f", task], stdout=subprocess.PIPE, text=True, env=remit.environment
        ) as logs:
            assert logs.stdout is not None
            assert logs.stdout.readline() == "begun\n"
            attach = subprocess.Popen(
                [REMIT, "attach", task],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                env=remit.environment,
            )
            assert remit.cli("exec", "--no-tty", task, "--", "echo", "in").stdout == "in\n"
            remit.cli("stop", task)
            assert logs.stdout.read().endswith("stopping\n")
            assert logs.wait(PATIENCE_S) == 0
            shown, _ = attach.communicate(timeout=PATIENCE_S)
            assert (shown.endswith("stopping\n"), attach.returncode) == (True, 3)
        kept = remit.cli("logs", task).stdout
        assert kept.startswith("begun\n") and kept.endswith("stopping\n")
        (ended,) = [one for one in remit.tasks("--all") if one["id"] == task]
        assert (ended["state"], ended["exit_code"]) == ("stopped", 3)


def test_a_memory_bomb_dies_alone(remit: Instance) -> None:
    bomb = "import os; print(len(b'x' * (1 << 30)))"
    with remit.running("nothing", "sh", "-c", "echo up; read line; echo $line") as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "up\n"
        done = remit.python("small", bomb)
        if "cannot hold the limit on memory" in done.stderr:
            pytest.skip("no memory cgroup on this machine")
        assert done.returncode == 137, done.stderr
        assert "memory limit" in done.stderr
        other.stdin.write("alive\n")
        other.stdin.flush()
        assert other.stdout.readline() == "alive\n"


def test_a_fork_bomb_is_bounded(remit: Instance) -> None:
    bomb = """
import os, time
for count in range(200):
    try:
        if not os.fork(): time.sleep(1000)
    except BlockingIOError:
        print(count)
        break
"""
    done = remit.python("small", bomb)
    if "cannot hold the limit on processes" in done.stderr:
        pytest.skip("no pids cgroup on this machine")
    assert done.returncode == 0, done.stderr
    assert 10 < int(done.stdout) <= 24
    assert remit.run("small", "echo", "fine").stdout == "fine\n"


def test_a_task_ends_at_its_time_limit(remit: Instance) -> None:
    begun = time.monotonic()
    done = remit.run("brief", "sleep", "1000")
    assert time.monotonic() - begun < 60
    assert done.returncode == 143, done.stderr
    assert "time limit" in done.stderr
