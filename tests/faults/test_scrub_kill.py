"""kill -9 of what searches answers, while they stream: none tells the credential, and the whole recovers by itself."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter

import pytest
from governed import PLACEHOLDER, SECRET
from instance import Instance, wait_for
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("faults")

LOAD = """
import http.client, ssl, sys, threading, time, urllib.request
context = ssl.create_default_context()  # once: it reads the system's CAs
def one(worker):
    for number in range(100000):
        try:
            with urllib.request.urlopen(f"{sys.argv[1]}/v1/killed/{worker}/{number}", timeout=10, context=context) as answer:
                print("200", answer.read().decode("latin-1").replace("\\n", " "), flush=True)
        except urllib.error.HTTPError as error:
            print(error.code, error.read().decode("latin-1").replace("\\n", " "), flush=True)
        except (OSError, http.client.HTTPException) as error:
            print("cut", flush=True)
            time.sleep(0.05)  # a part that starts needs the processors more than who asks in vain
for worker in range(4):
    threading.Thread(target=one, args=(worker,)).start()
"""


def test_no_answer_tells_the_credential_whoever_dies_in_its_middle(remit: Instance, upstreams: Upstreams) -> None:
    said, seen = Counter[str](), 0
    with remit.running("agent", sys.executable, "-c", LOAD, f"https://api.up.example:{upstreams.https_port}") as load:
        assert load.stdout is not None

        def answered(count: int) -> None:
            nonlocal seen
            good = 0
            for line in load.stdout or ():
                said[line[:3]] += 1
                assert SECRET not in line
                seen += PLACEHOLDER[:8] in line
                good += line.startswith("200")
                if good == count:
                    return
            raise AssertionError(f"the load ended after {said}")

        answered(20)
        for _ in range(5):
            before = remit.pids()["decide"]
            os.kill(before, signal.SIGKILL)
            wait_for(lambda before=before: remit.pids().get("decide") not in (None, before), "a new decide")
            answered(20)
    assert seen >= 120, "the upstream did not say the credential again"
    assert said["200"] < sum(said.values()), "nothing was ever refused or cut"
