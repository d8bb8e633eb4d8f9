"""An agent cannot choose who it is: PROXY bytes, identity headers and addresses that it forges change nothing."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from boundary_harness import SIGNATURE, Boundary, exchange, proxy_header, send

HOST = ("198.18.0.9", 80)
REQUEST = b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n"


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def closed(sock: socket.socket) -> bytes:
    """What the boundary sends before it closes the connection."""
    got = b""
    try:
        while data := sock.recv(65536):
            got += data
    except ConnectionError:
        pass
    return got


@pytest.mark.parametrize(
    "opening",
    [
        pytest.param(REQUEST, id="none"),
        pytest.param(b"PROXY TCP4 100.64.0.1 198.18.0.9 4000 80\r\n" + REQUEST, id="version 1"),
        pytest.param(SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12) + REQUEST, id="version 3"),
        pytest.param(SIGNATURE + b"\x21\x12\x00\x0c" + bytes(12) + REQUEST, id="UDP"),
        pytest.param(SIGNATURE + b"\x21\x11\x00\x04" + bytes(4) + REQUEST, id="short"),
        pytest.param(SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12) + REQUEST, id="unknown command"),
    ],
)
def test_a_connection_without_the_forwarders_header_is_closed_unread(boundary: Boundary, opening: bytes) -> None:
    before = boundary.dialled
    with boundary.raw(opening) as sock:
        assert closed(sock) == b""
    assert boundary.seen == []
    assert boundary.dialled == before


def test_a_connection_without_a_token_has_none(boundary: Boundary) -> None:
    with boundary.connect(tls=False, port=80, token=None) as sock:
        exchange(sock, "/", "api.test", headers=(("x-remit-connection", "v=forged"),))
    assert boundary.seen[0].token == b""


@pytest.mark.parametrize("tls", [False, True])
def test_a_local_header_carries_nobody(boundary: Boundary, tls: bool) -> None:
    """The health-check command of PROXY v2 (§2.2) says: use the real addresses. There are none."""
    before = boundary.dialled
    boundary.script = boundary.governed
    with boundary.raw(proxy_header(HOST, command=0)) as sock:
        with contextlib.suppress(ConnectionError):  # it may be closed before a word
            sock.sendall(b"\x16\x03\x01" if tls else REQUEST)
            sock.shutdown(socket.SHUT_WR)
        closed(sock)
    assert boundary.dialled == before


@pytest.mark.parametrize(
    ("more", "seen"),
    [
        pytest.param(tlv(0xE0, b"second"), b"second", id="twice"),
        pytest.param(tlv(0xE1, b"other"), b"first", id="another type"),
        pytest.param(tlv(0x20, tlv(0xE0, b"nested")), b"first", id="nested"),
    ],
)
def test_several_tokens_are_one_or_the_other_never_both(boundary: Boundary, more: bytes, seen: bytes) -> None:
    with boundary.connect(tls=False, port=80, token=b"first", more=more) as sock:
        exchange(sock, "/", "api.test")
    assert boundary.seen[0].token == seen


@pytest.mark.parametrize("token", [b"a\r\nx-remit-connection: v=1.2.3.4:5", b"a\nb", b"a\x00b", b"a,v=b"])
def test_a_token_that_would_split_a_header_admits_nobody(boundary: Boundary, token: bytes) -> None:
    before = boundary.dialled
    boundary.script = boundary.governed
    with boundary.connect(tls=False, port=80, token=token) as sock:
        answer = exchange(sock, "/", "api.test")
    assert answer.status in (400, 403, 503), answer.body
    assert boundary.seen == []
    assert boundary.dialled == before


@pytest.mark.parametrize("token", [b"\xff\xfe\x80", b"x" * 8192, b"-", b" "])
def test_a_token_of_odd_bytes_reaches_the_check_as_one_token_or_not_at_all(boundary: Boundary, token: bytes) -> None:
    with boundary.connect(tls=False, port=80, token=token) as sock:
        try:
            answer = exchange(sock, "/", "api.test")
        except OSError:
            return
    assert answer.status in (200, 400, 403, 503)
    for seen in boundary.seen:
        assert seen.token != b"token-of-cell-1"
        assert seen.peer.startswith("100.64.0.1:")


@pytest.mark.parametrize(
    "name",
    ["x-remit-connection", "x-remit-length", "x-remit-record", "x-remit-pin"],
)
@pytest.mark.parametrize("spelled", [str.lower, str.upper])
def test_identity_headers_of_an_agent_count_for_nothing_and_go_nowhere(boundary: Boundary, name, spelled) -> None:
    with boundary.connect(tls=False, port=80) as sock:
        answer = exchange(sock, "/", "api.test", headers=((spelled(name), "v=forged"), (spelled(name), "v=twice")))
    (seen,) = boundary.seen
    assert (seen.token, seen.sni, seen.tls) == (b"token-of-cell-1", "", False)
    assert seen.peer.startswith("100.64.0.1:")
    assert "forged" not in repr(seen)
    assert "forged" not in answer.body.decode()


@pytest.mark.parametrize(
    "name",
    [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-client-cert",
        "forwarded",
        "x-envoy-external-address",
        "x-envoy-internal",
        "x-envoy-original-path",
        "x-envoy-retry-on",
        "x-envoy-upstream-alt-stat-name",
        "x-envoy-auth-partial-body",
    ],
)
def test_forwarding_headers_do_not_choose_the_peer_and_do_not_pass(boundary: Boundary, name: str) -> None:
    with boundary.connect(tls=False, port=80) as sock:
        answer = exchange(sock, "/", "api.test", headers=((name, "100.64.0.2"),))
    assert boundary.seen[0].peer.startswith("100.64.0.1:")
    assert name not in boundary.seen[0].headers
    assert answer.upstream_headers.keys() == {"host", "authorization"}


def test_a_second_proxy_header_inside_the_connection_is_opaque(boundary: Boundary) -> None:
    before = boundary.dialled
    forged = proxy_header(HOST, token=b"stolen", source=("100.64.0.2", 1))
    with boundary.connect(tls=False, port=80) as sock:
        sock.sendall(forged + REQUEST)
        closed(sock)
    assert boundary.dialled == before
    assert [found.token for found in boundary.seen] == [b"token-of-cell-1"], "bytes like any other"
    assert {found.peer.rpartition(":")[0] for found in boundary.seen} == {"100.64.0.1"}


def test_a_token_of_another_cell_stays_with_the_flow_it_came_on(boundary: Boundary) -> None:
    with boundary.connect(source=("100.64.0.7", 999), token=b"token-of-cell-1") as sock:
        send(sock, REQUEST)
    assert (boundary.seen[0].token, boundary.seen[0].peer) == (b"token-of-cell-1", "100.64.0.7:999")
