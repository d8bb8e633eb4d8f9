"""A budget across kill -9 of the decision service: what was permitted stays charged, and no unit is given out twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from instance import Instance, wait_for
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("faults")

KILLS = 10
LIMIT = 100
MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: spender}}
spec: {{capabilities: [spend], budgets: [{{requests: {limit}}}, {{bytesIn: 1Gi}}]}}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: streamer}}
spec: {{capabilities: [spend], budgets: [{{bytesIn: 3Ki}}]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: spend}}
spec: {{hosts: [api.up.example], ports: [{port}], paths: [/v1/**, /stream/**], addresses: [127.0.0.0/8]}}
"""

LOAD = """
import ssl, sys, threading, time, urllib.request, urllib.error
context = ssl.create_default_context()  # once: it reads the system's CAs
base = sys.argv[1]
def one(worker):
    number = 0
    while True:
        number += 1
        try:
            with urllib.request.urlopen(f"{base}/v1/kill/{worker}/{number}", timeout=10, context=context) as answer:
                print(answer.status, flush=True)
        except urllib.error.HTTPError as error:
            print(error.code, flush=True)
            if error.code == 429: return
        except OSError as error:
            print("down", flush=True)
            time.sleep(0.1)  # a part that starts needs the processors more than who asks in vain
        time.sleep(0.02)
for worker in range(8):
    threading.Thread(target=one, args=(worker,)).start()
"""


def served(load: subprocess.Popen[str], count: int) -> int:
    """Read until `count` requests more were answered with 200, or one with 429."""
    assert load.stdout is not None
    found = 0
    for line in load.stdout:
        found += line.strip() == "200"
        if found == count or line.strip() == "429":
            break
    return found


def permits(remit: Instance) -> list[dict[str, Any]]:
    return [one for one in remit.audit(decision="permit", role="spender") if str(one["path"]).startswith("/v1/kill/")]


@pytest.fixture(autouse=True)
def manifests(remit: Instance, upstreams: Upstreams) -> None:
    remit.apply(MANIFESTS.format(limit=LIMIT, port=upstreams.https_port))


def used(remit: Instance, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(remit.cli("budget", "show", name, "--json").stdout.splitlines()[0])
    return found


@pytest.mark.timeout(300)
def test_no_unit_is_given_out_twice_across_restarts(remit: Instance, upstreams: Upstreams) -> None:
    base = f"https://api.up.example:{upstreams.https_port}"
    with remit.running("spender", sys.executable, "-c", LOAD, base) as load:
        for _ in range(KILLS):
            served(load, 7)
            before = remit.pids()["decide"]
            os.kill(before, signal.SIGKILL)
            wait_for(lambda before=before: remit.pids().get("decide") not in (None, before), "a new decide")
        while served(load, 1):
            pass
    reached = [one for one in upstreams.seen if one["path"].startswith("/v1/kill/")]
    assert len(permits(remit)) == LIMIT
    assert len(reached) <= LIMIT
    assert used(remit, "role/spender/requests")["used"] == LIMIT
    assert remit.cli("audit", "verify").stdout.startswith("ok")


def test_a_stream_is_counted_on_and_cut_after_a_restart(remit: Instance, upstreams: Upstreams) -> None:
    url = f"https://api.up.example:{upstreams.https_port}/stream/restarted"
    with remit.running("streamer", "curl", "-sSN", url) as stream:
        assert stream.stdout is not None
        assert stream.stdout.readline() == "data: 1\n"
        before = remit.pids()["decide"]
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: remit.pids().get("decide") not in (None, before), "a new decide")
        assert used(remit, "role/streamer")["used"] > 0, "what was reserved is still taken"
        last = stream.stdout.read().split("\n")
        assert stream.wait(60) != 0
    assert "data: 2999" not in last
    wait_for(lambda: used(remit, "role/streamer")["left"] == 0, "it is charged")
