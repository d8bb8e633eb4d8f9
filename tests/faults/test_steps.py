"""Each part is killed, or stands still, at each step of one request; the request is stopped at that step meanwhile.

Where a step is stopped: the agent says no more, the resolver's DNS server does not answer, or the upstream does not. Whatever
happens: what arrives upstream stands in the log as permitted, an answer that looks whole is whole, the agent gets an
end and no secret, and the next request goes through.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from attacked import Attacker, Whole
from governed import SECRET
from instance import wait_for

pytestmark = pytest.mark.xdist_group("faults-steps")

API = "api.up.example"
MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: other}}
spec: {{protocol: http, hosts: ["*.step.example"], ports: [{http}], paths: [/v1/**], addresses: [127.0.0.0/8]}}
"""

HEAD = "POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: 4\r\n\r\n"
CONNECTED = "import builtins\nbuiltins.kept = connect(host, port, tls=tls)"
REST = """
import builtins
try:
    builtins.kept.settimeout(20)
    result = send(builtins.kept, data, "POST")
    builtins.kept.close()
except OSError as error:
    result = {"status": 0, "error": repr(error), "body": ""}
"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """`first`: what the agent does before the stop; `sent`: how many bytes of its request those are. `held`: path under
    which the upstream holds its answer."""

    first: str
    sent: int = 0
    held: str = ""
    resolving: bool = False


STEPS = {
    "the name was asked for": Step(first="result = address(host)"),
    "the connection is made": Step(first=CONNECTED.replace("tls=tls", "tls=False")),
    "the handshake is done": Step(first=CONNECTED),
    "half of the head is said": Step(first=CONNECTED + "\nbuiltins.kept.sendall(data[:sent])", sent=30),
    "half of the body is said": Step(first=CONNECTED + "\nbuiltins.kept.sendall(data[:sent])", sent=-2),
    "the decision looks the address up": Step(first="", resolving=True),
    "the upstream has the request": Step(first="", held="/v1/held"),
    "half of the answer has come": Step(first="", held="/v1/held-begun"),
}
LIST = ("--json", "--limit", "100000", "--decision", "permit")
PARTS = ("forward", "envoy", "decide", "policy", "control")
FAULTS = [(step, part, signal.SIGKILL) for step in STEPS for part in PARTS] + [
    (step, part, signal.SIGSTOP)
    for step in ("half of the body is said", "the decision looks the address up", "half of the answer has come")
    for part in PARTS
]


@dataclass
class Gate:
    """A name whose look-up waits until the gate is opened."""

    asked: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> tuple[str, ...]:
        self.asked.set()
        self.open.wait(10)
        return ("127.0.0.1",)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    made = Whole(tmp_path_factory.mktemp("whole"))
    try:
        made.up()
        made.remit.apply(MANIFESTS.format(http=made.upstreams.http_port))
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def cell(whole: Whole) -> Iterator[Attacker]:
    with whole.attacker("attacker") as made:
        yield made


def process(whole: Whole, part: str) -> int | None:
    """Of the policy worker: the child of the decision service that runs it. None while there is none."""
    found = whole.remit.pids().get("decide" if part == "policy" else part)
    if found is None or part != "policy":
        return found
    children = Path(f"/proc/{found}/task/{found}/children").read_text().split()
    return int(children[0]) if children else None


def works(whole: Whole, cell: Attacker, path: str) -> bool:
    port = whole.upstreams.https_port
    data = HEAD.format(path=path, host=API, port=port) + "done"
    return bool(cell.ask(API, port, data.encode())["status"] == 200)


@pytest.mark.parametrize(("step", "part", "number"), FAULTS, ids=lambda one: str(getattr(one, "name", one)))
def test_a_part_that_dies_or_stands_still_at_a_step_lets_nothing_through_unrecorded(
    whole: Whole, cell: Attacker, step: str, part: str, number: signal.Signals
) -> None:
    stop, case = STEPS[step], f"{list(STEPS).index(step)}-{part}-{number.name.lower()}"
    gate, before = Gate(), len(whole.upstreams.seen)
    whole.upstreams.released.clear()
    host, port, tls = (API, whole.upstreams.https_port, True)
    if stop.resolving:
        host, port, tls = f"{case}.step.example".lower(), whole.upstreams.http_port, False
        whole.names.table[host] = gate
    path = f"{stop.held or '/v1/step'}/{case}"
    data = (HEAD.format(path=path, host=host, port=port) + "body").encode()
    given: dict[str, Any] = {"host": host, "port": port, "tls": tls, "sent": stop.sent, "data": data}
    if stop.first:
        cell.do(stop.first, **given)
    else:
        cell.start("result = ask(host, port, data, tls=tls)", **given)
        if stop.resolving:
            assert gate.asked.wait(10)
        else:
            wait_for(lambda: whole.upstreams.reached(path), "the request upstream")
    victim = process(whole, part)
    assert victim is not None
    os.kill(victim, number)
    gate.open.set()
    whole.upstreams.released.set()
    if stop.first:
        rest = data[stop.sent :] if stop.sent else data
        answer = cell.do("kept = None\n" + REST if "builtins" in stop.first else FRESH, **{**given, "data": rest})
    else:
        answer = cell.finish()
    assert SECRET not in json.dumps(answer)
    if answer["status"] == 200:
        assert json.loads(answer["body"])["path"] == path, "it is whole"
    wait_for(lambda: works(whole, cell, f"/v1/after/{case}"), "a request afterwards", 40)
    wait_for(lambda: process(whole, part) not in (None, victim), f"a new {part}", 20)
    listed = wait_for(lambda: whole.remit.cli("audit", "list", *LIST, check=False).stdout, "the log", 20)
    permitted = {json.loads(line).get("path") for line in listed.splitlines()}
    assert {one["path"] for one in whole.upstreams.seen[before:] if one["method"] == "POST"} <= permitted


def test_the_log_of_all_that_verifies(whole: Whole) -> None:
    assert whole.remit.cli("audit", "verify").stdout.startswith("ok")


FRESH = "result = ask(host, port, data, tls=tls)"
