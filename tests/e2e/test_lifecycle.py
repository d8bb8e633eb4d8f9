"""Up, down, and what is found on a real machine: twice up, killed, bad settings, a taken port, a full disk."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from governed import SECRET, manifests
from instance import REMIT, Instance, asking, refused, wait_for
from upstreams import NAMES, Upstreams

from remit.app import identities
from remit.settings import Settings

pytestmark = pytest.mark.xdist_group("lifecycle")

LEASE_S = 6


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
    assert instance.cli("up", "--detach", check=False).returncode in (0, 5)
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
    """Mounts (of network namespaces too), control groups, sockets and state of an instance that is down."""
    marks = {instance.directory.name, *theirs}
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    groups = [str(path) for path in Path("/sys/fs/cgroup").rglob(f"*{task}")]
    files = [str(path) for path in instance.run_dir.rglob("*") if not path.is_dir()]
    who = identities.of(Settings(state_dir=instance.state, run_dir=instance.run_dir))
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout.split()
    files += [who.fence] if who is not None and who.fence in tables else []
    return [*(line for line in mounts if any(mark in line for mark in marks)), *groups, *files]


def test_a_second_up_is_refused_and_nothing_is_lost(kept: Instance) -> None:
    supervisor = ensure_up(kept)
    before = kept.pids()
    refused(kept, 5, "already up", str(supervisor))
    refused(kept, 5, "already up", str(supervisor), command="up")
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
    with asking(kept, f"https://api.up.example:{upstreams.https_port}/v1/life") as ask:
        for pid in stopped:  # the supervisor too: it would restart what stalls
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: "control_plane_lost" in ask(), "the lease to run out", LEASE_S + 60)
        finally:
            for pid in reversed(stopped):
                os.kill(pid, signal.SIGCONT)
        wait_for(lambda: ask() == "200\n", "the node to hear again")


def test_sigterm_in_the_foreground_leaves_nothing_behind(kept: Instance, tmp_path: Path) -> None:
    kept.cli("down")
    with contextlib.ExitStack() as undo:
        process = undo.enter_context(
            subprocess.Popen([REMIT, "up"], stderr=subprocess.PIPE, text=True, env=kept.environment)
        )
        undo.callback(process.kill)
        assert process.stderr is not None
        said = [next(process.stderr) for _ in range(11)]
        assert said[-1] == "remit: up\n", said
        (tmp_path / "work").mkdir()
        options = ["--workspace", str(tmp_path / "work")]
        with kept.running("nothing", "sh", "-c", "echo up; setsid sleep 1000", options=options) as running:
            assert running.stdout is not None
            running.stdout.readline()
            task = kept.newest()
            everything = beneath(process.pid)
            theirs = networks(everything)
            assert len(everything) > 8
            assert theirs
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert running.wait(60) != 0
    wait_for(lambda: not alive(everything), "every process to be gone")
    assert left_behind(kept, task["id"], theirs) == []


def test_after_kill_9_of_the_supervisor_everything_dies_and_up_works(kept: Instance) -> None:
    supervisor = ensure_up(kept)
    with kept.running("nothing", "sh", "-c", "echo up; setsid sleep 1000") as running:
        assert running.stdout is not None
        running.stdout.readline()
        task = kept.newest()
        everything = beneath(supervisor)
        os.kill(supervisor, signal.SIGKILL)
        wait_for(lambda: not alive(everything), f"all to die: {everything}")
    assert (kept.run_dir / "supervisor.json").exists()
    for name in ("control/control.sock", "cells.sock", "node/node.sock"):
        with contextlib.suppress(FileExistsError):
            os.mknod(kept.run_dir / name, 0o600 | 0o140000)
    refused(kept, 6, "does not answer", command="status")
    kept.up()
    assert kept.run("nothing", "echo", "again").stdout == "again\n"
    wait_for(lambda: task["id"] not in [one["id"] for one in kept.tasks()], "its task to have ended", 45)
    assert kept.cli("audit", "verify").stdout.startswith("ok")


def test_a_restart_keeps_manifests_secrets_and_the_audit_chain(kept: Instance, upstreams: Upstreams) -> None:
    ensure_up(kept)
    before, head = json.loads(kept.cli("status", "--json").stdout), kept.audit()[-1]
    assert "is down" in kept.cli("down").stderr
    again = kept.cli("down")
    assert (again.returncode, again.stderr) == (0, "remit was not up\n")
    race = [subprocess.Popen([REMIT, "up", "--detach"], stderr=subprocess.PIPE, env=kept.environment) for _ in range(3)]
    said = [one.communicate(timeout=60)[1].decode() for one in race]
    assert sorted(one.returncode for one in race) == [0, 5, 5], said
    after = json.loads(kept.cli("status", "--json").stdout)
    assert {k: after[k] for k in ("digest", "manifests", "secrets")} == {
        k: before[k] for k in ("digest", "manifests", "secrets")
    }
    url = f"https://api.up.example:{upstreams.https_port}/v1/after-restart"
    kept.run("agent", "curl", "-sS", "-f", "-m", "20", url, check=True)
    assert upstreams.reached("/v1/after-restart")[0]["headers"]["authorization"] == f"Bearer {SECRET}"
    assert head["id"] in [record["id"] for record in kept.audit()]
    assert kept.cli("audit", "verify").stdout.startswith("ok")


def test_a_node_that_signs_with_another_audit_key_is_found_out_until_an_operator_trusts_it(kept: Instance) -> None:
    """Whoever rewrites the log and makes a key of his own has heads that look right, and do not count."""
    ensure_up(kept)
    assert kept.cli("audit", "verify").stdout.startswith("ok")
    before = json.loads(kept.cli("audit", "keys", "--json").stdout)
    assert before["trusted"]
    kept.cli("down")
    (kept.state / "decide/head.key").rename(kept.state / "decide/head.key.before")
    kept.up()

    def refused_keys() -> list[dict[str, object]]:
        found = [json.loads(line) for line in kept.cli("audit", "keys", "--json").stdout.splitlines()]
        return [one for one in found if not one["trusted"]]

    fresh = wait_for(refused_keys, "the other key to be refused")[0]["key"]
    assert fresh != before["key"]
    said = kept.cli("audit", "verify", check=False)
    assert said.returncode == 1
    assert f"signs with key {fresh}, which is not trusted here" in said.stderr
    kept.cli("audit", "trust", str(fresh)[:12])
    assert kept.cli("audit", "verify").stdout.startswith("ok")
    assert kept.audit(kind="operator")[-1]["action"] == "audit.trust"
