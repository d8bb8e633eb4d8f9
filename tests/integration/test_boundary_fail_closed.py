"""Whatever is missing, slow or wrong: nothing is dialled, and the cell is told with a problem."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import pytest
from boundary_harness import PATIENCE_S, Boundary, exchange, until

from remit.control.decide import Permitted
from remit.core.request import Evidence


def refused(boundary: Boundary, status: int, detail: str, **options: object) -> None:
    """A request is answered so by Envoy itself, is in the spool, and reached no upstream."""
    before = boundary.dialled
    answer = boundary.ask(**options)
    assert answer.status == status, answer.body
    assert answer.header("content-type") == "application/problem+json"
    assert answer.json["reason"] == "refused_by_boundary"
    assert detail in answer.json["detail"]
    assert boundary.dialled == before


def test_a_check_that_is_gone_refuses_everything_until_it_is_back(boundary: Boundary) -> None:
    boundary.stop("check")
    try:
        refused(boundary, 503, "ext_authz_error")
    finally:
        boundary.serve_check()
    assert boundary.ask().status == 200
    boundary.line(status=503, details="ext_authz_error")


def test_a_check_that_stalls_refuses_in_time(boundary: Boundary) -> None:
    async def never(_: Evidence) -> Permitted:
        await asyncio.Event().wait()
        raise AssertionError

    boundary.script = never
    began = time.monotonic()
    refused(boundary, 503, "ext_authz_error")
    assert time.monotonic() - began > PATIENCE_S - 0.2


def test_a_check_that_breaks_denies(boundary: Boundary) -> None:
    def broken(_: Evidence) -> Permitted:
        raise RuntimeError("a fault")

    boundary.script = broken
    before = boundary.dialled
    assert boundary.ask().status >= 400
    assert boundary.dialled == before


@pytest.mark.parametrize("pin", ["", "-", "api.test", "localhost", "127.1", "0x7f000001"])
def test_what_is_no_address_is_not_dialled(boundary: Boundary, pin: str) -> None:
    boundary.script = boundary.permit_with(pin=pin)
    before = boundary.dialled
    answer = boundary.ask()
    assert (answer.status, answer.json["reason"]) == (403, "address_refused")
    assert boundary.dialled == before


def test_a_permit_without_an_address_dials_nothing(boundary: Boundary) -> None:
    """The second layer: Envoy itself, whatever the decision service would say."""
    boundary.stop("check")
    try:
        boundary.start("check", _bare_200(boundary.layout.check_socket))
        until(Path(boundary.layout.check_socket).exists, "the bare check listens")
        refused(boundary, 503, "dns_resolution_failure")
    finally:
        boundary.stop("check")
        boundary.serve_check()


async def _bare_200(path: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    try:
        await server.serve_forever()
    finally:
        Path(path).unlink()


def test_an_ipv6_address_is_dialled_as_written(boundary: Boundary) -> None:
    boundary.script = boundary.permit_with(pin="::1", pin_port=1)
    answer = boundary.ask()
    assert answer.status == 503
    assert boundary.line(upstream="[::1]:1")["flags"] == "UF"


def test_an_upstream_that_refuses_connections_is_explained(boundary: Boundary) -> None:
    boundary.script = boundary.permit_with(pin_port=1, record="r-refused")
    answer = boundary.ask()
    assert (answer.status, answer.json["record"]) == (503, "r-refused")
    assert boundary.line(record="r-refused")["status"] == 503


@pytest.mark.parametrize("which", ["wrong", "strange"])
def test_an_upstream_that_cannot_prove_the_authorised_name_gets_no_request(boundary: Boundary, which: str) -> None:
    boundary.script = boundary.permit_with(pin_port=getattr(boundary, which).port, pool=which, record=f"r-{which}")
    answer = boundary.ask()
    assert answer.status == 503
    assert "CERTIFICATE_VERIFY_FAILED" in boundary.line(record=f"r-{which}")["upstream_failure"]
    assert getattr(boundary, which).heads == []


def test_the_name_is_proved_for_every_request_of_a_connection(boundary: Boundary) -> None:
    """The same address and the same pool, another name: the open upstream connection is not good enough."""
    good = boundary.permit_with(pin_port=boundary.upstream.port, pool="same")
    boundary.script = good
    assert boundary.ask(host="api.test").status == 200
    before = len(boundary.upstream.heads)
    assert boundary.ask(host="wrong.test").status == 503
    assert len(boundary.upstream.heads) == before
    assert boundary.ask(host="other.test").status == 200


def test_identities_do_not_share_upstream_connections(boundary: Boundary) -> None:
    numbers = {}
    for pool in ("a", "b", "a", "b"):
        boundary.script = boundary.permit_with(pool=pool)
        numbers.setdefault(pool, set()).add(boundary.ask().json["connection"])
    assert len(numbers["a"]) == len(numbers["b"]) == 1
    assert numbers["a"] != numbers["b"]


def test_a_handshake_fails_without_sds_and_works_again_with_it(boundary: Boundary) -> None:
    boundary.stop("sds")
    try:
        with pytest.raises((ssl.SSLError, OSError)):
            boundary.connect("new-name.test", sni="new-name.test").close()
    finally:
        boundary.serve_sds()
    with boundary.connect("api.test") as sock:
        assert exchange(sock, "/", "api.test").status == 200
    with boundary.connect("newer-name.test") as sock:
        assert exchange(sock, "/", "api.test").status == 200


def test_a_name_that_is_not_canonical_gets_no_certificate(boundary: Boundary) -> None:
    for sni in ("API.test", "a_b.test", "1.2.3.4.5"):
        began = time.monotonic()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with pytest.raises((ssl.SSLError, OSError)), boundary.connect(tls=False) as sock:
            context.wrap_socket(sock, server_hostname=sni)
        assert time.monotonic() - began < 4.5, f"{sni} waited for the end of the time that a handshake has"
