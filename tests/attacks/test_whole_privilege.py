"""A process of the node that was taken over: what it can read, where it can connect, what it can become.

Code runs as the process would: with its uid and group and nothing else (as root of the test, after giving root up).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from attacked import Whole

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="without root, everything runs as the user")

PROCESSES = ("control", "decide", "envoy", "forward")
READ = """
import json, os, sys
found = []
for path in json.load(sys.stdin):
    try:
        with open(path, "rb") as file: file.read(1); found.append(path)
    except OSError: pass
print(json.dumps(found))
"""
CONNECT = """
import json, socket, sys
found = []
for path in json.load(sys.stdin):
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as sock:
            try: sock.connect(path); found.append(path)
            except OSError: pass
print(json.dumps(sorted(set(found))))
"""


def user(whole: Whole, process: str) -> int:
    return Path(f"/proc/{whole.remit.pids()[process]}").stat().st_uid or int(status(whole, process)["Uid"].split()[1])


def status(whole: Whole, process: str) -> dict[str, str]:
    lines = Path(f"/proc/{whole.remit.pids()[process]}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def taken_over(whole: Whole, process: str, source: str, paths: list[Path]) -> set[str]:
    """What `source` reports of `paths`, as the uid of `process`; relative to the instance."""
    uid = user(whole, process)
    done = subprocess.run(
        ["/usr/bin/python3", "-c", source], input=json.dumps([str(path) for path in paths]), text=True,
        capture_output=True, user=uid, group=uid, extra_groups=[], cwd="/", check=True,
    )  # fmt: skip
    return {str(Path(path).relative_to(whole.remit.directory)) for path in json.loads(done.stdout)}


def test_each_process_is_somebody_else_and_can_become_nobody(whole: Whole) -> None:
    assert len({user(whole, process) for process in PROCESSES}) == len(PROCESSES)
    for process in PROCESSES:
        said, uid = status(whole, process), str(user(whole, process))
        assert uid != "0"
        assert set(said["Uid"].split()) == set(said["Gid"].split()) == {uid}, process
        assert said["Groups"] in ("", uid), process
        assert {said[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}, process
        assert said["NoNewPrivs"] == "1", process


def test_a_crash_leaves_no_core_not_even_to_a_program_that_collects_them(whole: Whole) -> None:
    """Envoy, the decision service and the forwarder hold credentials and tokens. 1, since 0 is no limit for a pipe."""
    pids = [whole.remit.pids()[process] for process in PROCESSES]
    decide = whole.remit.pids()["decide"]
    pids += [int(pid) for pid in Path(f"/proc/{decide}/task/{decide}/children").read_text().split()]
    assert len(pids) > len(PROCESSES)
    for pid in pids:
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        line = next(line for line in limits if line.startswith("Max core file size"))
        assert line.split()[4:6] == ["1", "1"], Path(f"/proc/{pid}/cmdline").read_text()


@pytest.mark.parametrize("process", PROCESSES)
def test_each_reads_its_own_files_and_what_was_made_for_it(whole: Whole, process: str) -> None:
    files = [path for path in whole.remit.state.rglob("*") if path.is_file()]
    found = taken_over(whole, process, READ, files)
    public = {"state/version", "state/ca/bundle.pem", "state/ca/remit-ca.pem"}
    own = {"control": ("state/control/", "state/decide/audit/"), "decide": ("state/decide/", "state/spool/", "state/ca/node/"), "envoy": ("state/boundary/", "state/spool/"), "forward": ()}[process]  # fmt: skip
    others = {path for path in found - public if not path.startswith(own)} - {"state/decide/sealed.pub"}
    assert others == set()
    must = {"control": "state/control/remit.db", "decide": "state/decide/sealed.key", "envoy": "state/boundary/envoy.json"}.get(process)  # fmt: skip
    assert must is None or must in found
    private = {"state/decide/sealed.key", "state/decide/head.key", "state/ca/root/root.key", "state/control/remit.db"}
    everything = {str(path.relative_to(whole.remit.directory)) for path in files}
    assert private <= everything, "the files that this test is about"
    if process == "control":
        assert found & private == {"state/control/remit.db"}
        assert any(path.startswith("state/decide/audit/") for path in found), "it indexes the log"
        assert not any(path.endswith("snapshot.json") for path in found)
    if process in ("envoy", "forward"):
        assert found & private == set()
        assert not any("issuer" in path or "audit" in path or "ca/node" in path for path in found)
    if process == "decide":
        assert not any("issuer" in path for path in found)


def test_another_user_of_the_machine_opens_nothing_and_locks_nothing(whole: Whole) -> None:
    """A file that can be read can be locked: whoever held the supervisor's lock would keep the node from starting."""
    run = whole.remit.run_dir
    found = [path for path in run.rglob("*") if not path.is_dir() and "stage" not in path.parts]
    source = """
import json, socket, sys
for path in json.loads(sys.argv[1]):
    for act in (open, lambda path: socket.socket(socket.AF_UNIX).connect(path)):
        try: act(path); print(path)
        except OSError: pass
"""
    done = subprocess.run(
        ["/usr/bin/python3", "-c", source, json.dumps([str(path) for path in found])], text=True,
        capture_output=True, user=65534, group=65534, extra_groups=[], cwd="/", check=True,
    )  # fmt: skip
    assert run / "supervisor.lock" in found
    assert done.stdout.split() == [str(run / "supervisor.json")]


