"""A real cell speaks to a proxy: what it asks of it is decided as if it had connected by itself, whatever it writes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from attacked import Attacker, Whole, request
from instance import wait_for

from remit.cell import connect
from remit.core import flow

pytestmark = pytest.mark.xdist_group("attacks-whole")

API, EVIL, PROXY, PORT = "api.up.example", "evil.up.example", flow.PROXY_NAME, flow.PROXY_PORT

TUNNEL = """
def head_of(sock):
    found = b""
    while b"\\r\\n\\r\\n" not in found:
        more = sock.recv(1)
        if not more:
            break
        found += more
    return found

def tunnel(asked, *, sni=None, after=b""):
    sock = connect("", 3128, to=address("proxy.remit.alt"), tls=False)
    sock.sendall(asked + after)
    said = head_of(sock)
    assert said.startswith(b"HTTP/1.1 200 "), said
    if sni is None:
        return sock
    return unverifying().wrap_socket(sock, server_hostname=sni)
"""


def asked(host: str, port: int, more: str = "") -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{more}\r\n".encode()


def through(cell: Attacker, target: bytes, data: bytes, sni: str | None = None) -> dict[str, Any]:
    """One request in a tunnel."""
    source = TUNNEL + "result = send(tunnel(target, sni=sni), data)"
    return dict(cell.do(source, target=target, data=data, sni=sni))


def plain(cell: Attacker, data: bytes, **options: Any) -> dict[str, Any]:
    """One request to the proxy itself."""
    return cell.ask(PROXY, PORT, data, tls=False, **options)


def test_a_tunnel_leads_where_a_connection_would(whole: Whole, cell: Attacker) -> None:
    port = whole.upstreams.https_port
    answer = through(cell, asked(API, port), request(API, port, "/v1/tunnel"), API)
    assert answer["status"] == 200, answer
    seen = whole.upstreams.seen[-1]
    assert (seen["host"], seen["path"]) == (f"{API}:{port}", "/v1/tunnel")
    record = next(one for one in whole.audit(host=API) if one.get("path") == "/v1/tunnel")
    assert (record["decision"], record["host"], record["port"]) == ("permit", API, port)


def test_a_request_to_the_proxy_leads_where_it_says(whole: Whole, cell: Attacker) -> None:
    """Also over IPv6, and several of one connection, to different hosts: a client keeps one connection to its proxy."""
    port, before = whole.upstreams.http_port, len(whole.upstreams.seen)
    source = """
