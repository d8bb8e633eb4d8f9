"""HTTP/1.1 through a real Envoy: what the check sees, what the upstream sees, what the cell sees, what is written."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import time

import pytest
from boundary_harness import SECRET, Boundary, exchange, send, until
from boundary_upstreams import Echo

from remit.boundary import envoy


def test_envoy_accepts_the_whole_configuration(boundary: Boundary) -> None:
    found = subprocess.run(
        [str(envoy.binary()), "--mode", "validate", "-c", str(boundary.directory / "envoy.json")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert "Deprecated" not in found.stderr


def test_the_check_sees_who_asks_for_what(boundary: Boundary) -> None:
    boundary.ask("/repos/a?x=1&y=%20", method="POST", body=b"hello", headers=(("x-mine", "1"), ("X-Mine", "2")))
    (seen,) = boundary.seen
    assert (seen.token, seen.sni, seen.tls) == (b"token-of-cell-1", "api.test", True)
    assert (seen.method, seen.authority, seen.target) == ("POST", "api.test", "/repos/a?x=1&y=%20")
    assert seen.peer.startswith("100.64.0.1:")
    assert seen.peer == seen.direct_peer
    assert seen.destination.endswith(":443")
    assert seen.headers == {"x-mine": "1,2", "content-length": "5"}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_upstream_is_reached_that_speaks_one_version_of_tls_alone(
    boundary: Boundary, version: ssl.TLSVersion
) -> None:
    only, upstream = boundary.authority.server_context("api.test"), Echo()
    only.minimum_version = only.maximum_version = version
    boundary.run(upstream.start(only))
    boundary.opened.append(upstream.server)
    boundary.script = boundary.permit_with(pin_port=upstream.port)
    assert boundary.ask().status == 200


def test_plain_http_is_checked_and_dialled_too(boundary: Boundary) -> None:
    answer = boundary.ask("/", port=80, tls=False)
    assert answer.status == 200
    assert answer.upstream_headers == {"host": "api.test", "authorization": SECRET.decode()}
    assert (boundary.seen[0].tls, boundary.seen[0].sni) == (False, "")


def test_the_upstream_sees_the_request_and_the_credential_and_nothing_of_the_boundary(boundary: Boundary) -> None:
    answer = boundary.ask("/a?b", headers=(("authorization", "Bearer placeholder"), ("x-request-id", "mine")))
    assert answer.json["target"] == "/a?b"
    assert answer.upstream_headers == {"host": "api.test", "authorization": SECRET.decode(), "x-request-id": "mine"}


def test_the_cell_sees_the_upstreams_headers_and_none_of_the_boundarys(boundary: Boundary) -> None:
    answer = boundary.ask()
    assert {name for name, _ in answer.headers} == {"server", "content-type", "content-length", "date"}
    assert answer.header("server") == "upstream/1"


@pytest.mark.parametrize("target", [b"/other", b"/?key=secret&a=1", b"/a%2Fb;c=1?%00=/..//"])
def test_the_target_is_replaced_whole_by_the_one_the_check_gives(boundary: Boundary, target: bytes) -> None:
    boundary.script = boundary.permit_with(target=target, headers=())
    answer = boundary.ask("/?key=placeholder")
    assert answer.json["target"] == target.decode()
    assert answer.upstream_headers == {"host": "api.test"}


def test_every_header_that_the_check_may_set_is_set(boundary: Boundary) -> None:
    headers = tuple((name, b"value of " + name) for name in (b"x-api-key", b"private-token", b"cookie", b"user-agent"))
    boundary.script = boundary.permit_with(headers=headers)
    seen = boundary.ask(headers=(("x-api-key", "placeholder"), ("user-agent", "curl"))).upstream_headers
    assert seen == {"host": "api.test", **{k.decode(): v.decode() for k, v in headers}}


def test_a_host_with_its_usual_port_reaches_the_upstream_as_it_was_written(boundary: Boundary) -> None:
    """Whoever presigned a URL for `host:443` signed just that."""
    boundary.script = boundary.governed
    target = "/k?X-Amz-Signature=abc&X-Amz-Credential=a%2Fb"
    answer = boundary.ask(target, authority="api.test:443")
    assert answer.upstream_headers["host"] == "api.test:443"
    assert answer.json["target"] == target


def test_bodies_pass_in_both_framings(boundary: Boundary) -> None:
    assert boundary.ask(method="PUT", body=b"x" * 100_000).json["body"] == "x" * 100_000
    with boundary.connect() as sock:
        chunked = (
            b"POST / HTTP/1.1\r\nhost: api.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        assert send(sock, chunked).json["body"] == "abcde"


def test_a_connection_carries_many_requests_each_checked(boundary: Boundary) -> None:
    with boundary.connect() as sock:
        for number in range(3):
            assert exchange(sock, f"/{number}", "api.test").json["target"] == f"/{number}"
    assert [seen.target for seen in boundary.seen] == ["/0", "/1", "/2"]
    assert len({seen.peer for seen in boundary.seen}) == 1


@pytest.mark.parametrize("tls", [True, False])
def test_a_connection_is_not_kept_until_a_server_ends_it(boundary: Boundary, tls: bool) -> None:
    """Many do after 5 s, and a POST that meets that is lost: nobody may send it again."""
    kept: list[float] = []

    class Upstream(Echo):
        async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
            since = time.monotonic()
            try:
                await super()._one(reader, writer, number)
            except EOFError:
                kept.append(time.monotonic() - since)
                raise

    upstream = Upstream()
    boundary.run(upstream.start(boundary.authority.server_context("api.test") if tls else None))
    boundary.opened.append(upstream.server)
    boundary.script = boundary.permit_with(pin_port=upstream.port)
    assert boundary.ask(port=443 if tls else 80, tls=tls, method="POST", body=b"x").status == 200
    until(lambda: kept, "Envoy ends it")
    assert kept[0] < 5


def test_a_denial_is_a_problem_that_names_its_record_and_nothing_is_dialled(boundary: Boundary) -> None:
    boundary.script = boundary.deny
    before = boundary.dialled
    answer = boundary.ask()
    assert answer.status == 403
    assert answer.header("content-type") == "application/problem+json"
    assert set(answer.json) == {"type", "title", "status", "detail", "reason", "record", "next"}
    assert answer.json["reason"] == "no_capability"
    assert boundary.dialled == before
    boundary.line(record=answer.json["record"], details="ext_authz_denied")


def test_a_permitted_request_leaves_a_line_with_its_record_and_without_its_query(boundary: Boundary) -> None:
    boundary.script = boundary.permit_with(record="r-line", target=b"/p?key=real-secret")
    boundary.ask("/p?q=private", method="POST", body=b"12345")
    line = boundary.line(record="r-line")
    assert (line["status"], line["path"], line["method"], line["authority"]) == (200, "/p", "POST", "api.test")
    assert line["bytes_out"] == 5
    assert line["bytes_in"] > 0
    assert line["flow"] == boundary.seen[0].peer
    assert "secret" not in json.dumps(line)
    assert "private" not in json.dumps(line)


def test_server_sent_events_arrive_as_they_are_sent(boundary: Boundary) -> None:
    with boundary.connect() as sock:
        sock.sendall(b"GET /sse HTTP/1.1\r\nhost: api.test\r\n\r\n")
        got = b""
        while b"data: one" not in got:
            got += sock.recv(4096)
        assert b"data: two" not in got
        boundary.run(_set(boundary))
        while b"data: two" not in got:
            got += sock.recv(4096)


async def _set(boundary: Boundary) -> None:
    boundary.upstream.go_on.set()
