"""What the check answers reaches the upstream on a permit, nobody on a denial, and no file of the boundary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from boundary_harness import SECRET, Boundary, exchange, until

PIN = (
    b"x-remit-pin: 127.0.0.1\r\nx-remit-pin-port: %d\r\nx-remit-path: /\r\nx-remit-pool: p\r\nx-remit-record: r-raw\r\n"
)


class RawCheck:
    """A decision service that answers with whatever bytes a test sets, as a broken or subverted one would."""

    def __init__(self, boundary: Boundary) -> None:
        self.answer = b""
        self._path = Path(boundary.layout.check_socket)

    async def serve(self) -> None:
        server = await asyncio.start_unix_server(self._one, str(self._path))
        try:
            await server.serve_forever()
        finally:
            self._path.unlink()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        writer.close()


@pytest.fixture
def raw_check(boundary: Boundary) -> Iterator[RawCheck]:
    made = RawCheck(boundary)
    boundary.stop("check")
    boundary.start("check", made.serve())
    until(Path(boundary.layout.check_socket).exists, "the check listens")
    yield made
    boundary.stop("check")
    boundary.serve_check()


@pytest.mark.parametrize("status", [b"403 Forbidden", b"401 Unauthorized", b"302 Found", b"500 Error", b"204 None"])
def test_a_denial_hands_none_of_its_headers_to_the_cell(boundary: Boundary, raw_check: RawCheck, status: bytes) -> None:
    before = boundary.dialled
    raw_check.answer = (
        b"HTTP/1.1 "
        + status
        + b"\r\nauthorization: "
        + SECRET
        + b"\r\nset-cookie: s=1\r\nlocation: https://other.test/\r\n"
        b"www-authenticate: Basic\r\nx-api-key: k\r\nconnection: close\r\n"
        + PIN % 80
        + (b"" if status.startswith(b"204") else b"content-length: 4\r\n")
        + b"\r\n"
        + (b"" if status.startswith(b"204") else b"body")
    )
    answer = boundary.ask()
    assert answer.status >= 300 or answer.status == 204
    always = {"location", "www-authenticate"}  # Envoy passes these on whatever it is told; the service sends neither
    assert {name for name, _ in answer.headers} - always <= {"content-type", "content-length", "date", "connection"}
    assert SECRET not in answer.body
    assert boundary.dialled == before


@pytest.mark.parametrize(
    "header",
    [
        b"content-length: 0",
        b"transfer-encoding: chunked",
        b"connection: close, x-api-key",
        b"host: other.test",
        b"te: trailers",
        b"upgrade: websocket",
        b"trailer: x",
        b"keep-alive: 1",
        b"server: check",
        b"date: Mon, 01 Jan 2001 00:00:00 GMT",
        b"x-remit-connection: v=1",
        b"x-remit-other: 1",
        b"x-envoy-retry-on: 5xx",
        b"x-envoy-upstream-rq-timeout-ms: 1",
        b"x-forwarded-for: 10.0.0.1",
        b"forwarded: for=1",
        b"content-type: text/evil",
    ],
)
def test_headers_that_frame_the_answer_do_not_become_the_requests(
    boundary: Boundary, raw_check: RawCheck, header: bytes
) -> None:
    length = b"" if header.startswith((b"content-length", b"transfer")) else b"content-length: 0\r\n"
    end = b"0\r\n\r\n" if header.startswith(b"transfer") else b""
    raw_check.answer = (
        b"HTTP/1.1 200 OK\r\nx-api-key: k\r\n"
        + header
        + b"\r\n"
        + length
        + PIN % boundary.upstream.port
        + b"\r\n"
        + end
    )
    before = len(boundary.upstream.heads)
    answer = boundary.ask(
        method="POST", body=b"abc", headers=(("accept", "text/plain"), ("content-type", "text/plain"))
    )
    if answer.status != 200:  # refused whole: fine too
        assert len(boundary.upstream.heads) == before
        return
    assert answer.json["body"] == "abc"
    assert answer.upstream_headers == {
        "host": "api.test",
        "x-api-key": "k",
        "accept": "text/plain",
        "content-type": "text/plain",
        "content-length": "3",
    }


def test_the_agents_own_authorization_does_not_compete(boundary: Boundary) -> None:
    headers = (("authorization", "Bearer one"), ("Authorization", "Bearer two"))
    assert boundary.ask(headers=headers).upstream_headers["authorization"] == SECRET.decode()


def test_what_competes_with_the_credential_does_not_reach_the_upstream(boundary: Boundary) -> None:
    boundary.script = boundary.permit_with(headers=((b"x-api-key", SECRET),), removed=(b"authorization", b"api-key"))
    sent = (("Authorization", "Bearer mine"), ("authorization", "again"), ("api-key", "k"), ("x-csrf", "c"))
    seen = boundary.ask(headers=sent).upstream_headers
    assert seen["x-api-key"] == SECRET.decode()
    assert seen["x-csrf"] == "c"
    assert not {"authorization", "api-key", "x-envoy-auth-headers-to-remove"} & set(seen)


@pytest.mark.parametrize("name", [b"host", b"x-remit-connection", b"a,b", b"a\r\nx-remit-pin: 6.6.6.6", b":path"])
def test_a_header_that_must_not_be_taken_off_is_a_denial(boundary: Boundary, name: bytes) -> None:
    boundary.script = boundary.permit_with(removed=(name,))
    before = boundary.dialled
    answer = boundary.ask()
    assert (answer.status, answer.json["reason"]) == (403, "policy_failed")
    assert boundary.dialled == before


def test_a_connection_header_cannot_take_the_credential_off(boundary: Boundary) -> None:
    for value in ("authorization", "close, Authorization", "x-remit-pin"):
        answer = boundary.ask(headers=(("connection", value),))
        if answer.status == 200:
            assert answer.upstream_headers["authorization"] == SECRET.decode()


def test_a_redirect_is_the_agents_to_follow_and_carries_no_credential(boundary: Boundary) -> None:
    boundary.script = lambda seen: boundary.permit(seen) if seen.authority == "api.test" else boundary.deny(seen)
    with boundary.connect() as sock:
        assert exchange(sock, "/", "api.test").status == 200
    assert boundary.ask(host="other.test").status == 403
    assert all(b"other.test" not in head for head in boundary.upstream.heads)


def test_no_secret_stands_in_what_envoy_writes(boundary: Boundary) -> None:
    boundary.script = boundary.permit_with(
        headers=((b"authorization", b"Bearer hush-hush"),), target=b"/?key=hush-hush", record="r-hush"
    )
    boundary.ask(headers=(("authorization", "Bearer placeholder"),))
    boundary.script = boundary.permit_with(headers=((b"authorization", b"Bearer hush-hush"),), pin_port=1)
    boundary.ask()
    boundary.line(record="r-hush")
    for path in (Path(boundary.layout.spool), boundary.directory / "envoy.log", boundary.directory / "envoy.json"):
        text = path.read_text()
        assert "hush-hush" not in text, path
        assert "token-of-cell" not in text, path
    for path in (boundary.layout.admin_socket, boundary.layout.proxy_socket, boundary.layout.spool):
        if path is not None and Path(path).exists():
            assert Path(path).stat().st_mode & 0o007 == 0, path


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"x-a", b"1\r\nx-remit-pin: 6.6.6.6"), (b"x-a\r\nx-b", b"1"), (b"x-remit-pin", b"6.6.6.6"), (b"host", b"other")],
)
def test_a_header_that_would_split_the_answer_is_a_denial(boundary: Boundary, name: bytes, value: bytes) -> None:
    boundary.script = boundary.permit_with(headers=((name, value),))
    before = boundary.dialled
    answer = boundary.ask()
    assert (answer.status, answer.json["reason"]) == (403, "policy_failed")
    assert boundary.dialled == before
