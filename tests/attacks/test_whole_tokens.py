"""Somebody got hold of a task's token and reaches Envoy's socket without the forwarder: what the token can still do.

No cell can do either; the tests are root. The boundary is the second line.
"""

from __future__ import annotations

import base64
import json
import socket
from contextlib import closing
from typing import Any, NamedTuple

import pytest
from attacked import Attacker, Whole, request
from boundary_harness import proxy_header, send
from instance import wait_for

from remit.core import flow

pytestmark = pytest.mark.xdist_group("attacks-whole")

API = "api.up.example"


class Stolen(NamedTuple):
    """A token of a task, and the address of its cell's flows."""

    task: str
    token: str
    source: str


def stolen(whole: Whole, attacker: Attacker, path: str) -> Stolen:
    port = whole.upstreams.http_port
    assert attacker.ask(API, port, request(API, port, path), tls=False)["status"] == 200
    record = wait_for(lambda: [r for r in whole.audit(host=API) if r["path"] == path], "its record")[-1]
    token = whole.api.post(f"/v1/tasks/{record['task']}/token").raise_for_status().json()["token"]
    return Stolen(record["task"], token, record["flow"].rpartition(":")[0])


def dial(whole: Whole, source: str, token: str | None) -> dict[str, Any]:
    """A request on Envoy's own socket, under a header as the forwarder would write it."""
    port = whole.upstreams.http_port
    header = proxy_header(
        (flow.virtual(API)[0], port),
        token=None if token is None else token.encode(),
        source=(source, 4000),
    )
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.settimeout(20)
        sock.connect(str(whole.remit.run_dir / "boundary/proxy.sock"))
        answer = send(sock, header + request(API, port, "/v1/stolen"))
    return {"status": answer.status, "body": answer.body.decode()}


@pytest.fixture(scope="module")
def mine(whole: Whole, cell: Attacker) -> Stolen:
    return stolen(whole, cell, "/v1/token-of-mine")


def without_signature(token: str) -> str:
    header = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).decode().rstrip("=")
    return f"{header}.{token.split('.')[1]}."


def of_another_task(token: str) -> str:
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["sub"] = claims["sub"].replace("/role/attacker/", "/role/agent/")
    changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"{head}.{changed}.{signature}"


FORGED = {
    "no token": (lambda token: None, "token_missing"),
    "a token that is not signed": (without_signature, "token_invalid"),
    "a token without its signature": (lambda token: token.rpartition(".")[0] + ".", "token_invalid"),
    "a token of another role under the same signature": (of_another_task, "token_invalid"),
    "a token twice in one": (lambda token: f"{token}{token}"[:400], "token_invalid"),
}


@pytest.mark.parametrize("sentence", FORGED)
def test_a_forged_token_is_refused_by_the_real_boundary(whole: Whole, mine: Stolen, sentence: str) -> None:
    change, reason = FORGED[sentence]
    whole.refused(lambda: dial(whole, mine.source, change(mine.token)), reason)


def test_a_token_works_only_from_the_cell_of_its_task(whole: Whole, mine: Stolen, neighbour: Attacker) -> None:
    other = stolen_source(whole, neighbour)
    assert other != mine.source
    for source in (other, "127.0.0.1", "8.8.8.8"):
        whole.refused(lambda source=source: dial(whole, source, mine.token), "flow_mismatch", "flow_unknown")


def stolen_source(whole: Whole, attacker: Attacker) -> str:
    port, path = whole.upstreams.https_port, "/v1/where-the-neighbour-is"
    assert attacker.ask(API, port, request(API, port, path))["status"] == 200
    record = wait_for(lambda: [r for r in whole.audit(host=API) if r["path"] == path], "its record")[-1]
    return str(record["flow"].rpartition(":")[0])


def test_a_token_is_good_for_nothing_when_its_task_has_ended(whole: Whole, cell: Attacker) -> None:
    with whole.attacker("attacker") as short:
        taken = stolen(whole, short, "/v1/token-of-a-short-task")
        assert dial(whole, taken.source, taken.token)["status"] == 200, "it is the real one"

    def ended() -> bool:
        return whole.api.get(f"/v1/tasks/{taken.task}").json()["state"] not in ("pending", "running")

    wait_for(ended, "the end of the task")
    whole.refused(lambda: dial(whole, taken.source, taken.token), "task_ended", "task_unknown")
    assert whole.api.post(f"/v1/tasks/{taken.task}/token").status_code >= 400, "nor is there another"
    whole.still_works(cell)


def test_a_token_is_good_for_nothing_when_its_task_is_revoked(whole: Whole, cell: Attacker) -> None:
    with whole.attacker("attacker") as short:
        taken = stolen(whole, short, "/v1/token-of-a-revoked-task")
        whole.remit.cli("revoke", "task", taken.task)
        whole.refused(lambda: dial(whole, taken.source, taken.token), "task_revoked", "task_ended")
    whole.still_works(cell)


EMPTY = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: nothing}
spec: {capabilities: []}
"""


def test_a_role_that_may_nothing_gets_nothing(whole: Whole, cell: Attacker) -> None:
    whole.remit.apply(EMPTY)
    port = whole.upstreams.https_port
    with whole.attacker("nothing") as empty:
        record = whole.refused(lambda: empty.ask(API, port, request(API, port)), "no_capability", "role_invalid")
    assert record["role"] == "nothing"
    whole.still_works(cell)
