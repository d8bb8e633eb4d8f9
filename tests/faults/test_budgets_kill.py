"""A budget across kill -9 of the decision service: what was permitted stays charged, and no unit is given out twice."""

from __future__ import annotations

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
kind: Capability
metadata: {{name: spend}}
spec: {{hosts: [api.up.example], ports: [{port}], paths: [/v1/**], addresses: [127.0.0.0/8]}}
"""

LOAD = """
import sys, threading, time, urllib.request, urllib.error
base = sys.argv[1]
def one(worker):
    number = 0
    while True:
        number += 1
        try:
            with urllib.request.urlopen(f"{base}/v1/kill/{worker}/{number}", timeout=10) as answer:
                print(answer.status, flush=True)
        except urllib.error.HTTPError as error:
            print(error.code, flush=True)
            if error.code == 429: return
        except OSError as error:
            print("down", flush=True)
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


@pytest.mark.timeout(300)
def test_no_unit_is_given_out_twice_across_restarts(remit: Instance, upstreams: Upstreams) -> None:
    remit.apply(MANIFESTS.format(limit=LIMIT, port=upstreams.https_port))
    base = f"https://api.up.example:{upstreams.https_port}"
    with remit.running("spender", sys.executable, "-c", LOAD, base) as load:
        for _ in range(KILLS):
            served(load, 7)
            before = remit.pids()["decide"]
            os.kill(before, signal.SIGKILL)
            wait_for(lambda before=before: remit.pids().get("decide") not in (None, before), "a new decide", 20)
        while served(load, 1):
            pass
    reached = [one for one in upstreams.seen if one["path"].startswith("/v1/kill/")]
    assert len(permits(remit)) == LIMIT
    assert len(reached) <= LIMIT
    shown = remit.cli("budget", "show", "role/spender", "--json").stdout
    assert '"used":100' in shown.replace(" ", "")
    assert remit.cli("audit", "verify").stdout.startswith("ok")
