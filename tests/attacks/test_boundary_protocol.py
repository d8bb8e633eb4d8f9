"""Requests that two readers could read differently never reach the second reader."""

from __future__ import annotations

import contextlib

import pytest
from boundary_harness import Boundary, exchange, send, until

from remit.core.request import read

HEAD = b"POST / HTTP/1.1\r\nhost: api.test\r\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", id="CL and TE"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n", id="TE and CL"),
        pytest.param(HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef", id="two lengths"),
        pytest.param(HEAD + b"content-length: 5, 6\r\n\r\nabcdef", id="a list of lengths"),
        pytest.param(HEAD + b"content-length: +5\r\n\r\nabcde", id="signed length"),
        pytest.param(HEAD + b"content-length: 0x5\r\n\r\nabcde", id="hexadecimal length"),
        pytest.param(HEAD + b"content-length : 5\r\n\r\nabcde", id="space before colon"),
        pytest.param(HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", id="unknown coding"),
        pytest.param(HEAD + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", id="chunked not last"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\nz\r\n\r\n", id="bad chunk"),
        pytest.param(HEAD + b"x-\x00a: 1\r\n\r\n", id="NUL in a name"),
        pytest.param(HEAD + b"x-a: 1\x002\r\n\r\n", id="NUL in a value"),
        pytest.param(HEAD + b"x_a: 1\r\n\r\n", id="underscore"),
        pytest.param(HEAD + b"content_length: 5\r\n\r\n", id="underscore in a framing header"),
        pytest.param(HEAD + b"x-a: " + b"y" * 70_000 + b"\r\n\r\n", id="oversized header"),
        pytest.param(HEAD + b"x: y\r\n" * 200 + b"\r\n", id="too many headers"),
        pytest.param(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: api.test\r\n\r\n", id="oversized target"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET / HTTP/1.0\r\nhost: api.test\r\n\r\n", id="HTTP/1.0"),
        pytest.param(b"GET /a b HTTP/1.1\r\nhost: api.test\r\n\r\n", id="space in target"),
        pytest.param(b"GET /a#b HTTP/1.1\r\nhost: api.test\r\n\r\n", id="fragment"),
        pytest.param(b"GET a HTTP/1.1\r\nhost: api.test\r\n\r\n", id="relative target"),
        pytest.param(b"OPTIONS * HTTP/1.1\r\nhost: api.test\r\n\r\n", id="asterisk form"),
        pytest.param(b"G<T / HTTP/1.1\r\nhost: api.test\r\n\r\n", id="bad method"),
        pytest.param(b"CONNECT other.test:443 HTTP/1.1\r\nhost: other.test:443\r\n\r\n", id="CONNECT"),
        pytest.param(b"TRACE / HTTP/1.1\r\nhost: api.test\r\n\r\n", id="TRACE"),
        pytest.param(
            b"GET / HTTP/1.1\r\nhost: api.test\r\nconnection: upgrade\r\nupgrade: spdy/3\r\n\r\n", id="another upgrade"
        ),
        pytest.param(
            HEAD + b"connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 3\r\nsec-websocket-version: 13\r\n"
            b"transfer-encoding: chunked\r\n\r\nabc",
            id="upgrade with an ambiguous body",
        ),
        pytest.param(HEAD + b"x-http-method-override: DELETE\r\n\r\n", id="method override"),
        pytest.param(HEAD + b"X-HTTP-Method: DELETE\r\n\r\n", id="method override 2"),
        pytest.param(HEAD + b"X-Method-Override: DELETE\r\n\r\n", id="method override 3"),
        pytest.param(HEAD + b"X-Original-URL: /admin\r\n\r\n", id="path override"),
        pytest.param(HEAD + b"X-Rewrite-URL: /admin\r\n\r\n", id="path override 2"),
    ],
)
@pytest.mark.parametrize("tls", [True, False])
def test_an_ambiguous_request_is_refused_and_never_dialled(boundary: Boundary, data: bytes, tls: bool) -> None:
    boundary.script = boundary.governed
    before, lines = len(boundary.upstream.heads) + len(boundary.plain.heads), len(boundary.lines())
    with boundary.connect(port=443 if tls else 80, tls=tls) as sock:
        try:
            status = send(sock, data, data.split(b" ")[0].decode("latin-1")).status
        except OSError:
            status = 0
    assert status == 0 or status >= 400
    assert len(boundary.upstream.heads) + len(boundary.plain.heads) == before
    until(lambda: boundary.seen or boundary.refused or len(boundary.lines()) > lines, "a trace of it")


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (HEAD + b"x-a: 1\r\n folded\r\n\r\n", "1 folded"),
        (HEAD + b"x-a: 1\rx-b: 2\r\n\r\n", "1x-b: 2"),
        (HEAD + b"x-a: 1\r\r\n\r\n", "1"),
        (b"GET / HTTP/1.1 \r\nhost: api.test\r\nx-a: 1\r\n\r\n", "1"),
        (HEAD + b"te: gzip, chunked\r\nx-a:\t1 \r\n\r\n", "1"),
    ],
)
def test_what_is_written_oddly_is_read_alike_by_the_check_and_by_the_upstream(
    boundary: Boundary, data: bytes, value: str
) -> None:
    with boundary.connect(tls=False, port=80) as sock:
        seen = send(sock, data).upstream_headers
    assert boundary.seen[0].headers.keys() == {"x-a"}
    assert seen.keys() - {"content-length"} == {"host", "authorization", "x-a"}
    assert boundary.seen[0].headers["x-a"] == seen["x-a"] == value


