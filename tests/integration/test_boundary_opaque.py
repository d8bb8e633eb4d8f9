"""Protocols that are not governed, through a real Envoy: refused by our own server, in words where possible."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time

import pytest
from boundary_harness import Boundary, until

from remit.core import flow
from remit.core.reason import Reason


def read_all(sock) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(4096):
            data += piece
    return data


def startup(*fields: bytes) -> bytes:
    body = (196608).to_bytes(4, "big") + b"\0".join(fields) + b"\0\0"
    return (len(body) + 4).to_bytes(4, "big") + body


SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


def test_a_postgresql_client_is_told_why_and_by_which_record(boundary: Boundary) -> None:
    before = boundary.dialled
    with boundary.connect("db.test", 5432, tls=False, source=("100.64.0.1", 1990), token=b"its-token") as sock:
        sock.sendall(SSL_REQUEST)
        assert sock.recv(1) == b"N"
        sock.sendall(startup(b"user", b"agent", b"database", b"main"))
        said = read_all(sock)
    assert said.startswith(b"E") and b"C0A000\0" in said and b"protocol_unsupported" in said
    refusal, facts = boundary.refused[0]
    assert refusal.reason is Reason.PROTOCOL_UNSUPPORTED
    assert (facts["token"], facts["flow"], facts["scheme"]) == (b"its-token", "100.64.0.1:1990", "postgresql")
    assert facts["destination"] == f"{flow.virtual('db.test')[0]}:5432"
    assert boundary.dialled == before


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_psql_itself_prints_the_reason(boundary: Boundary) -> None:
    port = boundary.relay("db.test", 5432)
    done = subprocess.run(
        ["psql", f"host=127.0.0.1 port={port} user=agent dbname=main connect_timeout=8 gssencmode=disable"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2
    assert "FATAL:  remit: This protocol is not governed yet" in done.stderr
    assert "record r-" in done.stderr and "HINT:" in done.stderr


@pytest.mark.parametrize("port", [3306, 25])
def test_a_client_that_waits_for_the_server_is_refused_at_once(boundary: Boundary, port: int) -> None:
    """The inspectors are off for these ports: nothing would ever come for them to inspect."""
    before, began = boundary.dialled, time.monotonic()
    with boundary.connect("db.test", port, tls=False) as sock:
        assert read_all(sock) == b""
    assert time.monotonic() - began < 1.5
    assert [facts["scheme"] for _, facts in boundary.refused] == [{3306: "mysql", 25: "smtp"}[port]]
    assert boundary.dialled == before


def test_an_opaque_protocol_over_ipv6_is_refused_too(boundary: Boundary) -> None:
    destination = (flow.virtual("db.test")[1], 6379)
    with boundary.connect(tls=False, source=("fd00:201:2::1", 1989), destination=destination) as sock:
        sock.sendall(b"*1\r\n$4\r\nPING\r\n")
        assert read_all(sock) == b""
    until(lambda: boundary.refused, "the refusal")
    facts = boundary.refused[0][1]
    assert (facts["flow"], facts["host"], facts["scheme"]) == ("[fd00:201:2::1]:1989", destination[0], "redis")


def test_without_the_refusing_server_an_opaque_connection_is_closed(boundary: Boundary) -> None:
    before = boundary.dialled
    boundary.stop("refuse")
    try:
        with boundary.connect("db.test", 22, tls=False) as sock:
            sock.sendall(b"SSH-2.0-x\r\n")
            assert read_all(sock) == b""
    finally:
        boundary.serve_refuse()
    assert boundary.dialled == before
