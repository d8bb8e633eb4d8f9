"""What a stranger tries, with the real command: one clear error with a hint, nothing lost, nothing left hanging."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from instance import REMIT, Instance, refused, wait_for

pytestmark = pytest.mark.xdist_group("e2e")

RUN = (str(REMIT), "run", "--role", "nothing", "--no-tty", "--")


@pytest.mark.parametrize("name", ["/no/such", "nosuchcommand", "./nothing here"])
def test_a_command_that_does_not_exist_is_named(remit: Instance, name: str) -> None:
    done = remit.run("nothing", name)
    assert done.returncode == 127
    assert done.stderr == f"remit: {name}: command not found in the cell\n"


def test_a_missing_command_beside_a_task_is_named_too(remit: Instance) -> None:
    task = remit.cli("run", "--role", "nothing", "--detach", "--", "sleep", "600").stdout.strip()
    done = remit.cli("exec", "--no-tty", task, "--", "nosuchcommand", given="", check=False)
    assert (done.returncode, done.stderr) == (127, "remit: nosuchcommand: command not found in the cell\n")
    remit.cli("stop", task, "--grace", "0")
    refused(remit, 4, "no cell runs", command=f"exec {task} -- true")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_do_not_hang_a_run(remit: Instance, closed: str) -> None:
    script = f"exec {closed}; " + " ".join(RUN) + " cat"
    done = subprocess.run(
        ["sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, timeout=20, env=remit.environment
    )
    assert done.returncode == 0


def test_output_that_cannot_be_written_is_one_error_and_ends_the_task(remit: Instance) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*RUN, "sh", "-c", "echo x; sleep 600"], stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=20, env=remit.environment,
        )  # fmt: skip
    assert done.returncode == 6
    assert done.stderr.startswith("error: standard output cannot be written, so the task is ended\ncause: No space")
    assert "hint: " in done.stderr
    wait_for(lambda: not [t for t in remit.tasks() if "sleep 600" in " ".join(t["command"])], "the task is ended")


def test_much_and_binary_output_comes_whole(remit: Instance) -> None:
    script = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 20000)"
    done = subprocess.run(
        [*RUN, sys.executable, "-c", script], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, env=remit.environment
    )  # fmt: skip
    assert done.stdout == bytes(range(256)) * 20000


def test_any_text_goes_in_and_comes_out(remit: Instance) -> None:
    text = "ünïcödé 日本 🎉 --flag '$x' \"y\""
    assert remit.run("nothing", "printf", "%s", text, check=True).stdout == text


def test_logs_are_there_while_it_runs_and_after(remit: Instance) -> None:
    task = remit.cli("run", "--role", "nothing", "--detach", "--", "sh", "-c", "echo one; sleep 600").stdout.strip()
    wait_for(lambda: remit.cli("logs", task).stdout == "one\n", "its output")
    with subprocess.Popen(
        [str(REMIT), "logs", "-f", task], stdout=subprocess.PIPE, text=True, env=remit.environment
    ) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "one\n"
        remit.cli("stop", task, "--grace", "0")
        assert following.wait(60) == 0
    assert remit.cli("logs", task).stdout == "one\n"


def test_an_unknown_role_is_answered_with_a_hint_that_works(remit: Instance) -> None:
    refused(remit, 4, "there is no role agnt", "did you mean agent", command="run --role agnt -- true")
    done = remit.cli("run", "--role", "agnt", "--", "true", check=False)
    hint = done.stderr.partition("hint: remit ")[2].split()
    assert remit.cli(*hint).stdout


def test_a_directory_to_start_in_that_is_not_there_is_named(remit: Instance, tmp_path: Path) -> None:
    refused(
        remit, 4, "--cwd nope: the workspace has no such directory",
        command=f"run --role agent --workspace {tmp_path} --cwd nope -- true",
    )  # fmt: skip


def test_a_malformed_manifest_is_named_by_line_and_changes_nothing(remit: Instance, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("apiVersion: remit.dev/v1alpha1\nkind: Role\nmetadata: {name: bad}\nspec: {capabilitys: []}\n")
    before = remit.cli("get", "roles", "--json").stdout
    done = remit.cli("apply", "-f", str(file), check=False)
    assert done.returncode == 2
    assert "bad.yaml:4" in done.stderr
    assert "capabilities" in done.stderr, "the nearest valid name"
    file.write_text("{[")
    assert remit.cli("apply", "-f", str(file), check=False).returncode == 2
    assert remit.cli("get", "roles", "--json").stdout == before


def test_a_second_up_says_so_and_changes_nothing(remit: Instance) -> None:
    pids = remit.pids()
    refused(remit, 5, "already up")
    assert remit.pids() == pids


@pytest.mark.parametrize(
    "command",
    ["ps", "ps --all", "status", "get roles", "secret list", "revocations", "audit list", "version", "whoami"],
)
def test_json_is_one_object_a_line(remit: Instance, command: str) -> None:
    for line in remit.cli(*command.split(), "--json").stdout.splitlines():
        assert isinstance(json.loads(line), dict)


def test_ctrl_c_ends_what_follows_and_what_runs(remit: Instance) -> None:
    # Not a shell: dash drops a signal that arrives while it starts a command (`onsig` returns while `vforked`).
    waits = "import signal, time; signal.signal(2, signal.SIG_DFL); print('up', flush=True); time.sleep(600)"
    with subprocess.Popen(
        [*RUN, sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=remit.environment
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        running.send_signal(2)
        assert running.wait(60) == 130
    task = remit.cli("run", "--role", "nothing", "--detach", "--", "sh", "-c", "echo up; sleep 600").stdout.strip()
    with subprocess.Popen([str(REMIT), "logs", "-f", task], stdout=subprocess.PIPE, env=remit.environment) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == b"up\n"
        following.send_signal(2)
        assert following.wait(60) == 130
    assert task in [one["id"] for one in remit.tasks()], "who merely reads along ends nothing"
    remit.cli("stop", task, "--grace", "0")
