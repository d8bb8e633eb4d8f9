"""Budgets, attacked from a real cell: bursts at the last unit, retries, streams without end, bodies without length."""

from __future__ import annotations

import contextlib
import json
import socketserver
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from attacked import Attacker, Whole, request
from instance import wait_for

pytestmark = pytest.mark.xdist_group("whole")

ROLES = {
    "burst": "{requests: 100}",
    "retries": "{requests: 2, per: 1h}",
    "raises": "{requests: 1}",
    "timed": "{time: 4s}",
    "inward": "{bytesIn: 1Ki}",
    "outward": "{bytesOut: '100'}",
    "warned": "{requests: 5, per: 1d, window: calendar}",
    "each": "{requests: 1, each: task}",
    "told": "{requests: 10, per: 1h}",
    "plenty": "{requests: 1000}",
    "chatty": "{bytesOut: 2Ki}",
    "carried": "{bytesIn: 2Ki}",
    "kept": "{time: 2s}",
}
CAPABILITIES = {
    "spend": "hosts: [api.up.example], ports: [{https}], paths: [/**]",
    "chat": "hosts: [ws.up.example], ports: [{ws}], paths: [/chat], websocket: true",
    "carry": "protocol: tcp, hosts: [other.up.example], ports: [{tcp}]",
}

BURST = """
import json, threading, boundary_h2 as h2
found, lock, connections, streams = {}, threading.Lock(), 50, 40
sockets = [connect(host, port, alpn="h2") for _ in range(connections)]
go = threading.Barrier(connections)
def one(number, sock):
    ask = [h2.request(b"/v1/burst/%d/%d" % (number, n), f"{host}:{port}".encode()) for n in range(streams)]
    go.wait()
    got = h2.talk(sock, ask)
    with lock:
        for body in got.bodies.values():
            said = json.loads(body).get("reason", "answered")
            found[said] = found.get(said, 0) + 1
threads = [threading.Thread(target=one, args=pair) for pair in enumerate(sockets)]
for thread in threads: thread.start()
for thread in threads: thread.join()
result = found
"""

STREAM = """
import time
sock = connect(host, port)
began = time.monotonic()
said = everything(sock, b"GET /stream/%s HTTP/1.1\\r\\nhost: %s:%d\\r\\n\\r\\n" % (name.encode(), host.encode(), port))
result = {"seconds": time.monotonic() - began, "said": said}
"""


CHAT = """
import ssl, sys, time, websockets.sync.client as ws
sent = 0
try:
    with ws.connect(f"wss://ws.up.example:{sys.argv[1]}/chat", ssl=ssl.create_default_context()) as chat:
        for _ in range(600):
            chat.send("x" * 100)
            chat.recv()
            sent += 1
            time.sleep(0.02)
except Exception as error:
    print("ended", file=sys.stderr)
print(sent)
"""

CARRY = """
import time
sock, got = connect(host, port, tls=False), 0
try:
    for _ in range(600):
        sock.sendall(b"x" * 100)
        more = sock.recv(65536)
        got += len(more)
        if not more: break
        time.sleep(0.02)
    ended = "closed"
except OSError as error:
    ended = "reset"
result = got
"""


@pytest.fixture(scope="module")
def echoing() -> Iterator[int]:
    """The port of a TCP server that says everything back."""

    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while data := self.request.recv(65536):
                    self.request.sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


@pytest.fixture(scope="module")
def budgeted(whole: Whole, echoing: int) -> Whole:
    ports = {"https": whole.upstreams.https_port, "ws": whole.upstreams.ws_port, "tcp": echoing}
    texts = [
        "apiVersion: remit.dev/v1alpha1\nkind: Policy\nmetadata: {name: thrifty}\nspec:\n  rego: |\n"
        "    package remit.thrifty\n    import rego.v1\n"
        '    deny contains {"msg": "keep eight"} if {\n      some one in input.usage\n      one.left <= 8\n    }\n',
    ]
    texts += [
        f"apiVersion: remit.dev/v1alpha1\nkind: Capability\nmetadata: {{name: {name}}}\n"
        f"spec: {{{spec.format(**ports)}, addresses: [127.0.0.0/8]}}\n"
        for name, spec in CAPABILITIES.items()
    ]
    texts += [
        f"apiVersion: remit.dev/v1alpha1\nkind: Role\nmetadata: {{name: {name}}}\n"
        f"spec: {{capabilities: [spend, chat, carry], policies: [{'thrifty' if name == 'told' else ''}], budgets: [{budget}]}}\n"
        for name, budget in ROLES.items()
    ]
    whole.remit.apply("---\n".join(texts))
    return whole


