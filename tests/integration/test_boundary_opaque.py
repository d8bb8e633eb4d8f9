"""Connections that nobody reads, through a real Envoy: decided before anything is dialled, refused in words."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess

import pytest
from boundary_harness import Boundary, exchange, until
from servers import Greeter

from remit.control.decide import Denied, Permitted
from remit.core import flow
from remit.core.capability import Protocol
from remit.core.reason import Reason, Refusal
from remit.core.request import Evidence, read

SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
DOORS = ("first", "tcp")


def read_all(sock) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(4096):
            data += piece
    return data


def exactly(sock, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := sock.recv(size - len(data))):
        data += piece
    return data


def startup(*fields: bytes) -> bytes:
    body = (196608).to_bytes(4, "big") + b"\0".join(fields) + b"\0\0"
    return (len(body) + 4).to_bytes(4, "big") + body


@pytest.fixture
def greeter():
    made = Greeter()
    yield made
    made.listener.close()


def refusing(reason: Reason = Reason.NO_CAPABILITY) -> object:
    return lambda evidence: Denied(record="r-77", refusal=Refusal(reason, "nothing covers it"))


@pytest.mark.parametrize("door", DOORS)
def test_a_permitted_connection_carries_bytes_both_ways_and_its_end(
    boundary: Boundary, greeter: Greeter, door: str
) -> None:
    boundary.script = boundary.carry(record=f"r-tcp-{door}", pin_port=greeter.port)
    with boundary.connect("db.test", 7000, tls=False, door=boundary.door(door)) as sock:
        sock.sendall(b"\x00abcdef")
        assert exactly(sock, 11) == b"220 hello\r\n"
        assert exactly(sock, 7) == b"\x00ABCDEF"
        sock.sendall(b"x" * 300_000)
        assert exactly(sock, 300_000) == b"X" * 300_000
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"BYE"
    (evidence,) = boundary.seen
    asked = read(evidence)
    assert (asked.protocol, asked.host, asked.port, asked.method) == (Protocol.TCP, "db.test", 7000, "CONNECT")
    assert evidence.token == b"token-of-cell-1"
    line = boundary.line(record=f"r-tcp-{door}")
    assert (line["bytes_out"], line["bytes_in"]) == (300_007, 300_021)
    assert line["flow"] == evidence.peer and line["duration_ms"] >= 0


def test_a_server_may_speak_first_on_any_port(boundary: Boundary, greeter: Greeter) -> None:
    boundary.script = boundary.carry(pin_port=greeter.port)
    with boundary.connect("db.test", 7001, tls=False, door=boundary.door("tcp")) as sock:
        assert exactly(sock, 11) == b"220 hello\r\n"


@pytest.mark.parametrize("door", DOORS)
def test_nothing_is_dialled_before_the_decision_nor_after_a_refusal(
    boundary: Boundary, greeter: Greeter, door: str
) -> None:
    boundary.script = refusing()
    with boundary.connect("db.test", 3306, tls=False, door=boundary.door(door)) as sock:
        said = read_all(sock)
        assert said[4:5] == b"\xff" and b"remit: " in said, "nothing but the reason, as MySQL's error"
    boundary.stop("tunnel")
    try:
        with boundary.connect("db.test", 3306, tls=False, door=boundary.door(door)) as sock:
            assert read_all(sock) == b""
    finally:
        boundary.serve_tunnel()
    assert greeter.connections == 0


def test_a_permit_without_an_address_dials_nothing(boundary: Boundary, greeter: Greeter) -> None:
    boundary.script = boundary.carry(pin="localhost", pin_port=greeter.port)
    with boundary.connect("db.test", 7002, tls=False, door=boundary.door("tcp")) as sock:
        assert read_all(sock) == b""
    assert greeter.connections == 0


def test_the_end_of_a_flow_is_the_end_of_its_upstream_connection(boundary: Boundary, greeter: Greeter) -> None:
    boundary.script = boundary.carry(pin_port=greeter.port)
    sock = boundary.connect("db.test", 7003, tls=False, door=boundary.door("tcp"))
    assert exactly(sock, 3) == b"220"
    sock.close()
    assert greeter.ended.acquire(timeout=60)


def test_a_postgresql_client_is_told_why_and_by_which_record(boundary: Boundary) -> None:
    before = boundary.dialled
    boundary.script = refusing()
    with boundary.connect("db.test", 5432, tls=False, source=("100.64.0.1", 1990), token=b"its-token") as sock:
        sock.sendall(SSL_REQUEST)
        assert sock.recv(1) == b"N"
        sock.sendall(startup(b"user", b"agent", b"database", b"main"))
        said = read_all(sock)
    assert said.startswith(b"E") and b"C0A000\0" in said and b"no_capability" in said and b"r-77" in said
    (evidence,) = boundary.seen
    assert (evidence.token, evidence.peer) == (b"its-token", "100.64.0.1:1990")
    assert evidence.destination == f"{flow.virtual('db.test')[0]}:5432"
    assert boundary.dialled == before


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_psql_itself_prints_the_reason(boundary: Boundary) -> None:
    boundary.script = refusing()
    port = boundary.relay("db.test", 5432)
    done = subprocess.run(
        ["psql", f"host=127.0.0.1 port={port} user=agent dbname=main connect_timeout=8 gssencmode=disable"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2
    assert "FATAL:  remit: No capability of this role covers the request" in done.stderr
    assert "record r-77" in done.stderr and "HINT:" in done.stderr


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_itself_prints_the_reason(boundary: Boundary) -> None:
    before = boundary.dialled
    boundary.script = refusing()
    port = boundary.relay("code.test", 9418)
    done = subprocess.run(
        ["git", "ls-remote", f"git://127.0.0.1:{port}/acme/app.git"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 128
    assert "remote error: remit: No capability of this role covers the request" in done.stderr
    assert "record r-77" in done.stderr
    assert boundary.dialled == before


def test_a_redis_client_is_told_why_over_ipv6_too(boundary: Boundary) -> None:
    boundary.script = refusing()
    destination = (flow.virtual("db.test")[1], 6379)
    with boundary.connect(tls=False, source=("fd00:201:2::1", 1989), destination=destination) as sock:
        sock.sendall(b"*1\r\n$4\r\nPING\r\n")
        assert read_all(sock).startswith(b"-ERR remit: No capability")
    assert read(boundary.seen[0]).host == "db.test"


def test_an_address_that_stands_for_no_asked_name_or_for_several_is_refused(boundary: Boundary) -> None:
    boundary.script = boundary.governed
    for meant, words in (((), "no name that this cell has asked for"), (("a.test", "b.test"), "several names")):
        boundary.meant[flow.virtual("strange.test")[0]] = meant
        with boundary.connect("strange.test", 6379, tls=False) as sock:
            sock.sendall(b"*1\r\n$4\r\nPING\r\n")
            assert words.encode() in read_all(sock)


def test_without_the_refusing_server_a_refused_connection_is_closed(boundary: Boundary) -> None:
    before = boundary.dialled
    boundary.script = refusing()
    boundary.stop("refuse")
    try:
        with boundary.connect("db.test", 22, tls=False) as sock:
            sock.sendall(b"SSH-2.0-x\r\n")
            assert read_all(sock) == b""
    finally:
        boundary.serve_refuse()
    assert boundary.dialled == before


# TLS passed through


def passing(boundary: Boundary, evidence: Evidence) -> Permitted | Denied:
    found = read(evidence)
    if isinstance(found, Refusal):
        return Denied(record="r-refused", refusal=found)
    return boundary.carry(pin_port=boundary.upstream.port, record="r-passed")(evidence)


def test_tls_that_is_passed_through_shows_the_client_the_upstreams_own_certificate(boundary: Boundary) -> None:
    boundary.script = lambda evidence: passing(boundary, evidence)
    raw = boundary.connect("api.test", 443, tls=False, door=boundary.door("tls"))
    context = ssl.create_default_context(cafile=str(boundary.authority.file))
    with context.wrap_socket(raw, server_hostname="api.test") as sock:
        assert exchange(sock, "/pinned", "api.test").status == 200
    asked = read(boundary.seen[0])
    assert (asked.protocol.value, asked.host, asked.port) == ("tls-passthrough", "api.test", 443)
    assert boundary.line(record="r-passed")["bytes_out"] > 0


@pytest.mark.parametrize(
    ("sni", "reason"),
    [
        ("other.test", "destination_mismatch"),
        ("API.test", "passed"),
        (None, "name_invalid"),
        ("evil.test", "destination_mismatch"),
    ],
)
def test_a_pass_through_is_bound_to_the_name_in_the_handshake(boundary: Boundary, sni: str | None, reason: str) -> None:
    refused: list[Refusal] = []

    def decide(evidence: Evidence) -> Permitted | Denied:
        answer = passing(boundary, evidence)
        if isinstance(answer, Denied):
            refused.append(answer.refusal)
        return answer

    boundary.script = decide
    before = boundary.dialled
    raw = boundary.connect("api.test", 443, tls=False, door=boundary.door("tls"))
    context = ssl.create_default_context(cafile=str(boundary.authority.file))
    context.check_hostname = False
    if reason == "passed":  # Envoy reads names in lower case
        context.wrap_socket(raw, server_hostname=sni).close()
        until(lambda: boundary.dialled > before, "the upstream")
        return
    with pytest.raises((ssl.SSLError, ConnectionError, OSError)):
        context.wrap_socket(raw, server_hostname=sni)
    assert [found.reason.value for found in refused] == [reason]
    assert boundary.dialled == before


def test_what_is_no_tls_behind_that_door_is_decided_as_bytes(boundary: Boundary) -> None:
    boundary.script = refusing()
    with boundary.connect("api.test", 443, tls=False, door=boundary.door("tls")) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n")
        assert read_all(sock) == b""
    until(lambda: boundary.seen, "the check")
    assert read(boundary.seen[0]).protocol is Protocol.TCP
