"""HTTP/2 says in binary what HTTP/1.1 cannot even write; none of it may come out on the other side."""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence

import boundary_h2
import pytest
from boundary_h2 import END_HEADERS, HEADERS, Pairs, Streams, block, frame, request
from boundary_harness import Boundary


def talk(boundary: Boundary, requests: Sequence[Pairs | bytes], *, tls: bool = True) -> Streams:
    made = ssl.create_default_context(cafile=boundary.ca_file)
    made.set_alpn_protocols(["h2"])
    sock = boundary.connect(tls=False, port=443 if tls else 80)
    if not tls:
        with sock:
            return boundary_h2.talk(sock, requests)
    with made.wrap_socket(sock, server_hostname="api.test") as wrapped:
        return boundary_h2.talk(wrapped, requests)


@pytest.fixture(autouse=True)
def governed(boundary: Boundary) -> None:
    boundary.script = boundary.governed


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(request(b"/", b"other.test", (b"host", b"api.test")), id="authority and host disagree"),
        pytest.param([*request(), (b":authority", b"other.test")], id="two authorities"),
        pytest.param([*request(), (b":path", b"/other")], id="two paths"),
        pytest.param([(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/")], id="no authority"),
        pytest.param(request(b""), id="empty path"),
        pytest.param(request(b"other"), id="relative path"),
        pytest.param(request(b"https://other.test/"), id="absolute form in the path"),
        pytest.param(request(b"/a b"), id="space in the path"),
        pytest.param(request(b"/a#b"), id="fragment"),
        pytest.param(request(b"/a\r\nx-injected: 1"), id="CRLF in the path"),
        pytest.param(request(b"/", b"api.test\r\nx: 1"), id="CRLF in the authority"),
        pytest.param(request(b"/", b"api.test", (b"x-a", b"1\r\nx-injected: 1")), id="CRLF in a value"),
        pytest.param(request(b"/", b"api.test", (b"x-a", b"1\x00")), id="NUL in a value"),
        pytest.param(request(b"/", b"api.test", (b"x-a\r\nx-injected", b"1")), id="CRLF in a name"),
        pytest.param(request(b"/", b"api.test", (b"x a", b"1")), id="space in a name"),
        pytest.param(request(b"/", b"api.test", (b"X-A", b"1")), id="upper-case name"),
        pytest.param(request(b"/", b"api.test", (b"x_a", b"1")), id="underscore"),
        pytest.param(request(b"/", b"api.test", (b"transfer-encoding", b"chunked")), id="transfer-encoding"),
        pytest.param(request(b"/", b"api.test", (b"connection", b"authorization")), id="connection"),
        pytest.param(request(b"/", b"api.test", (b"upgrade", b"websocket")), id="upgrade"),
        pytest.param(request(b"/", b"api.test", (b"content-length", b"5")), id="content-length of an empty body"),
        pytest.param([(b":method", b"CONNECT"), (b":authority", b"api.test:443")], id="CONNECT"),
        pytest.param(
            [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *request()[1:]], id="extended CONNECT (RFC 8441)"
        ),
        pytest.param([(b":method", b"G T"), *request()[1:]], id="space in the method"),
        pytest.param([(b":method", b"TRACE"), *request()[1:]], id="TRACE"),
        pytest.param(request(b"/", b"api.test", (b"x-http-method-override", b"DELETE")), id="method override"),
        pytest.param(request(b"/", b"api.test", (b"x-a", b"y" * 70_000)), id="oversized"),
    ],
)
@pytest.mark.parametrize("tls", [True, False])
def test_a_malformed_stream_is_refused_and_never_dialled(boundary: Boundary, headers: Pairs, tls: bool) -> None:
    before = len(boundary.upstream.heads) + len(boundary.plain.heads)
    found = talk(boundary, [headers], tls=tls)
    body = found.bodies.get(1, b"")
    assert found.gone or found.reset or not body or "reason" in json.loads(body)
    assert len(boundary.upstream.heads) + len(boundary.plain.heads) == before


def test_a_host_header_beside_the_authority_is_dropped(boundary: Boundary) -> None:
    """RFC 9113 §8.3.1: they must agree; Envoy keeps the authority alone, which the check then sees."""
    found = talk(boundary, [request(b"/", b"api.test", (b"host", b"other.test"))])
    assert boundary.seen[0].authority == "api.test"
    assert [value for name, value in json.loads(found.bodies[1])["headers"] if name == "host"] == ["api.test"]


def test_the_scheme_is_that_of_the_connection_not_the_agents(boundary: Boundary) -> None:
    headers = [(b":method", b"GET"), (b":scheme", b"http"), *request()[2:]]
    found = talk(boundary, [headers])
    assert boundary.seen[0].tls
    assert json.loads(found.bodies[1])["target"] == "/"
    assert boundary.plain.heads == []


def test_forged_identity_counts_for_nothing_in_http2_either(boundary: Boundary) -> None:
    forged = [(name, b"v=forged") for name in (b"x-remit-connection", b"x-remit-length", b"x-forwarded-for")]
    found = talk(boundary, [request(b"/", b"api.test", *forged, *forged)])
    (seen,) = boundary.seen
    assert (seen.token, seen.sni) == (b"token-of-cell-1", "api.test")
    assert seen.headers == {}
    assert dict(json.loads(found.bodies[1])["headers"]).keys() == {"host", "authorization"}


def test_trailers_of_a_request_cannot_stand_in_for_headers(boundary: Boundary) -> None:
    opened = frame(HEADERS, END_HEADERS, 1, block(request()))
    trailers = frame(HEADERS, END_HEADERS | 1, 1, block([(b"authorization", b"forged"), (b"host", b"other.test")]))
    found = talk(boundary, [opened + trailers, *([request(b"/next")] * 0)])
    assert found.bodies == {}
    for head in boundary.upstream.heads:
        assert head.lower().count(b"authorization: ") == 1
        assert b"other.test" not in head.split(b"\r\n\r\n")[0]


def test_a_burst_of_resets_costs_the_connection(boundary: Boundary) -> None:
    """Rapid reset (CVE-2023-44487): streams opened and dropped by the thousand."""
    burst = b"".join(
        frame(HEADERS, END_HEADERS | 1, n, block(request())) + frame(boundary_h2.RESET, 0, n, b"\x00\x00\x00\x08")
        for n in range(1, 4001, 2)
    )
    found = talk(boundary, [burst, *[request()]])
    assert found.gone
    assert len(boundary.seen) < 2000
    assert boundary.ask().status == 200
