"""Names that disagree: connection, handshake and every single request must speak of one host and port."""

from __future__ import annotations

import ssl

import pytest
from boundary_harness import Boundary, exchange, send


@pytest.fixture(autouse=True)
def governed(boundary: Boundary) -> None:
    boundary.script = boundary.governed


def test_names_that_agree_pass(boundary: Boundary) -> None:
    assert boundary.ask().status == 200
    assert boundary.ask(authority="API.test").status == 200
    assert boundary.ask(authority="api.test:443").status == 200


@pytest.mark.parametrize(
    ("authority", "status", "reason"),
    [
        ("other.test", 421, "name_mismatch"),
        ("api.test:8443", 421, "name_mismatch"),
        ("api.test:443:443", 403, "name_invalid"),
        ("127.0.0.1", 421, "name_mismatch"),
        ("api.test@other.test", None, None),
        ("api_.test", 403, "name_invalid"),
        ("[::1]", 421, "name_mismatch"),
        ("api.test,other.test", 400, "header_invalid"),
        ("api.test\x80", None, None),
        ("0x7f.1", 403, "name_invalid"),
        ("", None, None),
    ],
)
def test_a_host_that_is_not_the_one_of_the_handshake(
    boundary: Boundary, authority: str, status: int | None, reason: str | None
) -> None:
    before = boundary.dialled
    answer = boundary.ask(authority=authority)
    if status is not None:
        assert (answer.status, answer.json["reason"]) == (status, reason)
    assert answer.status >= 400
    assert boundary.dialled == before


def test_two_host_headers_are_refused(boundary: Boundary) -> None:
    for first, second in (("api.test", "other.test"), ("other.test", "api.test"), ("api.test", "api.test")):
        before = boundary.dialled
        with boundary.connect() as sock:
            answer = send(sock, f"GET / HTTP/1.1\r\nhost: {first}\r\nhost: {second}\r\n\r\n".encode())
        assert answer.status == 400
        assert boundary.dialled == before


def test_the_second_request_of_a_connection_is_held_to_the_name_too(boundary: Boundary) -> None:
    with boundary.connect() as sock:
        assert exchange(sock, "/", "api.test").status == 200
        answer = exchange(sock, "/", "other.test")
        assert (answer.status, answer.json["reason"]) == (421, "name_mismatch")
        assert exchange(sock, "/", "api.test").status == 200


def test_an_absolute_target_is_the_name_that_counts(boundary: Boundary) -> None:
    """RFC 9112 §3.2.2: Host is ignored then, and the upstream gets the name that was decided."""
    before = boundary.dialled
    for target in ("https://other.test/", "http://other.test/"):
        answer = boundary.ask(target, authority="api.test")
        assert (answer.status, answer.json["reason"]) == (421, "name_mismatch")
    assert boundary.dialled == before
    answer = boundary.ask("https://api.test/a", authority="other.test")
    assert (answer.status, answer.upstream_headers["host"], answer.json["target"]) == (200, "api.test", "/a")


def test_the_destination_must_be_where_the_name_leads(boundary: Boundary) -> None:
    for destination in (("198.18.0.1", 443), ("127.0.0.1", 443), ("169.254.169.254", 443)):
        answer = boundary.ask(destination=destination)
        assert (answer.status, answer.json["reason"]) == (403, "destination_mismatch")


def test_plain_http_on_a_tls_port_and_tls_on_a_plain_port_are_told_apart(boundary: Boundary) -> None:
    answer = boundary.ask(port=443, tls=False)
    assert (answer.status, answer.json["reason"]) == (421, "name_mismatch")
    answer = boundary.ask(port=80, tls=True)
    assert (answer.status, answer.json["reason"]) == (421, "name_mismatch")


def test_a_handshake_without_a_name_gets_a_certificate_for_no_host(boundary: Boundary) -> None:
    with boundary.connect("127.0.0.1", tls=False, destination=("127.0.0.1", 443)) as sock:
        context = ssl.create_default_context(cafile=boundary.ca_file)
        context.check_hostname = False
        with context.wrap_socket(sock) as tls:
            names = tls.getpeercert()["subjectAltName"]
            answer = exchange(tls, "/", "api.test")
    assert names == (("DNS", "no-sni.invalid"),)
    assert answer.json["reason"] == "name_mismatch"


def test_an_encrypted_client_hello_cannot_hide_the_name(boundary: Boundary) -> None:
    """ECH needs a key from DNS, which answers none; an outer name is the only one the check ever compares."""
    answer = boundary.ask(host="other.test", sni="other.test", authority="api.test")
    assert (answer.status, answer.json["reason"]) == (421, "name_mismatch")
