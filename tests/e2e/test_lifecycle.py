"""Up, down, and what is found on a real machine: twice up, killed, bad settings, a taken port, a full disk."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from governed import SECRET, manifests
from instance import REMIT, Instance, wait_for
from upstreams import NAMES, Upstreams

pytestmark = pytest.mark.xdist_group("lifecycle")

LEASE_S = 6
ASK = """
import sys, urllib.request, urllib.error
for url in sys.stdin:
    try:
        with urllib.request.urlopen(url.strip(), timeout=20) as answer: print(answer.status, flush=True)
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode().replace("\\n", " "), flush=True)
    except OSError as error:
        print("down", error, flush=True)
"""


class Asking:
    """An agent in a cell that fetches what it is told, one URL after the other."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process, self._url = process, url

    def __call__(self) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(self._url + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextlib.contextmanager
def asking(instance: Instance, upstreams: Upstreams) -> Iterator[Asking]:
    with instance.running("agent", sys.executable, "-c", ASK) as process:
        ask = Asking(process, f"https://api.up.example:{upstreams.https_port}/v1/life")
        assert ask() == "200\n"
        yield ask


def fresh(**environment: str) -> Instance:
    instance = Instance(hosts={}, ca=None)
    instance.environment.update(environment)
    return instance


@contextlib.contextmanager
def own(**environment: str) -> Iterator[Instance]:
    instance = fresh(**environment)
    try:
        yield instance
    finally:
        instance.down()


@pytest.fixture(scope="module")
def kept(upstreams: Upstreams) -> Iterator[Instance]:
    """One instance that these tests bring up and down; begin with `ensure_up`."""
    instance = Instance(hosts=dict.fromkeys(NAMES, "127.0.0.1"), ca=upstreams.ca)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        instance.environment["REMIT_API_PORT"] = str(probe.getsockname()[1])
    instance.environment["REMIT_NODE_LEASE_S"] = str(LEASE_S)
    try:
        instance.up()
        instance.apply(manifests(upstreams))
        instance.secret("key", SECRET)
        yield instance
    finally:
        instance.down()


def ensure_up(instance: Instance) -> int:
    """The supervisor's pid."""
    if not (instance.run_dir / "supervisor.json").exists():
        instance.up()
    return int(json.loads((instance.run_dir / "supervisor.json").read_text())["pid"])


def processes() -> dict[int, tuple[int, str]]:
    """pid → (parent, start time) of everything that runs; a zombie does not."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                found[int(path.parent.name)] = (int(fields[1]), fields[19])
    return found


def beneath(root: int) -> set[tuple[int, str]]:
    """(pid, start time) of `root` and everything that it started."""
    running = processes()
    found = {root}
    while new := {pid for pid, (parent, _) in running.items() if parent in found and pid not in found}:
        found |= new
    return {(pid, running[pid][1]) for pid in found}


def alive(wanted: set[tuple[int, str]]) -> set[tuple[int, str]]:
    return wanted & {(pid, start) for pid, (_, start) in processes().items()}


def networks(wanted: set[tuple[int, str]]) -> set[str]:
    found = set()
    for pid, _ in wanted:
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
    return found - {os.readlink("/proc/self/ns/net")}


def left_behind(instance: Instance, task: str, theirs: set[str]) -> list[str]:
    """Mounts, cgroups, interfaces' namespaces and sockets that an instance that is down should not have."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if instance.directory.name in line]
    groups = [str(path) for path in Path("/sys/fs/cgroup").rglob(f"*{task}")]
    held = networks({(pid, "") for pid in processes()}) & theirs
    sockets = [str(path) for path in instance.run_dir.rglob("*") if path.is_socket() and path.name != "envoy.sock"]
    return [*mounts, *groups, *held, *sockets, *map(str, instance.run_dir.glob("supervisor.json"))]


def refused(instance: Instance, code: int, *said: str, command: tuple[str, ...] = ("up", "--detach")) -> None:
    done = instance.cli(*command, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == code, done.stderr
    assert len(errors) == 1, done.stderr
    assert "\nhint: " in f"\n{done.stderr}"
    assert "Traceback" not in done.stderr
    for text in said:
        assert text in done.stderr


def test_a_second_up_is_refused_and_nothing_is_lost(kept: Instance) -> None:
    supervisor = ensure_up(kept)
    before = kept.pids()
    refused(kept, 5, "already up", str(supervisor))
    refused(kept, 5, "already up", str(supervisor), command=("up",))
    assert kept.pids() == before
    status = json.loads(kept.cli("status", "--json").stdout)
    assert status["ok"]
    assert {name: part["state"] for name, part in status["processes"].items()} == dict.fromkeys(before, "ready")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer {token}"}, 200),
        ({"Authorization": "Bearer {token}", "Host": "evil.example"}, 403),
        ({"Authorization": "Bearer {token}", "Origin": "http://evil.example"}, 403),
        ({"Authorization": "Bearer {token}", "Origin": "null"}, 403),
    ],
)
def test_the_api_on_loopback_wants_its_token_and_no_web_page(
    kept: Instance, headers: dict[str, str], status: int
) -> None:
    ensure_up(kept)
    file = kept.state / "control" / "api-token"
    assert file.stat().st_mode & 0o777 == 0o600
    sent = {name: value.format(token=file.read_text().strip()) for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", int(kept.environment["REMIT_API_PORT"]), timeout=20)
    connection.request("GET", "/v1/status", headers=sent)
    assert connection.getresponse().status == status
    connection.close()


def test_a_node_that_cannot_hear_its_control_plane_refuses_until_it_does(kept: Instance, upstreams: Upstreams) -> None:
    supervisor = ensure_up(kept)
    stopped = [supervisor, kept.pids()["control"]]
    with asking(kept, upstreams) as ask:
        for pid in stopped:  # the supervisor too: it would restart what stalls
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: "control_plane_lost" in ask(), "the lease to run out", LEASE_S + 10)
        finally:
            for pid in reversed(stopped):
                os.kill(pid, signal.SIGCONT)
        wait_for(lambda: ask() == "200\n", "the node to hear again", 20)


