"""One request of a real cell, stopped at a step, for tests that break something there.

Where a step is stopped: the agent says no more, the DNS server of the node does not answer, or the upstream does not.
"""

from __future__ import annotations

import http.client
import json
import threading
from dataclasses import dataclass, field
from typing import Any

from attacked import Attacker, Whole
from governed import SECRET
from instance import wait_for

API = "api.up.example"
MANIFEST = """
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: other}}
spec: {{protocol: http, hosts: ["*.step.example"], ports: [{http}], paths: [/v1/**], addresses: [127.0.0.0/8]}}
"""
"""In the place of a capability that the role of attackers has: hosts whose addresses are looked up."""

HEAD = "POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: 4\r\n\r\n"
CONNECT = "import builtins\nbuiltins.kept = connect(host, port, tls=tls)"
SAY = CONNECT + "\nbuiltins.kept.sendall(data[:sent])"
ASK = "result = ask(host, port, data, tls=tls)"
REST = """
import builtins
try:
    builtins.kept.settimeout(20)
    result = send(builtins.kept, data, "POST")
    builtins.kept.close()
except OSError as error:
    result = {"status": 0, "error": repr(error), "body": ""}
"""
SHAKE_HANDS = """
import builtins
try:
    builtins.kept = unverifying().wrap_socket(builtins.kept, server_hostname=host)
    result = send(builtins.kept, data, "POST")
    builtins.kept.close()
except OSError as error:
    result = {"status": 0, "error": repr(error), "body": ""}
"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """`first`: what the agent does before the stop, `then` afterwards; `sent`: how much of its request comes first.

    `held`: path under which the upstream holds its answer. `decided`: the decision was made before the stop.
    """

    first: str = ""
    then: str = REST
    sent: int = 0
    held: str = ""
    resolving: bool = False
    decided: bool = False


STEPS = {
    "the name was asked for": Step(first="result = address(host)", then=ASK),
    "the connection is made": Step(first=CONNECT.replace("tls=tls", "tls=False"), then=SHAKE_HANDS),
    "the handshake is done": Step(first=CONNECT),
    "half of the head is said": Step(first=SAY, sent=30),
    "half of the body is said": Step(first=SAY, sent=-2, decided=True),
    "the decision looks the address up": Step(resolving=True),
    "the upstream has the request": Step(held="/v1/held", decided=True),
    "half of the answer has come": Step(held="/v1/held-begun", decided=True),
}


@dataclass
class Gate:
    """The address of a name; its look-up waits until the gate is opened."""

    asked: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> tuple[str, ...]:
        self.asked.set()
        self.open.wait(10)
        return ("127.0.0.1",)


class Stopped:
    """A request that has come to `step`. `case` makes its path one of its own."""

    def __init__(self, whole: Whole, cell: Attacker, step: Step, case: str) -> None:
        self._whole, self._cell, self._step, self._gate = whole, cell, step, Gate()
        self.path = f"{step.held or '/v1/step'}/{case}"
        host, port, tls = API, whole.upstreams.https_port, True
        if step.resolving:
            host, port, tls = f"{case}.step.example", whole.upstreams.http_port, False
            whole.names.table[host] = self._gate
        self._data = (HEAD.format(path=self.path, host=host, port=port) + "body").encode()
        self._given: dict[str, Any] = {"host": host, "port": port, "tls": tls, "sent": step.sent}
        whole.upstreams.released.clear()
        if step.first:
            cell.do(step.first, data=self._data, **self._given)
            return
        cell.start(ASK, data=self._data, **self._given)
        if step.resolving:
            assert self._gate.asked.wait(60), "the address was not looked up"
        else:
            wait_for(lambda: whole.upstreams.reached(self.path), "the request upstream")

    def finish(self) -> dict[str, Any]:
        """Let it go on; what the agent got. It holds no secret, and an answer that looks whole is whole."""
        self._gate.open.set()
        self._whole.upstreams.released.set()
        if self._step.first:
            rest = self._data[self._step.sent :] if self._step.sent else self._data
            answer = dict(self._cell.do(self._step.then, data=rest, **self._given))
        else:
            answer = dict(self._cell.finish())
        assert SECRET not in json.dumps(answer)
        if answer["status"] == 200:
            assert json.loads(answer["body"])["path"] == self.path
        return answer


def ordinary(whole: Whole, cell: Attacker, path: str) -> int:
    """The status of a request that nothing stops."""
    port = whole.upstreams.https_port
    data = HEAD.format(path=path, host=API, port=port) + "done"
    return int(cell.ask(API, port, data.encode())["status"])


def permitted(whole: Whole) -> set[str]:
    """The paths of all requests that the log says were permitted, once the control plane answers."""
    tried: list[str] = []

    def listed() -> list[dict[str, Any]]:
        try:
            return whole.remit.audit(decision="permit")
        except (OSError, http.client.HTTPException, AssertionError) as error:
            tried.append(repr(error))
            return []

    try:
        records = wait_for(listed, "the log")
    except AssertionError as error:
        raise AssertionError(f"{error}: {tried}") from error
    return {str(record.get("path")) for record in records}


def arrived(whole: Whole, since: int) -> set[str]:
    """The paths that reached the upstream after it had seen `since` requests."""
    return {one["path"] for one in whole.upstreams.seen[since:] if one["method"] == "POST"}