sock = connect("", 3128, to=address("proxy.remit.alt", socket.AF_INET6), tls=False)
result = [send(sock, data.encode()) for data in several]
"""
    several = [
        f"GET http://{host}:{port}/v1/plain HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n" for host in (API, EVIL, API)
    ]
    first, evil, last = cell.do(source, several=several)
    assert (first["status"], last["status"]) == (200, 200)
    assert whole.record(evil)["reason"] == "no_capability"
    assert [seen["host"] for seen in whole.upstreams.seen[before:]] == [f"{API}:{port}"] * 2


TUNNELS: dict[str, tuple[str, str, str | None, tuple[str, ...]]] = {
    "the handshake names another than the CONNECT": (API, EVIL, EVIL, ("destination_mismatch",)),
    "the request names another than the handshake": (API, EVIL, API, ("name_mismatch",)),
    "plain HTTP names another than the CONNECT": (API, EVIL, None, ("destination_mismatch",)),
    "the CONNECT names another than everything else": (EVIL, API, API, ("destination_mismatch",)),
    "a host that nothing covers": (EVIL, EVIL, EVIL, ("no_capability",)),
    "the metadata service": ("169.254.169.254", "169.254.169.254", None, ("no_capability",)),
    "the metadata service under an allowed name": ("169.254.169.254", API, API, ("destination_mismatch",)),
    "the metadata service over IPv6": ("[fd00:ec2::254]", "[fd00:ec2::254]", None, ("no_capability",)),
    "the node's loopback": ("127.0.0.1", "127.0.0.1", None, ("no_capability",)),
    "the node's loopback under an allowed name": ("127.0.0.1", API, API, ("destination_mismatch",)),
    "a name for the cell itself": ("localhost", "localhost", None, ("no_capability",)),
    "an address that no name stands for": ("198.18.0.1", API, API, ("destination_mismatch",)),
    "the proxy as a host": (PROXY, PROXY, None, ("no_capability",)),
}


@pytest.mark.parametrize("sentence", TUNNELS)
def test_what_a_tunnel_carries_is_held_against_what_it_was_asked_for(
    whole: Whole, cell: Attacker, sentence: str
) -> None:
    target, host, sni, reasons = TUNNELS[sentence]
    port = whole.upstreams.https_port
    whole.refused(lambda: through(cell, asked(target, port), request(host, port), sni), *reasons)


def test_another_port_than_the_tunnels_reaches_nobody(whole: Whole, cell: Attacker) -> None:
    port = whole.upstreams.https_port
    whole.refused(lambda: through(cell, asked(API, 443), request(API, port), API), "name_mismatch")
    whole.refused(lambda: through(cell, asked(API, 6), request(API, 6), API), "no_capability")


def test_bytes_in_one_segment_with_the_connect_are_the_tunnels_own(whole: Whole, cell: Attacker) -> None:
    """They count for what they are: decided under the CONNECT's name, not the proxy's."""
    port = whole.upstreams.http_port
    source = TUNNEL + "result = send(tunnel(target, after=data), b'')"
    whole.refused(
        lambda: dict(cell.do(source, target=asked(API, port), data=request(EVIL, port))), "destination_mismatch"
    )
    answer = cell.do(source, target=asked(API, port), data=request(API, port, "/v1/early"))
    assert answer["status"] == 200, answer
    assert whole.upstreams.seen[-1]["path"] == "/v1/early"


def test_a_tunnel_in_a_tunnel_is_none(whole: Whole, cell: Attacker) -> None:
    """Neither through the proxy nor through any other host."""
    port = whole.upstreams.http_port
    for outer, inner in ((asked(PROXY, PORT), asked(API, port)), (asked(API, port), asked(API, port))):
        whole.refused(
            lambda outer=outer, inner=inner: through(cell, outer, inner), "refused_by_boundary", "method_invalid"
        )


HEADS: dict[str, bytes] = {
    "no port": b"CONNECT api.up.example HTTP/1.1\r\nhost: api.up.example\r\n\r\n",
    "a Host that differs": asked(API, 443).replace(b"Host: api", b"Host: evil"),
    "two Hosts": asked(API, 443, "host: evil.up.example:443\r\n"),
    "a body": asked(API, 443, "content-length: 4\r\n") + b"GET ",
    "chunks": asked(API, 443, "transfer-encoding: chunked\r\n") + b"0\r\n\r\n",
    "an upgrade": asked(API, 443, "connection: upgrade\r\nupgrade: websocket\r\n"),
    "a path": b"CONNECT /v1/x HTTP/1.1\r\nhost: api.up.example:443\r\n\r\n",
    "the absolute form": b"CONNECT https://api.up.example:443/ HTTP/1.1\r\nhost: api.up.example:443\r\n\r\n",
    "user information": b"CONNECT api.up.example:443@evil.up.example:443 HTTP/1.1\r\nhost: a\r\n\r\n",
    "a bare line feed": b"CONNECT api.up.example:443 HTTP/1.1\nhost: api.up.example:443\n\n",
    "a folded line": asked(API, 443, "x: a\r\n b\r\n"),
    "a carriage return in a field": asked(API, 443, "x: a\rhost: evil.up.example\r\n"),
    "a NUL in the name": b"CONNECT api.up.example\0.evil:443 HTTP/1.1\r\nhost: a\r\n\r\n",
    "a decimal address": asked("2852039166", 80),
    "a mapped address": asked("[::ffff:a9fe:a9fe]", 80),
    "a huge head": asked(API, 443, f"x: {'y' * connect.MAX_HEAD}\r\n"),
    "a head larger than the boundary reads": asked(API, 443, f"x: {'y' * 70_000}\r\n"),
}


@pytest.mark.parametrize("sentence", HEADS)
def test_a_connect_with_two_meanings_opens_no_tunnel(whole: Whole, cell: Attacker, sentence: str) -> None:
    before = whole.arrived
    source = "result = ask('', 3128, data, to=address('proxy.remit.alt'), tls=False)"
    answer = cell.do(source, data=HEADS[sentence])
    assert answer["status"] >= 400 or sentence == "a NUL in the name", answer  # to Envoy that is no HTTP, so no words
    assert whole.arrived == before
    if answer["body"]:
        whole.note(answer)
    else:
        wait_for(lambda: whole.audit(reason="no_capability", host=PROXY, port=str(PORT)), "a record")


def test_half_a_connect_and_then_silence_ends_and_is_recorded(whole: Whole, cell: Attacker) -> None:
    before = {record["id"] for record in whole.audit(kind="boundary")}
    source = """
