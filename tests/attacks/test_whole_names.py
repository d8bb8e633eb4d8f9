"""A real cell names one host to its connection, another to TLS, a third to HTTP: none is reached but the governed one."""

from __future__ import annotations

from typing import Any

import pytest
from attacked import Attacker, Whole, request

pytestmark = pytest.mark.xdist_group("attacks-whole")

API, EVIL = "api.up.example", "evil.up.example"


def get(host: str, *, target: str = "/v1/x", more: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nhost: {host}\r\n{more}\r\n".encode("latin-1")


DISAGREE: dict[str, tuple[bytes, dict[str, Any], tuple[str, ...]]] = {
    "Host names another than SNI": (get(f"{EVIL}:PORT"), {}, ("name_mismatch",)),
    "SNI names another than Host": (get(f"{API}:PORT"), {"sni": EVIL}, ("name_mismatch",)),
    "no SNI": (get(f"{API}:PORT"), {"sni": None}, ("name_mismatch",)),
    "an absolute target names another than SNI": (
        get(f"{API}:PORT", target=f"https://{EVIL}:PORT/v1/x"),
        {},
        ("name_mismatch",),
    ),
    "an absolute target of another scheme": (
        get(f"{API}:PORT", target=f"http://{EVIL}:PORT/v1/x"),
        {},
        ("name_mismatch", "refused_by_boundary"),
    ),
    "user information in Host": (get(f"{API}@{EVIL}:PORT"), {}, ("name_invalid", "refused_by_boundary")),
    "user information in an absolute target": (
        get(f"{API}:PORT", target=f"https://{API}@{EVIL}:PORT/"),
        {},
        ("name_invalid", "name_mismatch", "refused_by_boundary"),
    ),
    "another port in Host": (get(f"{API}:443"), {}, ("name_mismatch",)),
    "no port in Host, so the default one": (get(API), {}, ("name_mismatch",)),
    "two ports in Host": (get(f"{API}:443:PORT"), {}, ("name_invalid", "refused_by_boundary")),
    "an empty port": (get(f"{API}:"), {}, ("name_invalid", "refused_by_boundary")),
    "a port with a sign": (get(f"{API}:+PORT"), {}, ("name_invalid", "refused_by_boundary")),
    "a port with zeros that overflows": (get(f"{API}:4294967739"), {}, ("name_invalid", "refused_by_boundary")),
    "a list in Host": (get(f"{API}:PORT, {EVIL}:PORT"), {}, ("header_invalid", "name_invalid", "refused_by_boundary")),
    "two Hosts": (
        get(f"{API}:PORT", more=f"host: {EVIL}:PORT\r\n"),
        {},
        ("header_invalid", "malformed", "refused_by_boundary", "name_invalid"),
    ),
    "two Hosts, the wrong one first": (
        get(f"{EVIL}:PORT", more=f"host: {API}:PORT\r\n"),
        {},
        ("header_invalid", "malformed", "refused_by_boundary", "name_invalid"),
    ),
    "a bracketed name": (get(f"[{API}]:PORT"), {}, ("name_invalid", "refused_by_boundary")),
    "a Host of raw UTF-8": (get("api.up.exämple:PORT"), {}, ("name_invalid", "refused_by_boundary")),
    "a Host with a NUL": (get(f"{API}\0.{EVIL}:PORT"), {}, ("name_invalid", "refused_by_boundary")),
    "a Host with a percent escape": (get("api%2eup.example:PORT"), {}, ("name_invalid", "refused_by_boundary")),
    "an address in Host": (get("127.0.0.1:PORT"), {}, ("name_mismatch",)),
    "an address as SNI and Host": (
        get("127.0.0.1:PORT"),
        {"sni": "127.0.0.1"},
        ("name_mismatch", "destination_mismatch"),
    ),
    "an address in Host without SNI": (get("127.0.0.1:PORT"), {"sni": None}, ("destination_mismatch",)),
    "a suffix that only looks like it": (get(f"{API}.{EVIL}:PORT"), {}, ("name_mismatch",)),
    "plain HTTP to a port for TLS": (get(f"{API}:PORT"), {"tls": False}, ("no_capability",)),
    "plain HTTP that says it was TLS": (
        get(f"{API}:PORT", more="x-forwarded-proto: https\r\nx-forwarded-port: 443\r\n"),
        {"tls": False},
        ("no_capability",),
    ),
    "a destination of the agent's": (get(f"{API}:PORT"), {"to": "192.0.2.77"}, ("destination_mismatch",)),
    "the metadata service as destination": (get(f"{API}:PORT"), {"to": "169.254.169.254"}, ("destination_mismatch",)),
    "an IPv6 destination of the agent's": (get(f"{API}:PORT"), {"to": "fd00:ec2::254"}, ("destination_mismatch",)),
    "the resolver as destination": (get(f"{API}:PORT"), {"to": "10.201.0.53"}, ("destination_mismatch",)),
    "the destination of another name": (get(f"{API}:PORT"), {"to": EVIL}, ("destination_mismatch",)),
    "everything of another name": (get(f"{EVIL}:PORT"), {"to": EVIL, "sni": EVIL}, ("no_capability",)),
    "Host names another after a ClientHello in pieces": (get(f"{EVIL}:PORT"), {"pieces": 40}, ("name_mismatch",)),
}


@pytest.mark.parametrize("sentence", DISAGREE)
def test_names_that_disagree_reach_nobody(whole: Whole, cell: Attacker, sentence: str) -> None:
    data, options, reasons = DISAGREE[sentence]
    port = whole.upstreams.https_port
    whole.refused(lambda: cell.ask(API, port, data.replace(b"PORT", str(port).encode()), **options), *reasons)


ODD: dict[str, tuple[bytes, dict[str, Any]]] = {
    "upper case": (get("API.Up.Example:PORT"), {}),
    "a final dot": (get(f"{API}.:PORT"), {}),
    "an absolute target that is right beside a Host that is not": (
        get(f"{EVIL}:PORT", target=f"https://{API}:PORT/v1/x"),
        {},
    ),
    "SNI in mixed case": (get(f"{API}:PORT"), {"sni": "aPi.up.example"}),
    "a ClientHello in pieces": (get(f"{API}:PORT"), {"pieces": 50}),
}


@pytest.mark.parametrize("sentence", ODD)
def test_an_odd_spelling_is_refused_or_is_the_one_host_that_was_decided(
    whole: Whole, cell: Attacker, sentence: str
) -> None:
    data, options = ODD[sentence]
    port, before = whole.upstreams.https_port, len(whole.upstreams.seen)
    answer = cell.ask(API, port, data.replace(b"PORT", str(port).encode()), **options)
    for seen in whole.upstreams.seen[before:]:
        assert (seen["host"].lower(), seen["path"]) == (f"{API}:{port}", "/v1/x")
    assert answer["status"] in (0, 200, 400, 403, 421, 503), answer


def test_each_request_of_a_connection_is_held_against_its_handshake(whole: Whole, cell: Attacker) -> None:
    port, before = whole.upstreams.https_port, len(whole.upstreams.seen)
    source = """
with connect(host, port) as sock:
    result = [send(sock, data) for data in (good, bad.encode(), good)]
"""
    given = {"good": request(API, port, "/v1/again"), "bad": request(EVIL, port, "/v1/again").decode()}
    answers = cell.do(source, host=API, port=port, **given)
    assert [answer["status"] for answer in answers] == [200, 421, 200]
    assert whole.record(answers[1])["reason"] == "name_mismatch"
    assert [seen["host"] for seen in whole.upstreams.seen[before:]] == [f"{API}:{port}"] * 2


def test_each_stream_of_a_connection_is_held_against_its_handshake(whole: Whole, cell: Attacker) -> None:
    """Two names behind one certificate and address make a browser coalesce; 421 sends it away."""
    port, before = whole.upstreams.https_port, len(whole.upstreams.seen)
    source = """
import boundary_h2 as h2
names = [api, evil, other, api]
with connect(host, port, alpn="h2") as sock:
    found = h2.talk(sock, [h2.request(b"/v1/several", f"{name}:{port}".encode()) for name in names])
result = [found.bodies.get(stream, b"").decode() for stream in (1, 3, 5, 7)]
"""
    good, evil, other, last = cell.do(source, host=API, port=port, api=API, evil=EVIL, other="other.up.example")
    assert '"/v1/several"' in good and '"/v1/several"' in last
    for body in (evil, other):
        assert whole.record({"body": body})["reason"] == "name_mismatch"
    assert len(whole.upstreams.seen) == before + 2


def test_a_cell_reaches_what_it_may_over_ipv6_as_over_ipv4(whole: Whole, cell: Attacker) -> None:
    port = whole.upstreams.https_port
    answer = cell.do(
        "result = ask(host, port, data, family=socket.AF_INET6)", host=API, port=port, data=request(API, port)
    )
    assert answer["status"] == 200, answer
    whole.still_works(cell)