def test_sigterm_in_the_foreground_leaves_nothing_behind(kept: Instance, tmp_path: Path) -> None:
    kept.cli("down")
    with subprocess.Popen([REMIT, "up"], stderr=subprocess.PIPE, text=True, env=kept.environment) as process:
        assert process.stderr is not None
        said = [next(process.stderr) for _ in range(11)]
        assert said[-1] == "remit: up\n", said
        (tmp_path / "work").mkdir()
        options = ["--workspace", str(tmp_path / "work")]
        with kept.running("nothing", "sh", "-c", "echo up; setsid sleep 1000", options=options) as running:
            assert running.stdout is not None
            running.stdout.readline()
            (task,) = kept.tasks()
            everything = beneath(process.pid)
            theirs = networks(everything)
            assert len(everything) > 8
            assert theirs
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert running.wait(10) != 0
    wait_for(lambda: not alive(everything), "every process to be gone")
    assert left_behind(kept, task["id"], theirs) == []


def test_after_kill_9_of_the_supervisor_everything_dies_and_up_works(kept: Instance) -> None:
    supervisor = ensure_up(kept)
    with kept.running("nothing", "sh", "-c", "echo up; setsid sleep 1000") as running:
        assert running.stdout is not None
        running.stdout.readline()
        (task,) = kept.tasks()
        everything = beneath(supervisor)
        os.kill(supervisor, signal.SIGKILL)
        wait_for(lambda: not alive(everything), f"all to die: {everything}", 20)
    assert (kept.run_dir / "supervisor.json").exists()
    for name in ("control.sock", "cells.sock", "node.sock"):
        with contextlib.suppress(FileExistsError):
            os.mknod(kept.run_dir / name, 0o600 | 0o140000)
    refused(kept, 6, "does not answer", command=("status",))
    kept.up()
    assert kept.run("nothing", "echo", "again").stdout == "again\n"
    wait_for(lambda: [one["state"] for one in kept.tasks("--all") if one["id"] == task["id"]] == ["failed"], "its end")
    assert kept.cli("audit", "verify").stdout.startswith("ok")


def test_a_restart_keeps_manifests_secrets_and_the_audit_chain(kept: Instance, upstreams: Upstreams) -> None:
    ensure_up(kept)
    before, head = json.loads(kept.cli("status", "--json").stdout), kept.audit()[-1]
    assert "is down" in kept.cli("down").stderr
    again = kept.cli("down")
    assert (again.returncode, again.stderr) == (0, "remit was not up\n")
    kept.up()
    after = json.loads(kept.cli("status", "--json").stdout)
    assert {k: after[k] for k in ("digest", "manifests", "secrets")} == {k: before[k] for k in ("digest", "manifests", "secrets")}
    url = f"https://api.up.example:{upstreams.https_port}/v1/after-restart"
    kept.run("agent", "curl", "-sS", "-f", "-m", "20", url, check=True)
    assert upstreams.reached("/v1/after-restart")[0]["headers"]["authorization"] == f"Bearer {SECRET}"
    assert head["id"] in [record["id"] for record in kept.audit()]
    assert kept.cli("audit", "verify").stdout.startswith("ok")
