"""Bytes that two readers read differently, protocols inside protocols: a real cell sends them, no upstream sees them."""

from __future__ import annotations

from typing import Any

import pytest
from attacked import Attacker, Whole
from governed import SECRET
from instance import wait_for

pytestmark = pytest.mark.xdist_group("attacks-whole")

API = "api.up.example"
HEAD = "POST /v1/x HTTP/1.1\r\nhost: HOST\r\n"
INNER = "GET /v1/inner HTTP/1.1\r\nhost: HOST\r\n\r\n"
UPGRADE = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

MESSAGES = {
    "a length and chunks": f"{HEAD}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{INNER}",
    "chunks and a length": f"{HEAD}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n{INNER}",
    "two lengths": f"{HEAD}content-length: 0\r\ncontent-length: 66\r\n\r\n{INNER}",
    "two lengths, joined": f"{HEAD}content-length: 0, 66\r\n\r\n{INNER}",
    "a signed length": f"{HEAD}content-length: +0\r\n\r\n{INNER}",
    "a hexadecimal length": f"{HEAD}content-length: 0x0\r\n\r\n{INNER}",
    "a length below zero": f"{HEAD}content-length: -1\r\n\r\n{INNER}",
    "a coding that nobody knows": f"{HEAD}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{INNER}",
    "a coding written oddly": f"{HEAD}transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n{INNER}",
    "chunked, but not last": f"{HEAD}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{INNER}",
    "two codings": f"{HEAD}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n{INNER}",
    "a space before the colon": f"{HEAD}transfer-encoding : chunked\r\n\r\n0\r\n\r\n{INNER}",
    "a bare line feed in a name": f"{HEAD}x-a\nx-b: 1\r\n\r\n{INNER}",
    "a request line of HTTP/0.9": "GET /v1/x\r\n",
    "HTTP/1.0": "GET /v1/x HTTP/1.0\r\nhost: HOST\r\n\r\n",
    "HTTP/2 in words": "GET /v1/x HTTP/2.0\r\nhost: HOST\r\n\r\n",
    "no host": "GET /v1/x HTTP/1.1\r\n\r\n",
    "CONNECT to somebody else": f"CONNECT evil.up.example:443 HTTP/1.1\r\nhost: evil.up.example:443\r\n\r\n{INNER}",
    "CONNECT to the host itself": f"CONNECT HOST HTTP/1.1\r\nhost: HOST\r\n\r\n{INNER}",
    "CONNECT with a body": f"CONNECT HOST HTTP/1.1\r\nhost: HOST\r\ncontent-length: 9\r\n\r\n{INNER}",
    "TRACE": "TRACE /v1/x HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "TRACK": "TRACK /v1/x HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "a method in lower case": "get /v1/x HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "a method that is none": "GE\x01T /v1/x HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "an asterisk for a path": "OPTIONS * HTTP/1.1\r\nhost: HOST\r\n\r\n",
    "a space in the path": "GET /v1/x HTTP/1.1\r\nx: HTTP/1.1\r\nhost: HOST\r\n\r\n".replace("/v1/x", "/v1/x y"),
    "an upgrade to something else": "GET /v1/x HTTP/1.1\r\nhost: HOST\r\nconnection: upgrade\r\nupgrade: spdy/3\r\n\r\n",
    "an upgrade to raw TCP": "GET /v1/x HTTP/1.1\r\nhost: HOST\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n",
    "a WebSocket where none is allowed": f"GET /v1/x HTTP/1.1\r\nhost: HOST\r\n{UPGRADE}\r\n\x82\x04abcd",
    "a WebSocket with a body": f"GET /v1/x HTTP/1.1\r\nhost: HOST\r\n{UPGRADE}content-length: 4\r\n\r\nabcd",
    "te with more than trailers": f"{HEAD}connection: te\r\nte: trailers, chunked\r\ncontent-length: 0\r\n\r\n",
    "a response in place of a request": "HTTP/1.1 101 Switching Protocols\r\nupgrade: tcp\r\n\r\n",
}