def get(whole: Whole, cell: Attacker, path: str, **options: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
    port = whole.upstreams.https_port
    answer = cell.ask("api.up.example", port, request("api.up.example", port, path, **options))
    return answer["status"], json.loads(answer["body"] or "{}"), answer["headers"]


def shown(whole: Whole, name: str) -> dict[str, Any]:
    found = whole.api.get("/v1/budgets", params={"name": name}).raise_for_status().json()["items"]
    assert len(found) == 1, found
    only: dict[str, Any] = found[0]
    return only


def test_a_burst_over_http2_gets_exactly_what_is_left(budgeted: Whole) -> None:
    found: Counter[str] = Counter()
    with budgeted.attacker("burst") as cell:

        def refused_by_budget() -> bool:
            """Where a node is busy, it refuses some of a burst because they have waited for too long."""
            found.update(cell.do(BURST, host="api.up.example", port=budgeted.upstreams.https_port))
            return found["budget_exhausted"] >= 1000

        wait_for(refused_by_budget, "the budget to refuse a thousand")
    permits = budgeted.audit(role="burst", decision="permit")
    reached = [one for one in budgeted.upstreams.seen if one["path"].startswith("/v1/burst/")]
    assert len(permits) == 100
    assert len(reached) <= 100
    assert shown(budgeted, "role/burst")["used"] == 100


def test_a_denial_says_what_is_left_and_when_it_returns_and_retries_cost(budgeted: Whole) -> None:
    with budgeted.attacker("retries") as cell:
        statuses = [get(budgeted, cell, "/v1/same")[0] for _ in range(4)]
        before = budgeted.arrived
        status, problem, headers = get(budgeted, cell, "/v1/same")
        assert budgeted.arrived == before
    assert statuses == [200, 200, 429, 429]
    assert (status, problem["reason"], problem["budget"]) == (429, "budget_exhausted", "role/retries/requests/1h")
    assert (problem["left"], problem["used"], problem["limit"]) == (0, 2, 2)
    assert 3000 < int(headers["retry-after"]) <= 3660
    assert problem["returns"] > "2026"
    record = budgeted.record({"body": json.dumps(problem)})
    assert (record["decision"], record["reason"]) == ("deny", "budget_exhausted")
    assert record["budget"]["budget"] == "role/retries/requests/1h"


def test_a_raise_needs_a_reason_and_stands_in_the_log(budgeted: Whole) -> None:
    with budgeted.attacker("raises") as cell:
        assert [get(budgeted, cell, "/v1/x")[0] for _ in range(2)] == [200, 429]
        raised = budgeted.remit.cli("budget", "raise", "role/raises/requests", "--by", "2", check=False)
        assert raised.returncode != 0
        said = budgeted.remit.cli(
            "budget", "raise", "role/raises/requests", "--by", "2", "--reason", "more to do", "--json"
        )
        assert json.loads(said.stdout)["budget"]["left"] == 2
        assert [get(budgeted, cell, "/v1/x")[0] for _ in range(3)] == [200, 200, 429]
    (record,) = [one for one in budgeted.audit(kind="operator") if one.get("action") == "budget.raise"]
    assert (record["why"], record["by"]) == ("more to do", 2)
    wrong = budgeted.remit.cli("budget", "raise", "role/raise/requests", "--by", "2", "--reason", "x", check=False)
    assert "did you mean role/raises/requests" in wrong.stderr


def test_a_stream_is_cut_when_the_time_of_its_task_is_over(budgeted: Whole) -> None:
    with budgeted.attacker("timed") as cell:
        got = cell.do(STREAM, host="api.up.example", port=budgeted.upstreams.https_port, name="timed")
        assert "data: 1\n" in got["said"]
        assert "data: 2999\n" not in got["said"]
        status, problem, headers = get(budgeted, cell, "/v1/x")
    assert (status, problem["reason"]) == (429, "budget_exhausted")
    assert problem["budget"].startswith("role/timed/task/t-")
    assert "retry-after" not in headers
    (warning,) = [one for one in budgeted.audit(kind="budget") if one["role"] == "timed"]
    assert (warning["event"], warning["budget"], warning["limit"]) == ("warning", problem["budget"], 4)
    assert warning["time"] < budgeted.remit.record_of(json.dumps(problem))["time"]


def test_a_stream_is_cut_when_its_bytes_are_used_up_and_what_it_moved_is_charged(budgeted: Whole) -> None:
    with budgeted.attacker("inward") as cell:
        got = cell.do(STREAM, host="api.up.example", port=budgeted.upstreams.https_port, name="inward")
        assert "data: 1\n" in got["said"]
        assert "data: 2999\n" not in got["said"]
        wait_for(lambda: shown(budgeted, "role/inward")["left"] == 0, "the stream is charged")
        status, problem, _ = get(budgeted, cell, "/v1/x")
    assert (status, problem["reason"], problem["budget"]) == (429, "budget_exhausted", "role/inward/bytesIn")


def test_a_websocket_is_cut_when_its_bytes_are_used_up(budgeted: Whole) -> None:
    port = str(budgeted.upstreams.ws_port)
    done = budgeted.remit.run("chatty", sys.executable, "-c", CHAT, port)
    assert 15 < int(done.stdout) < 590, done.stderr
    wait_for(lambda: shown(budgeted, "role/chatty")["left"] == 0, "what it said is charged")
    assert budgeted.remit.run("chatty", sys.executable, "-c", CHAT, port).stdout == "0\n"


def test_an_opaque_connection_is_cut_when_its_bytes_are_used_up(budgeted: Whole, echoing: int) -> None:
    with budgeted.attacker("carried") as cell:
        got = cell.do(CARRY, host="other.up.example", port=echoing)
        assert 2000 < got < 59_000
        wait_for(lambda: shown(budgeted, "role/carried")["left"] == 0, "what it carried is charged")
        assert cell.do(CARRY, host="other.up.example", port=echoing) == 0
    assert budgeted.audit(role="carried", reason="budget_exhausted")


def test_an_opaque_connection_is_cut_when_its_time_is_used_up(budgeted: Whole, echoing: int) -> None:
    with budgeted.attacker("kept") as cell:
        got = cell.do(CARRY, host="other.up.example", port=echoing)
        assert 0 < got < 59_000, "it would go on for 12 s"
        wait_for(lambda: shown(budgeted, "role/kept")["left"] == 0, "its time is charged")
        assert cell.do(CARRY, host="other.up.example", port=echoing) == 0
    (record,) = budgeted.audit(role="kept", reason="budget_exhausted")
    assert (record["scheme"], record["host"], record["port"]) == ("tcp", "other.up.example", echoing)


def test_a_body_that_does_not_fit_is_not_begun_and_one_that_fits_is_settled(budgeted: Whole) -> None:
    with budgeted.attacker("outward") as cell:
        before = budgeted.arrived
        assert get(budgeted, cell, "/v1/x", method="POST", body="x" * 101)[0] == 429
        assert budgeted.arrived == before
        assert get(budgeted, cell, "/v1/x", method="POST", body="x" * 60)[0] == 200
        assert get(budgeted, cell, "/v1/x", method="POST", body="x" * 41)[0] == 429
        assert get(budgeted, cell, "/v1/x")[0] == 200
        wait_for(lambda: shown(budgeted, "role/outward")["used"] == 60, "what was not sent is given back")


def test_at_four_fifths_a_warning_is_recorded_once(budgeted: Whole) -> None:
    with budgeted.attacker("warned") as cell:
        assert [get(budgeted, cell, "/v1/x")[0] for _ in range(6)] == [200] * 5 + [429]
    (warning,) = [one for one in budgeted.audit(kind="budget") if one["role"] == "warned"]
    assert (warning["event"], warning["used"], warning["limit"]) == ("warning", 4, 5)
    assert warning["budget"] == "role/warned/requests/1d/calendar"


def test_every_task_has_its_own_where_the_budget_says_so_and_a_task_can_be_given_less(budgeted: Whole) -> None:
    for _ in range(2):
        with budgeted.attacker("each") as cell:
            assert [get(budgeted, cell, "/v1/x")[0] for _ in range(2)] == [200, 429]
    url = f"https://api.up.example:{budgeted.upstreams.https_port}/v1/own"
    fetch = f"for n in 1 2 3; do curl -s -o /dev/null -w '%{{http_code}} ' {url}; done"
    done = budgeted.remit.run("plenty", "sh", "-c", fetch, options=["--budget", "requests=1"])
    assert done.stdout.split() == ["200", "429", "429"]
    refused = budgeted.remit.run("plenty", "true", options=["--budget", "requests=lots"])
    assert "budget requests=lots: expected a number of requests" in refused.stderr


def test_policies_are_told_what_is_used_and_their_word_is_not_remembered(budgeted: Whole) -> None:
    with budgeted.attacker("told") as cell:
        found = Counter(get(budgeted, cell, "/v1/x")[0] for _ in range(4))
    assert found == {200: 2, 403: 2}


def test_explain_shows_what_is_used(budgeted: Whole) -> None:
    url = f"https://api.up.example:{budgeted.upstreams.https_port}/v1/x"
    said = json.loads(budgeted.remit.cli("explain", "--role", "raises", "GET", url, "--json", check=False).stdout)
    (step,) = [step for step in said["steps"] if step["step"] == "budget"]
    assert "role/raises/requests" in step["detail"]
