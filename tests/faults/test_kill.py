"""kill -9 and SIGSTOP of each part under load.

Nothing gets through ungoverned, nothing permitted lacks its record, nothing is kept from who watches, and the whole
recovers by itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter

import pytest
from instance import REMIT, Instance, wait_for
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("faults")

LOAD = """
import ssl, sys, threading, time, urllib.request, urllib.error
context = ssl.create_default_context()  # once: it reads the system's CAs
base, kind = sys.argv[1:]
def one(worker):
    for number in range(100000):
        try:
            with urllib.request.urlopen(f"{base}/v1/{kind}/{worker}/{number}", timeout=10, context=context) as answer:
                print(answer.status, flush=True)
        except urllib.error.HTTPError as error:
            print(error.code, flush=True)
        except OSError as error:
            print("down", flush=True)
            time.sleep(0.05)  # a part that starts needs the processors more than who asks in vain
for worker in range(4):
    threading.Thread(target=one, args=(worker,)).start()
"""


def served(load: subprocess.Popen[str], count: int) -> None:
    """Read until `count` requests were answered with 200."""
    assert load.stdout is not None and load.stderr is not None
    said = Counter[str]()
    for line in load.stdout:
        said[line.strip()] += 1
        if said["200"] == count:
            return
    raise AssertionError(f"the load ended with {load.wait(10)} after {said}: {load.stderr.read()[-2000:]}")


@pytest.mark.parametrize(
    ("part", "number"),
    [(part, signal.SIGKILL) for part in ("envoy", "decide", "control", "forward")]
    + [(part, signal.SIGSTOP) for part in ("envoy", "decide", "control", "forward")],
)
def test_the_node_recovers_and_every_request_that_went_through_has_its_record(
    remit: Instance, upstreams: Upstreams, part: str, number: signal.Signals
) -> None:
    kind = f"{part}-{number.name.lower()}"
    base = f"https://api.up.example:{upstreams.https_port}"
    with remit.running("agent", sys.executable, "-c", LOAD, base, kind) as load:
        served(load, 20)
        before = remit.pids()[part]
        os.kill(before, number)
        wait_for(lambda: remit.pids().get(part) not in (None, before), f"a new {part}")
        served(load, 20)
    reached = {one["path"] for one in upstreams.seen if one["path"].startswith(f"/v1/{kind}/")}
    recorded = {r["path"] for r in remit.audit(decision="permit") if str(r["path"]).startswith(f"/v1/{kind}/")}
    assert reached
    assert reached <= recorded
    assert remit.cli("audit", "verify").stdout.startswith("ok")


def test_no_record_is_left_out_or_told_twice_when_the_control_plane_dies(remit: Instance, upstreams: Upstreams) -> None:
    tail = subprocess.Popen(
        [str(REMIT), "audit", "tail", "--json", "--kind", "decision"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=remit.environment,
    )  # fmt: skip
    told: list[dict[str, object]] = []

    def read() -> None:
        assert tail.stdout is not None
        told.extend(json.loads(line) for line in tail.stdout)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        base = f"https://api.up.example:{upstreams.https_port}"
        with remit.running("agent", sys.executable, "-c", LOAD, base, "tail") as load:
            served(load, 10)
            wait_for(lambda: told, "the first record")
            for _ in range(3):
                before = remit.pids()["control"]
                os.kill(before, signal.SIGKILL)
                served(load, 10)  # also while nobody tells
                wait_for(lambda before=before: remit.pids().get("control") not in (None, before), "a new one")
                wait_for(lambda: remit.cli("status", "--json", check=False).returncode == 0, "it is well")
        written = [record["seq"] for record in remit.audit(kind="decision")]
        wait_for(lambda: told[-1]["seq"] == written[-1], "the last record")
        tail.send_signal(signal.SIGINT)
        assert tail.wait(60) == 130
        reader.join(60)
    finally:
        tail.kill()
        err = tail.communicate()[1]
    seqs = [record["seq"] for record in told]
    assert seqs == written[written.index(seqs[0]) :]
    assert err.count("the control plane has gone; waiting for it\n") == err.count("the control plane is back\n") == 3


def test_when_cells_dies_every_cell_dies_and_new_ones_start(remit: Instance, upstreams: Upstreams) -> None:
    with remit.running("nothing", "sh", "-c", "echo up; exec sleep 123454321.5") as process:
        assert process.stdout is not None
        process.stdout.readline()
        before = remit.pids()["cells"]
        os.kill(before, signal.SIGKILL)
        assert process.wait(60) != 0
    wait_for(lambda: remit.pids().get("cells") not in (None, before), "new cells")
    wait_for(lambda: remit.run("nothing", "true").returncode == 0, "a cell")
    assert subprocess.run(["pgrep", "-f", "sleep 123454321.5"], capture_output=True).returncode == 1