@pytest.mark.parametrize("sentence", MESSAGES)
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_a_message_with_two_meanings_reaches_nobody(whole: Whole, cell: Attacker, sentence: str, tls: bool) -> None:
    port = whole.upstreams.https_port if tls else whole.upstreams.http_port
    data = MESSAGES[sentence].replace("HOST", f"{API}:{port}").encode("latin-1")
    before, records = whole.arrived, len(whole.upstreams.seen)
    answer = cell.ask(API, port, data, tls=tls)
    if sentence.startswith("te with") and answer["status"] == 200:  # what is more than trailers ends at the boundary
        assert whole.upstreams.seen[records]["headers"].get("te", "trailers") == "trailers"
        return
    assert answer["status"] == 0 or answer["status"] >= 400, answer
    assert whole.arrived == before, whole.upstreams.seen[records:]
    if answer["status"] and answer["body"]:
        whole.note(answer)


STREAMS: dict[str, list[list[str]]] = {
    "CONNECT": [[":method", "CONNECT"], [":authority", "HOST"]],
    "a WebSocket": [[":method", "CONNECT"], [":protocol", "websocket"], [":scheme", "https"], [":authority", "HOST"], [":path", "/v1/x"]],
    "two authorities": [[":authority", "evil.up.example"], *(GET := [[":method", "GET"], [":scheme", "https"], [":authority", "HOST"], [":path", "/v1/x"]])],
    "two paths": [*GET, [":path", "/v1/y"]],
    "a line end in the path": [*GET[:3], [":path", "/v1/x HTTP/1.1\r\nhost: evil\r\n\r\nGET /v1/y"]],
    "a line end in the authority": [*GET[:2], [":authority", "HOST\r\nx: 1"], GET[3]],
    "a line end in a value": [*GET, ["x-a", "1\r\n\r\nGET /v1/inner HTTP/1.1\r\nhost: HOST\r\n\r\n"]],
    "a line end in a name": [*GET, ["x-a: 1\r\nx-b", "1"]],
    "a coding": [*GET, ["transfer-encoding", "chunked"]],
    "a length that is wrong": [*GET, ["content-length", "44"]],
    "a connection header": [*GET, ["connection", "authorization"]],
    "an upgrade": [*GET, ["upgrade", "websocket"], ["connection", "upgrade"]],
    "a method with a space": [[":method", "GET /v1/y HTTP/1.1\r\nx:"], *GET[1:]],
    "a path that is a URL": [*GET[:3], [":path", "https://evil.up.example/v1/x"]],
    "a path of nothing": [*GET[:3], [":path", ""]],
    "a pseudo-header after others": [[":method", "GET"], [":scheme", "https"], [":path", "/v1/x"], ["x-a", "1"], [":authority", "HOST"]],
    "a pseudo-header of its own": [*GET, [":remit", "1"]],
}  # fmt: skip


@pytest.mark.parametrize("sentence", STREAMS)
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "prior knowledge"])
def test_a_stream_that_http_1_could_not_say_reaches_nobody(
    whole: Whole, cell: Attacker, sentence: str, tls: bool
) -> None:
    port = whole.upstreams.https_port if tls else whole.upstreams.http_port
    before = whole.arrived
    source = """
import boundary_h2 as h2
headers = [(n.encode("latin-1"), v.replace("HOST", host).encode("latin-1")) for n, v in headers]
with connect("api.up.example", port, tls=tls, alpn="h2") as sock:
    found = h2.talk(sock, [headers])
result = [found.gone or bool(found.reset), found.bodies.get(1, b"").decode()]
"""
    over, body = cell.do(source, host=f"{API}:{port}", port=port, tls=tls, headers=STREAMS[sentence])
    assert over or not body or '"reason"' in body, body
    assert whole.arrived == before
    if '"reason"' in body:
        whole.note({"body": body})


