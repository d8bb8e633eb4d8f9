"""Authority taken away while it is in use: what is open under it ends, what is not goes on, and nothing new begins."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from attacked import Attacker, Whole, request
from instance import wait_for

pytestmark = pytest.mark.xdist_group("whole")

COMMON = """
import os, ssl, sys, threading, urllib.request, websockets.sync.client as ws, grpc
api, grpc_port, ws_port = sys.argv[1:]

def sse():
    answer = urllib.request.urlopen(api + "/stream", timeout=60)
    while line := answer.readline():
        yield line
    raise OSError("the stream ended")

def websocket():
    with ws.connect(f"wss://ws.up.example:{ws_port}/chat", open_timeout=30) as connection:
        while True:
            connection.send("x"); yield connection.recv(timeout=30)

def rpc():
    roots = open(os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"], "rb").read()
    channel = grpc.secure_channel(f"grpc.up.example:{grpc_port}", grpc.ssl_channel_credentials(roots))
    yield from channel.unary_stream("/test.Echo/Forever")(b"x", timeout=60)
    raise OSError("the stream ended")

def keyed():
    import http.client
    answer = urllib.request.urlopen(api + "/v1/stream", timeout=60)
    while line := answer.readline():
        yield line
    raise OSError("the stream ended")

def follow(name, source):
    said = False
    try:
        for _ in source:
            if not said:
                print(name, "open", flush=True); said = True
            heard[name] = heard.get(name, 0) + 1
    except BaseException as error:
        print(name, "cut", flush=True)

heard = {}
for name in ("sse", "websocket", "rpc", "keyed"):
    threading.Thread(target=follow, args=(name, globals()[name]()), daemon=True).start()
for line in sys.stdin:
    name = line.strip()
    print(name, heard.get(name, 0), flush=True)
"""

OPEN = {"sse", "websocket", "rpc", "keyed"}
CASES = {
    "a capability whose stream of events is open": (("capability", "stream"), {"sse"}),
    "a capability whose WebSocket is open": (("capability", "sockets"), {"websocket"}),
    "a capability whose gRPC stream is open": (("capability", "rpc"), {"rpc"}),
    "a credential that an open stream carries": (("credential", "key"), {"keyed"}),
    "a role": (("role", "agent"), OPEN),
    "everything": ((), OPEN),
}


class Streaming:
    """A cell with four things open at once."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.lines: list[str] = []

    def line(self) -> str:
        said = self._process.stdout.readline()
        assert said, self._process.stderr.read()
        return str(said).strip()

    def told(self, count: int, what: str) -> set[str]:
        found = [self.line() for _ in range(count)]
        assert all(line.endswith(what) for line in found), found
        return {line.split()[0] for line in found}

    def heard(self, name: str) -> int:
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        while True:
            line = self.line()
            if line.split()[0] == name and line.split()[1].isdigit():
                return int(line.split()[1])
            self.lines.append(line)


@pytest.mark.parametrize("case", CASES)
def test_what_is_open_under_revoked_authority_is_cut_and_nothing_else(
    whole: Whole, neighbour: Attacker, case: str
) -> None:
    what, cut = CASES[case]
    up, remit = whole.upstreams, whole.remit
    arguments = (f"https://api.up.example:{up.https_port}", str(up.grpc_port), str(up.ws_port))
    with remit.running("agent", sys.executable, "-c", COMMON, *arguments) as process:
        agent = Streaming(process)
        assert agent.told(4, "open") == OPEN
        try:
            remit.cli(*(("revoke", *what) if what else ("panic", "--reason", "a test")))
            assert agent.told(len(cut), "cut") == cut
            for name in OPEN - cut:
                before = agent.heard(name)
                wait_for(lambda name=name, before=before: agent.heard(name) > before, f"{name} goes on")
            assert agent.lines == []
            if what:
                answer = neighbour.ask(
                    "quiet.up.example", whole.hostile.port, request("quiet.up.example", whole.hostile.port, "/")
                )
                assert answer["status"] == 200, "another cell on the same path keeps running"
            else:
                answer = neighbour.ask(
                    "quiet.up.example", whole.hostile.port, request("quiet.up.example", whole.hostile.port, "/")
                )
                assert whole.record(answer)["reason"] == "everything_revoked"
                started = remit.run("nothing", "true")
                assert started.returncode != 0 and "everything is revoked" in started.stderr
                assert remit.cli("panic", "--lift", check=False).returncode == 2, "not without a reason"
        finally:
            remit.cli(*(("restore", *what) if what else ("panic", "--lift", "--reason", "the test is over")))
    whole.still_works(neighbour)


def test_a_pooled_upstream_connection_of_a_revoked_credential_is_not_used_again(whole: Whole, cell: Attacker) -> None:
    """Restored, it begins with a new connection: what the upstream remembers of the old one is gone."""
    port = whole.hostile.port

    def ask() -> None:
        assert cell.ask("api.up.example", port, request("api.up.example", port, "/plain"))["status"] == 200

    def shared() -> bool:
        before = whole.hostile.connections
        for _ in range(8):
            ask()
        return whole.hostile.connections == before

    wait_for(shared, "every worker of Envoy has its connection, and uses it again")
    before = whole.hostile.connections
    whole.remit.cli("revoke", "credential", "key")
    whole.remit.cli("restore", "credential", "key")
    ask()
    assert whole.hostile.connections == before + 1
