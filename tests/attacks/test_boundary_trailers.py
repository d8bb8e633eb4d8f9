"""Trailers of a request come after its decision: no rule has read them, and some servers take them for headers."""

from __future__ import annotations

import ssl

import boundary_h2
import pytest
from boundary_h2 import DATA, END_HEADERS, END_STREAM, HEADERS, block, frame, talk
from boundary_harness import Boundary, send

FORGED = [
    (b"authorization", b"Bearer forged"),
    (b"x-api-key", b"forged"),
    (b"cookie", b"session=forged"),
    (b"x-remit-task", b"v=t-forged r-1"),
    (b"x-envoy-original-path", b"/admin"),
    (b"x-forwarded-for", b"10.0.0.1"),
    (b"x-http-method-override", b"DELETE"),
    (b"proxy-authorization", b"Basic eDp4"),
    (b"x-checksum", b"1"),
]


@pytest.mark.parametrize("tls", [True, False])
def test_no_trailer_of_a_request_passes(boundary: Boundary, tls: bool) -> None:
    upstream = boundary.upstream if tls else boundary.plain
    upstream.trailers.clear()
    trailers = b"".join(name + b": " + value + b"\r\n" for name, value in FORGED)
    head = b"POST / HTTP/1.1\r\nhost: api.test\r\ntransfer-encoding: chunked\r\ntrailer: x-checksum\r\n\r\n"
    with boundary.connect(**({} if tls else {"tls": False, "port": 80})) as sock:
        answer = send(sock, head + b"3\r\nabc\r\n0\r\n" + trailers + b"\r\n", "POST")
        assert (answer.status, answer.json["body"]) == (200, "abc")
        assert send(sock, b"GET /next HTTP/1.1\r\nhost: api.test\r\n\r\n").status == 200, "the connection goes on"
    assert upstream.trailers == []


def test_no_trailer_of_a_stream_passes(boundary: Boundary) -> None:
    boundary.upstream.trailers.clear()
    opened = [(name, b"POST" if name == b":method" else value) for name, value in boundary_h2.request()]
    said = frame(HEADERS, END_HEADERS, 3, block(opened)) + frame(DATA, 0, 3, b"abc")
    said += frame(HEADERS, END_HEADERS | END_STREAM, 3, block(FORGED))
    context = ssl.create_default_context(cafile=boundary.ca_file)
    context.set_alpn_protocols(["h2"])
    with context.wrap_socket(boundary.connect(tls=False, port=443), server_hostname="api.test") as sock:
        talk(sock, [boundary_h2.request(b"/first")])
        sock.sendall(said)
        found, data = boundary_h2.Streams(), b""
        while 3 not in found.ended and (more := sock.recv(65536)):
            data = boundary_h2.taken(sock, data + more, found)
    assert b'"body": "abc"' in found.bodies[3]
    assert boundary.upstream.trailers == []
