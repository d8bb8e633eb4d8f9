"""A whole Remit whose agents must ask, and agents in real cells that ask it: for tests of approvals."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from governed import SECRET
from instance import Instance, wait_for
from upstreams import NAMES, Upstreams

API = "api.up.example"

MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: asker}}
spec: {{capabilities: [paid, each, free, watched], policies: [large], approvals: {{uncovered: ask}}}}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: payer}}
spec: {{capabilities: [paid]}}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: eyes}}
spec: {{capabilities: [paid], approvals: {{fourEyes: true}}}}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: tried}}
spec: {{capabilities: [paid]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: paid}}
spec:
  hosts: [api.up.example]
  ports: [{https}]
  paths: [/pay/**]
  credential: key
  approval: ask
  addresses: [127.0.0.0/8]
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: each}}
spec: {{hosts: [api.up.example], ports: [{https}], paths: [/each/**], approval: always-ask, addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: free}}
spec: {{hosts: [api.up.example], ports: [{https}], paths: [/v1/**], addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: watched}}
spec: {{hosts: [api.up.example], ports: [{https}], paths: [/stream/**], approval: ask, addresses: [127.0.0.0/8]}}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {{name: key}}
spec: {{hosts: [api.up.example], inject: {{header: {{name: Authorization, format: "Bearer {{secret}}"}}}}}}
---
apiVersion: remit.dev/v1alpha1
kind: Policy
metadata: {{name: large}}
spec:
  rego: |
    package remit.large
    import rego.v1
    hold contains {{"msg": "large things are looked at"}} if startswith(input.request.path, "/v1/large")
"""

AGENT = """
import sys, json, threading, http.client, ssl, urllib.parse
context = ssl.create_default_context()  # once: it reads the system's CAs
def one(number, method, url, body, headers):
    parts = urllib.parse.urlsplit(url)
    target = parts.path + ("?" + parts.query if parts.query else "")
    try:
        c = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=90, context=context)
        c.request(method, target, body.encode() or None, headers)
        answer = c.getresponse()
        said = [number, answer.status, answer.read().decode("latin-1")]
    except Exception as error:
        said = [number, 0, repr(error)]
    sys.stdout.write(json.dumps(said) + "\\n"); sys.stdout.flush()
for line in sys.stdin:
    threading.Thread(target=one, args=json.loads(line), daemon=True).start()
"""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str

    @property
    def reason(self) -> str:
        return str(json.loads(self.body)["reason"])


class Agent:
    """Sends requests without waiting for the ones before."""

    def __init__(self, process: subprocess.Popen[str], base: str) -> None:
        self._process, self._base, self._sent = process, base, 0
        self._answers: dict[int, Answer] = {}

    def send(self, path: str, method: str = "GET", body: str = "", **headers: str) -> int:
        """The number of the request. `headers`: with `_` for `-`."""
        assert self._process.stdin is not None
        self._sent += 1
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._process.stdin.write(json.dumps([self._sent, method, self._base + path, body, named]) + "\n")
        self._process.stdin.flush()
        return self._sent

    def answer(self, number: int) -> Answer:
        """Waits for the answer to a request."""
        assert self._process.stdout is not None
        while number not in self._answers:
            line = self._process.stdout.readline()
            assert line, "the agent's cell has gone"
            found, status, body = json.loads(line)
            self._answers[found] = Answer(status, body)
        return self._answers[number]

    @property
    def answered(self) -> frozenset[int]:
        """Numbers of the requests whose answer has been seen."""
        return frozenset(self._answers)

    def ask(self, path: str, method: str = "GET", body: str = "") -> Answer:
        return self.answer(self.send(path, method, body))


@contextlib.contextmanager
def asked(upstreams: Upstreams, **environment: str) -> Iterator[Instance]:
    """A whole instance with these manifests."""
    instance = Instance(hosts=dict.fromkeys(NAMES, "127.0.0.1"), ca=upstreams.ca)
    instance.environment.update(environment)
    try:
        instance.up()
        instance.apply(MANIFESTS.format(https=upstreams.https_port))
        instance.secret("key", SECRET)
        yield instance
    finally:
        instance.down()


@contextlib.contextmanager
def agent(instance: Instance, upstreams: Upstreams, role: str = "asker") -> Iterator[Agent]:
    with instance.running(role, sys.executable, "-u", "-c", AGENT) as process:
        yield Agent(process, f"https://{API}:{upstreams.https_port}")


def approvals(instance: Instance, *options: str) -> list[dict[str, Any]]:
    """All that `remit approvals list --json` gives; the only option is `--all`."""
    found: list[dict[str, Any]] = instance.get("/v1/approvals", all="true" if "--all" in options else "false")["items"]
    return found


def waiting(instance: Instance, path: str) -> dict[str, Any]:
    """The approval for `path` that waits, once there is one."""

    def found() -> list[dict[str, Any]]:
        return [one for one in approvals(instance) if one["question"]["path"] == path]

    return dict(wait_for(found, f"an approval for {path}")[0])
