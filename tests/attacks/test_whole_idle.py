"""Connections and streams that say nothing: each is cut after the configured silence, with a record; a talking one is not.

What is held open costs memory, a flow and an upstream connection, so silence must not be free. The times are settings.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boundary_h2
import pytest
import servers
from governed import SECRET, manifests
from instance import Instance, wait_for
from upstreams import NAMES, Upstreams

pytestmark = pytest.mark.xdist_group("attacks-idle")

IDLE_S, LONGEST_S = 1.5, 10.0
TCP = """
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: idler}}
spec: {{capabilities: [api, sockets, greeter], policies: [careful]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: greeter}}
spec: {{protocol: tcp, hosts: [mail.up.example], ports: [{greeter}], addresses: [127.0.0.0/8]}}
"""

COMMON = """
import json, socket, ssl, sys, time
port, ws_port, greeter = map(int, sys.argv[1:4])
def tls(host, port, alpn="http/1.1"):
    context = ssl.create_default_context()
    context.set_alpn_protocols([alpn])
    sock = context.wrap_socket(socket.create_connection((host, port), 30), server_hostname=host)
    sock.settimeout(60)
    return sock
def rest(sock):
    found = b""
    try:
        while more := sock.recv(65536):
            found += more
    except ConnectionError:
        pass
    return found.decode("latin-1")
HOST = f"host: api.up.example:{port}\\r\\n"
"""

SILENT = {
    "an answer that never comes": (
        'sock = tls("api.up.example", port)\n'
        'sock.sendall(f"GET /v1/silent HTTP/1.1\\r\\n{HOST}\\r\\n".encode())\nprint(rest(sock))',
        "/v1/silent",
    ),
    "an answer that stops": (
        'sock = tls("api.up.example", port)\n'
        'sock.sendall(f"GET /v1/silent-begun HTTP/1.1\\r\\n{HOST}\\r\\n".encode())\nprint(rest(sock))',
        "/v1/silent-begun",
    ),
    "a body that stops": (
        'sock = tls("api.up.example", port)\n'
        'sock.sendall(f"POST /v1/half HTTP/1.1\\r\\n{HOST}content-length: 9\\r\\n\\r\\nx".encode())\nprint(rest(sock))',
        "/v1/half",
    ),
    "a WebSocket": (
        "import websockets.sync.client as ws\n"
        'with ws.connect(f"wss://ws.up.example:{ws_port}/chat", open_timeout=20, ping_interval=None) as c:\n'
        '    c.send("one"); print(c.recv(timeout=20))\n'
        "    try: c.recv(timeout=60)\n"
        '    except Exception as error: print("ended", type(error).__name__)',
        "/chat",
    ),
    "a stream whose connection is pinged": (
        'sock = tls("api.up.example", port, "h2")\n'
        "headers = h2.block(h2.request(b'/v1/silent-begun-h2', f'api.up.example:{port}'.encode()))\n"
        "sock.sendall(h2.PREFACE + h2.frame(h2.SETTINGS, 0, 0) + h2.frame(h2.HEADERS, 5, 1, headers))\n"
        "found = b''\n"
        "while h2.frame(h2.RESET, 0, 1, b'****')[:9] not in found:\n"
        "    sock.settimeout(0.3)\n"
        "    try: more = sock.recv(65536)\n"
        "    except TimeoutError: more = None; sock.sendall(h2.frame(h2.PING, 0, 0, b'12345678'))\n"
        "    if more == b'': break\n"
        "    found += more or b''\n"
        "print('ended')",
        "/v1/silent-begun-h2",
    ),
}


@dataclass
class Site:
    remit: Instance
    upstreams: Upstreams
    greeter: servers.Greeter

    def run(self, source: str) -> str:
        """What a program in a cell of its own prints; line ends as Python prints them."""
        h2 = f"import types\nh2 = types.ModuleType('h2')\nexec({Path(boundary_h2.__file__).read_text()!r}, h2.__dict__)\n"
        ports = map(str, (self.upstreams.https_port, self.upstreams.ws_port, self.greeter.port))
        done = self.remit.run("idler", sys.executable, "-c", COMMON + h2 + source, *ports)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ended(self, **wanted: object) -> dict[str, object]:
        """The record of how a request or connection ended."""

        def look() -> dict[str, object] | None:
            found = [r for r in self.remit.audit() if all(r.get(k) == v for k, v in wanted.items())]
            return next((r for r in found if r.get("duration_ms") is not None), None)

        return dict(wait_for(look, f"the end of {wanted}"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    upstreams, greeter = Upstreams(tmp_path_factory.mktemp("up")), servers.Greeter()
    remit = Instance(hosts=dict.fromkeys((*NAMES, "mail.up.example"), "127.0.0.1"), ca=upstreams.ca)
    remit.environment |= {"REMIT_CONNECTION_IDLE_S": str(IDLE_S), "REMIT_CONNECTION_MAX_S": str(LONGEST_S)}
    try:
        remit.up()
        remit.apply(manifests(upstreams) + TCP.format(greeter=greeter.port))
        remit.secret("key", SECRET)
        yield Site(remit, upstreams, greeter)
    finally:
        remit.down()


@pytest.mark.parametrize("sentence", SILENT)
def test_a_stream_that_says_nothing_is_cut_and_its_end_is_on_record(site: Site, sentence: str) -> None:
    source, path = SILENT[sentence]
    site.run(source)
    record = site.ended(path=path)
    assert (record["decision"], record["ending"]) == ("permit", "stream_idle_timeout"), record


def test_a_stream_that_was_cut_holds_nothing_upstream(site: Site) -> None:
    source, path = SILENT["an answer that stops"]
    before = site.upstreams.left.count(path)
    site.run(source)
    wait_for(lambda: site.upstreams.left.count(path) > before, "the upstream's end")


def test_a_client_is_told_that_it_was_the_silence(site: Site) -> None:
    head, _, body = site.run(SILENT["an answer that never comes"][0]).partition("\n\n")
    assert head.startswith("HTTP/1.1 504 "), head
    assert json.loads(body)["detail"] == "stream_idle_timeout"


def test_a_connection_that_asks_nothing_more_is_closed(site: Site) -> None:
    """Also one that never asked anything, and one that is carried unread, both ways."""
    source = """
sock = tls("api.up.example", port)
sock.sendall(f"GET /v1/once HTTP/1.1\\r\\n{HOST}\\r\\n".encode())
print("once" in rest(sock), rest(tls("api.up.example", port)) == "", flush=True)
sock = socket.create_connection(("mail.up.example", greeter), 30)
sock.settimeout(60)
print(rest(sock).strip())
"""
    assert site.run(source) == "True True\n220 hello\n"
    record = site.ended(capability="greeter")
    assert record["decision"] == "permit"


def test_who_talks_is_not_cut_before_the_longest_time_and_then_is(site: Site) -> None:
    """Ten times within a silence that is allowed: far longer than one silence; without end, it would be for ever."""
    source = """
import websockets.sync.client as ws
with ws.connect(f"wss://ws.up.example:{ws_port}/chat", open_timeout=20, ping_interval=None) as c:
    said = 0
    try:
        while True:
            c.send("x"); c.recv(timeout=20); said += 1
            time.sleep(0.5)
    except Exception as error:
        print(said, type(error).__name__)
"""
    said, how = site.run(source).split()
    assert int(said) > 10 and how == "ConnectionClosedError"
    assert site.ended(path="/chat", ending="max_duration_timeout")["decision"] == "permit"