def test_envoys_own_refusals_are_problems_and_stand_in_the_spool(boundary: Boundary) -> None:
    with boundary.connect() as sock:
        answer = send(sock, b"GET / HTTP/1.1\r\nhost: api.test\r\nx_a: 1\r\n\r\n")
    assert answer.status == 400
    assert answer.header("content-type") == "application/problem+json"
    assert answer.json["reason"] == "refused_by_boundary"
    assert "underscore" in answer.json["detail"]
    line = boundary.line(details=answer.json["detail"])
    assert (line["status"], line["record"]) == (400, None)
    assert line["flow"].startswith("100.64.0.1:")


def test_chunk_extensions_and_trailers_end_here_or_pass_as_they_are(boundary: Boundary) -> None:
    boundary.script = boundary.permit_with()
    with boundary.connect(tls=False, port=80) as sock:
        answer = send(
            sock,
            HEAD + b'transfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n3;evil="1"\r\nabc\r\n0\r\nx-t: 1\r\n\r\n',
        )
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert answer.json["body"] == "abc"


def test_pipelined_requests_are_each_checked(boundary: Boundary) -> None:
    boundary.script = lambda evidence: boundary.permit(evidence) if evidence.target == "/1" else boundary.deny(evidence)
    with boundary.connect(tls=False, port=80) as sock:
        first = send(sock, b"".join(b"GET /%d HTTP/1.1\r\nhost: api.test\r\n\r\n" % n for n in (1, 2)))
        assert first.status == 200
    assert boundary.plain.heads[-1].startswith(b"GET /1 ")


def test_an_h2c_upgrade_changes_nothing(boundary: Boundary) -> None:
    with boundary.connect(tls=False, port=80) as sock:
        answer = exchange(
            sock,
            "/",
            "api.test",
            headers=(("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")),
        )
    assert answer.status in (200, 400, 403)
    assert all(b"h2c" not in head.lower() for head in boundary.plain.heads)


def test_a_denied_websocket_carries_no_frames(boundary: Boundary) -> None:
    boundary.script = boundary.deny
    before = boundary.dialled
    upgrade = (
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    )
    with boundary.connect() as sock:
        answer = exchange(sock, "/ws", "api.test", headers=upgrade)
        assert (answer.status, boundary.seen[0].headers["upgrade"]) == (403, "websocket")
        sock.sendall(b"\x82\x84\x00\x00\x00\x00abcd")
        try:
            assert b"101" not in sock.recv(4096)[:12]
        except OSError:
            pass
    assert boundary.dialled == before


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param((), id="unasked"),
        pytest.param((("connection", "upgrade"), ("upgrade", "tcp")), id="asked for another protocol"),
        pytest.param(
            (("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")), id="h2c"
        ),
        pytest.param((("expect", "100-continue"),), id="asked to continue"),
    ],
)
def test_an_upstream_that_switches_protocols_opens_no_tunnel(
    boundary: Boundary, headers: tuple[tuple[str, str], ...], tls: bool
) -> None:
    """What the agent sends next would reach the upstream unread, with a credential already on the connection."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"GET /switch HTTP/1.1\r\nhost: api.test\r\n{lines}\r\n".encode()
    hidden = b"DELETE /hidden HTTP/1.1\r\nhost: api.test\r\n\r\n"
    upstream = boundary.upstream if tls else boundary.plain
    before = len(upstream.heads)
    with boundary.connect(port=443 if tls else 80, tls=tls) as sock:
        sock.sendall(head)
        said = sock.recv(65536)
        with contextlib.suppress(OSError):  # refused upgrades close the connection
            sock.sendall(hidden)
            while b"/hidden" not in said and (data := sock.recv(65536)):
                said += data
    assert b"SWITCHED" not in said and b"upgrade: tcp" not in said.lower()
    assert upstream.switched == b"", "bytes that nobody read"
    arrived = [one.split(b" ")[1].decode() for one in upstream.heads[before:]]
    assert arrived == [evidence.target for evidence in boundary.seen], "each was decided"
    assert arrived in ([], ["/switch", "/hidden"])


@pytest.mark.parametrize(
    "opening", [b"SSH-2.0-OpenSSH_9\r\n", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"*1\r\n$4\r\nPING\r\n"]
)
def test_opaque_protocols_are_refused_recorded_and_never_dialled(boundary: Boundary, opening: bytes) -> None:
    before = boundary.dialled
    boundary.script = boundary.deny
    with boundary.connect(tls=False, port=5432) as sock:
        sock.sendall(opening)
        until(lambda: boundary.seen, "the check")
    assert boundary.dialled == before
    (evidence,) = boundary.seen
    assert evidence.token == b"token-of-cell-1"
    assert evidence.peer.startswith("100.64.0.1:")
    asked = read(evidence)
    assert (asked.protocol, asked.host, asked.port) == ("tcp", "api.test", 5432)