@pytest.mark.parametrize(
    ("process", "reaches"),
    [
        ("control", {"cells.sock", "control/control.sock", "node/node.sock", "delegate/delegate.sock"}),
        (
            "decide",
            {
                "node/node.sock",
                "admin/envoy.sock",
                "decide/*",
                "dns/dns.sock",
            },
        ),
        (
            "envoy",
            {
                "decide/*",
                "admin/envoy.sock",
                "boundary/proxy.sock",
                "boundary/tcp.sock",
                "boundary/tls.sock",
                "delegate/delegate.sock",
            },
        ),
        (
            "forward",
            {"boundary/*", "dns/dns.sock", "forward/forward.sock"},
        ),
    ],
)
def test_each_connects_only_to_what_it_works_with(whole: Whole, process: str, reaches: set[str]) -> None:
    sockets = [path for path in whole.remit.run_dir.rglob("*") if path.is_socket()]
    assert len(sockets) >= 9
    if process == "forward":  # its one connection is the forwarder's own: not taken from it here
        sockets = [path for path in sockets if path.name != "forward.sock"]
        reaches = reaches - {"forward/forward.sock"}
    if process == "decide":  # nor the node's
        sockets = [path for path in sockets if path.name != "node.sock"]
        reaches = reaches - {"node/node.sock"}
    run = whole.remit.run_dir
    expected = {path for path in sockets for name in reaches if path.relative_to(run).match(name)}
    assert taken_over(whole, process, CONNECT, sockets) == {str(path.relative_to(run.parent)) for path in expected}


def test_the_control_plane_starts_no_cell_and_stops_none(whole: Whole) -> None:
    source = """
import json, socket, struct, sys
found = []
for op in ("run", "exec", "attach", "stop", "logs", "diff", "merge"):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(json.loads(sys.argv[1])); body = json.dumps({"op": op, "task": "t-x"}).encode()
        sock.sendall(b"J" + struct.pack(">I", len(body)) + body)
        found.append(sock.recv(4096)[5:].decode())
print(json.dumps(found))
"""
    uid = user(whole, "control")
    done = subprocess.run(
        ["/usr/bin/python3", "-c", source, json.dumps(str(whole.remit.run_dir / "cells.sock"))], text=True,
        capture_output=True, user=uid, group=uid, extra_groups=[], cwd="/", check=True,
    )  # fmt: skip
    answers = [json.loads(text) for text in json.loads(done.stdout)]
    assert {answer["detail"] for answer in answers} == {"the control plane may not ask that of cells"}


def test_the_control_plane_starts_only_what_hangs_on_a_task_that_runs(whole: Whole) -> None:
    """Were it taken over: no workspace, no terminal, no variables, and nothing without a running parent."""
    source = """
import json, socket, struct, sys
path, parent = json.loads(sys.argv[1])
found = []
for above in ("t-aaaaaaaaaa", parent):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        asked = {"op": "delegate", "parent": above, "request": "r-1", "role": "nothing", "argv": ["id"], "detach": True, "tty": True}
        asked |= {"workspace": {"path": "/root", "mode": "bind"}, "env": {"LD_PRELOAD": "/x"}}
        body = json.dumps(asked).encode()
        sock.sendall(b"J" + struct.pack(">I", len(body)) + body)
        found.append(sock.recv(4096)[5:].decode())
print(json.dumps(found))
"""
    uid = user(whole, "control")
    with whole.attacker("neighbour"):
        parent = whole.remit.newest()["id"]
        done = subprocess.run(
            ["/usr/bin/python3", "-c", source, json.dumps([str(whole.remit.run_dir / "cells.sock"), parent])], text=True,
            capture_output=True, user=uid, group=uid, extra_groups=[], cwd="/", check=True,
        )  # fmt: skip
    nobody, refused = (json.loads(text) for text in json.loads(done.stdout))
    assert nobody["detail"] == "no cell runs for task t-aaaaaaaaaa"
    assert "role neighbour does not delegate to role nothing" in refused["detail"]


def test_nobody_of_the_same_uid_looks_into_the_decision_service(whole: Whole) -> None:
    """The policy worker has the uid of the decision service: not its memory, nor its descriptors."""
    for process in ("decide", "control"):
        base = Path(f"/proc/{whole.remit.pids()[process]}")
        uid = user(whole, process)
        source = "import json, os, sys\nfound = []\nfor path in json.load(sys.stdin):\n    try: found.append(os.listdir(path) and path) if os.path.isdir(path) else found.append(open(path, 'rb').read(0) or path)\n    except OSError: pass\nprint(json.dumps(found))"
        done = subprocess.run(
            ["/usr/bin/python3", "-c", source], input=json.dumps([str(base / name) for name in ("mem", "environ", "fd", "maps")]),
            text=True, capture_output=True, user=uid, group=uid, extra_groups=[], cwd="/", check=True,
        )  # fmt: skip
        assert json.loads(done.stdout) == [], process


def test_the_policy_worker_can_open_nothing(whole: Whole) -> None:
    decide = whole.remit.pids()["decide"]
    workers = Path(f"/proc/{decide}/task/{decide}/children").read_text().split()
    assert workers
    for worker in workers:
        limits = Path(f"/proc/{worker}/limits").read_text()
        line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
        assert line.split()[3:5] == ["0", "0"], line
