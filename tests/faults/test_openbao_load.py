"""OpenBao is killed, sealed or stalled while a cell works with its secrets: each request is decided, nothing is stale."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from bao import Bao, working_with
from instance import Instance, wait_for
from upstreams import Upstreams

pytestmark = pytest.mark.xdist_group("openbao")

MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: agent}}
spec: {{capabilities: [api]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: api}}
spec: {{hosts: [api.up.example], ports: [{https}], paths: [/v1/**], credential: key, addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: key}}
spec:
  source: {{openbao: {{path: apps/api, key: token, refresh: 1s}}}}
  hosts: [api.up.example]
  inject: {{header: {{name: Authorization, format: "Bearer {{secret}}"}}}}
"""
LOAD = """
import json, ssl, sys, threading, urllib.request, urllib.error
context = ssl.create_default_context()  # once: it reads the system's CAs
def one(worker):
    for number in range(100000):
        try:
            with urllib.request.urlopen(f"{sys.argv[1]}/v1/load/{worker}/{number}", timeout=20, context=context) as answer:
                print(answer.status, flush=True)
        except urllib.error.HTTPError as error:
            print(json.loads(error.read())["reason"], flush=True)
        except OSError as error:
            print("undecided", error, flush=True)
for worker in range(4):
    threading.Thread(target=one, args=(worker,)).start()
"""
MANY = 40
"""Answers: more than there are requests under way."""


@pytest.fixture(scope="module")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Upstreams:
    return Upstreams(tmp_path_factory.mktemp("up"))


@pytest.fixture(scope="module")
def bao() -> Iterator[Bao]:
    server = Bao(durable=True)
    server.put("apps/api", token="first-version-31")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def instance(upstreams: Upstreams, bao: Bao) -> Iterator[Instance]:
    with working_with(bao, upstreams, MANIFESTS) as found:
        yield found


def again(bao: Bao) -> None:
    bao.start()
    bao.unseal()


WAYS: dict[str, tuple[Callable[[Bao], None], Callable[[Bao], None]]] = {
    "killed": (Bao.kill, again),
    "sealed": (Bao.seal, Bao.unseal),
    "stalled": (Bao.freeze, Bao.thaw),
}


class Load:
    """What the cell's requests were answered, one after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.said: Counter[str] = Counter()

    def until(self, answer: str, count: int) -> None:
        """Read until `answer` came `count` times in a row of all."""
        assert self._process.stdout is not None
        row = 0
        for line in self._process.stdout:
            said = line.strip()
            self.said[said] += 1
            row = row + 1 if said == answer else 0
            if row == count:
                return
        raise AssertionError(f"the load ended after {self.said}")


@pytest.mark.parametrize("way", WAYS)
def test_no_secret_is_stale_no_request_undecided_and_it_comes_back(
    instance: Instance, upstreams: Upstreams, bao: Bao, way: str
) -> None:
    breaking, mending = WAYS[way]
    fresh = f"version-before-{way}-32"
    bao.put("apps/api", token=fresh)
    with instance.running("agent", sys.executable, "-c", LOAD, f"https://api.up.example:{upstreams.https_port}") as run:
        load = Load(run)
        load.until("200", MANY)
        wait_for(lambda: upstreams.seen[-1]["headers"]["authorization"] == f"Bearer {fresh}", "the version is used")
        breaking(bao)
        load.until("credential_unavailable", MANY)
        reached = len(upstreams.seen)
        load.until("credential_unavailable", MANY)
        assert len(upstreams.seen) == reached, "its lease was over"
        mending(bao)
        after = f"version-after-{way}-33"
        bao.put("apps/api", token=after)
        load.until("200", MANY)
        wait_for(lambda: upstreams.seen[-1]["headers"]["authorization"] == f"Bearer {after}", "the new one is used")
        run.send_signal(signal.SIGTERM)
    late = load.said.pop("refused_by_boundary", 0)  # a check waits for a store for most of the time that it has
    assert late < MANY and set(load.said) == {"200", "credential_unavailable"}, load.said
    decided = Counter(record["decision"] for record in instance.audit(host="api.up.example"))
    assert decided["permit"] >= load.said["200"] and decided["deny"] >= load.said["credential_unavailable"]