def test_requests_hidden_behind_another_are_each_decided(whole: Whole, cell: Attacker) -> None:
    """Pipelined, after a chunked body with extensions and trailers, and after a request to switch to HTTP/2."""
    port, before = whole.upstreams.https_port, len(whole.upstreams.seen)
    host = f"{API}:{port}"
    hidden = f"GET /admin HTTP/1.1\r\nhost: {host}\r\n\r\n"
    chunked = f'{HEAD}transfer-encoding: chunked\r\n\r\n1;a="\r\n";b\r\nx\r\n0\r\nhost: evil\r\n\r\n'
    first = [f"GET /v1/x HTTP/1.1\r\nhost: {host}\r\n\r\n", chunked.replace("HOST", host),
             f"GET /v1/x HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"]  # fmt: skip
    source = "with connect('api.up.example', port) as sock:\n    result = everything(sock, data)"
    for opening in first:
        closing = hidden.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")
        said = cell.do(source, port=port, data=(opening + closing).encode("latin-1"))
        assert said, opening
    assert {seen["path"] for seen in whole.upstreams.seen[before:]} <= {"/v1/x"}
    for seen in whole.upstreams.seen[before:]:
        assert seen["headers"]["host"] == host
        assert "upgrade" not in seen["headers"]


OPAQUE: dict[str, tuple[int, str]] = {
    "SSH": (22, "SSH-2.0-OpenSSH_9.2\r\n"),
    "SMTP, whose client waits": (25, ""),
    "MySQL, whose client waits": (3306, ""),
    "Redis": (6379, "*1\r\n$4\r\nPING\r\n"),
    "bytes of no protocol": (4444, "\x00\x01\x02\xff" * 8),
    "a PROXY header of version 1": (80, "PROXY TCP4 100.64.0.9 198.18.0.1 1 80\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n"),
    "a PROXY header of version 2": (80, "\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c" + "\x64\x40\0\x09" * 3),
    "TLS of version 1.0": (443, "\x16\x03\x01\0\x2d\x01\0\0\x29\x03\x01" + "\0" * 33 + "\0\x02\0\x2f\x01\0"),
}


@pytest.mark.parametrize("sentence", OPAQUE)
def test_what_is_neither_http_nor_tls_ends_at_the_boundary_with_a_record(
    whole: Whole, cell: Attacker, sentence: str
) -> None:
    port, opening = OPAQUE[sentence]
    mark, before = {record["id"] for record in whole.audit(role="attacker")}, whole.arrived
    source = "with connect(host, port, tls=False) as sock:\n    result = everything(sock, data)"
    said = cell.do(source, host=API, port=port, data=opening.encode("latin-1"))
    assert "200 OK" not in said and SECRET not in said

    def recorded() -> list[dict[str, Any]]:
        return [r for r in whole.audit(role="attacker", decision="deny") if r["id"] not in mark and r["port"] == port]

    found = wait_for(recorded, "a record")
    assert found[0]["reason"] in ("no_capability", "refused_by_boundary")
    assert whole.arrived == before


def test_udp_leaves_the_cell_on_no_port(whole: Whole, cell: Attacker) -> None:
    """QUIC among them: an Initial packet to 443 is refused in the cell, so clients fall back to TCP."""
    initial = b"\xc3\x00\x00\x00\x01\x08" + b"\0" * 1194
    for to, port in ((API, 443), ("8.8.8.8", 443), ("8.8.8.8", 123), ("169.254.169.254", 80), ("fd00:ec2::254", 80)):
        source = "result = datagram(data, address(to, socket.AF_INET) if '.ex' in to else to, port, 2.0)"
        said = cell.do(source, data=initial, to=to, port=port)
        assert said in ("PermissionError", "ConnectionRefusedError", "OSError"), said
    whole.still_works(cell)