sock = connect("", 3128, to=address("proxy.remit.alt"), tls=False)
sock.settimeout(30)
result = everything(sock, b"CONNECT api.up.exa")
"""
    assert "200" not in cell.do(source).split("\r\n")[0]
    wait_for(lambda: {record["id"] for record in whole.audit(kind="boundary")} - before, "a record of it")


PLAIN: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "the absolute form names what nothing covers": (
        b"GET http://evil.up.example:PORT/v1/x HTTP/1.1\r\nhost: evil.up.example:PORT\r\n\r\n",
        ("no_capability",),
    ),
    "the absolute form names another than Host": (
        b"GET http://evil.up.example:PORT/v1/x HTTP/1.1\r\nhost: api.up.example:PORT\r\n\r\n",
        ("no_capability",),
    ),
    "the metadata service": (
        b"GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\nhost: 169.254.169.254\r\n\r\n",
        ("no_capability",),
    ),
    "the node itself": (b"GET http://127.0.0.1:PORT/ HTTP/1.1\r\nhost: 127.0.0.1:PORT\r\n\r\n", ("no_capability",)),
    "user information": (
        b"GET http://api.up.example@evil.up.example:PORT/ HTTP/1.1\r\nhost: evil.up.example:PORT\r\n\r\n",
        ("name_invalid", "refused_by_boundary", "no_capability"),
    ),
    "no host at all": (b"GET /v1/x HTTP/1.1\r\n\r\n", ("refused_by_boundary", "name_invalid")),
    "the proxy itself": (b"GET / HTTP/1.1\r\nhost: proxy.remit.alt:3128\r\n\r\n", ("no_capability",)),
    "an encrypted scheme, read as what the connection is": (
        b"GET https://api.up.example:HTTPS/v1/x HTTP/1.1\r\nhost: api.up.example:HTTPS\r\n\r\n",
        ("no_capability", "refused_by_boundary"),
    ),
    "a scheme of another protocol": (
        b"GET ftp://api.up.example/ HTTP/1.1\r\nhost: api.up.example\r\n\r\n",
        ("no_capability", "refused_by_boundary"),
    ),
    "a name that is a number": (
        b"GET http://2852039166/ HTTP/1.1\r\nhost: 2852039166\r\n\r\n",
        ("name_invalid", "refused_by_boundary"),
    ),
}


@pytest.mark.parametrize("sentence", PLAIN)
def test_a_request_to_the_proxy_is_decided_like_any_other(whole: Whole, cell: Attacker, sentence: str) -> None:
    data, reasons = PLAIN[sentence]
    for name, port in ((b"HTTPS", whole.upstreams.https_port), (b"PORT", whole.upstreams.http_port)):
        data = data.replace(name, str(port).encode())
    whole.refused(lambda: plain(cell, data), *reasons)


def test_a_password_for_the_proxy_reaches_no_upstream(whole: Whole, cell: Attacker) -> None:
    secure, port = whole.upstreams.https_port, whole.upstreams.http_port
    said = "proxy-authorization: Basic bWU6bWluZQ==\r\nproxy-connection: keep-alive\r\n"
    absolute = f"GET http://{API}:{port}/v1/x HTTP/1.1\r\nhost: {API}:{port}\r\n{said}\r\n".encode()
    assert plain(cell, absolute)["status"] == 200
    answer = through(cell, asked(API, secure, said), request(API, secure), API)
    assert answer["status"] == 200
    inside = f"GET /v1/x HTTP/1.1\r\nhost: {API}:{secure}\r\n{said}\r\n".encode()
    assert through(cell, asked(API, secure), inside, API)["status"] == 200
    for seen in whole.upstreams.seen[-3:]:
        assert "proxy" not in str(seen).lower().replace(f"{PROXY}", ""), seen


def test_a_proxy_of_the_agents_own_opens_no_tunnel(whole: Whole, cell: Attacker) -> None:
    """A host that is governed as an ordinary upstream leads nowhere else, by CONNECT or by the absolute form."""
    port = whole.upstreams.http_port
    data = f"GET http://{EVIL}:{port}/v1/x HTTP/1.1\r\nhost: {EVIL}:{port}\r\n\r\n".encode()
    whole.refused(lambda: cell.ask(API, port, data, tls=False), "destination_mismatch")
    before = whole.arrived
    answer = cell.ask(API, port, asked(EVIL, 443), tls=False)
    whole.note(answer)
    assert whole.arrived == before
    assert f"{PROXY}:{PORT}" in json.loads(answer["body"])["next"], "it says what to do instead"


def test_a_tunnel_is_no_way_around_the_quota_or_the_log_of_names(whole: Whole, cell: Attacker) -> None:
    """The name in a CONNECT counts as asked for, and a refused one is recorded as if DNS had been asked."""
    name = "only-by-connect.refused.example"
    source = TUNNEL + "tunnel(target).close()\nresult = True"
    cell.do(source, target=asked(name, 443))
    wait_for(lambda: [r for r in whole.audit(kind="dns", host=name) if r["reason"] == "no_capability"], "a record")
    assert whole.names.asked[name] == 0


def test_bytes_that_are_no_http_at_the_proxy_reach_nobody(whole: Whole, cell: Attacker) -> None:
    before = whole.arrived
    source = """
sock = connect("", 3128, to=address("proxy.remit.alt"), tls=False)
result = everything(sock, data)
"""
    for data in (b"SSH-2.0-x\r\n", b"\x05\x01\x00", b"\x04\x01\x01\xbb\x7f\0\0\1\0"):
        known = {one["id"] for one in whole.audit(decision="deny")}
        assert "200" not in cell.do(source, data=data)
        (record,) = wait_for(
            lambda known=known: [
                one
                for one in whole.audit(decision="deny", role="attacker")
                if one["id"] not in known and one["port"] == 3128  # a refused lookup of a test before may come late
            ],
            "its record",
        )
        assert record["reason"] in ("no_capability", "refused_by_boundary"), record
    assert whole.arrived == before


def test_it_all_works_afterwards(whole: Whole, cell: Attacker) -> None:
    whole.still_works(cell)
