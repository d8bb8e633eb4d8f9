"""The head of a CONNECT: what is taken is exactly what was asked, however it came; nothing else is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.cell import connect, proxy
from remit.cell.connect import Asked, Verdict
from remit.core import flow, names
from remit.node import dns

NAME = st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z][a-z0-9]{0,8}){0,3}", fullmatch=True)
LITERAL = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str).map("[{}]".format))
PORT = st.integers(1, 65535)
GOOD = b"CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\nUser-Agent: x\r\n\r\n"


@given(NAME, PORT, st.sampled_from(["1.0", "1.1"]), st.binary(max_size=40), st.booleans())
def test_a_plain_head_is_taken_with_what_follows(name: str, port: int, version: str, rest: bytes, host: bool) -> None:
    field = f"Host: {name}:{port}\r\n" if host else ""
    head = f"CONNECT {name}:{port} HTTP/{version}\r\n{field}\r\n".encode()
    assert connect.read(head + rest) == Asked(host=name, port=port, rest=rest)


@given(LITERAL, PORT)
def test_an_address_is_taken_as_it_is_or_not_at_all(literal: str, port: int) -> None:
    found = connect.read(f"CONNECT {literal}:{port} HTTP/1.1\r\n\r\n".encode())
    if isinstance(found, Asked):
        assert found.host == literal.strip("[]")
        assert not found.host.startswith("::ffff:")
    else:
        assert found is Verdict.OTHER


@given(st.integers(0, len(GOOD) - 1))
def test_a_part_of_a_head_waits_for_more(length: int) -> None:
    assert connect.read(GOOD[:length]) is Verdict.MORE


@given(st.binary(max_size=300))
def test_bytes_that_are_no_connect_are_left_alone(data: bytes) -> None:
    if not data.startswith(b"CONNECT ") and not b"CONNECT ".startswith(data):
        assert connect.read(data) is Verdict.OTHER


@given(st.integers(0, len(GOOD)), st.binary(min_size=1, max_size=3))
def test_whatever_is_slipped_in_the_target_is_one_name_or_the_head_is_not_taken(at: int, noise: bytes) -> None:
    found = connect.read(GOOD[:at] + noise + GOOD[at:])
    if isinstance(found, Asked):
        target = (GOOD[:at] + noise + GOOD[at:]).split(b" ")[1].decode()
        assert names.split_authority(target, 0) == (found.host, found.port)
        assert names.canonical(found.host) == found.host


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=60))
def test_it_never_takes_more_than_a_bounded_head(pieces: list[bytes]) -> None:
    data = b"CONNECT a.example:443 HTTP/1.1\r\n" + b"".join(pieces)
    found = connect.read(data)
    if isinstance(found, Asked):
        assert len(data) - len(found.rest) <= connect.MAX_HEAD
    assert connect.read(b"CONNECT " + b"a" * connect.MAX_HEAD) is Verdict.OTHER


REFUSED = {
    "no port": b"CONNECT api.example HTTP/1.1\r\n\r\n",
    "port 0": b"CONNECT api.example:0 HTTP/1.1\r\n\r\n",
    "a port too large": b"CONNECT api.example:65536 HTTP/1.1\r\n\r\n",
    "a port with a zero in front": b"CONNECT api.example:0443 HTTP/1.1\r\n\r\n",
    "an empty port": b"CONNECT api.example: HTTP/1.1\r\n\r\n",
    "a path": b"CONNECT api.example:443/ HTTP/1.1\r\n\r\n",
    "the absolute form": b"CONNECT https://api.example:443 HTTP/1.1\r\n\r\n",
    "user information": b"CONNECT u:p@api.example:443 HTTP/1.1\r\n\r\n",
    "two targets": b"CONNECT api.example:443 evil.example:443 HTTP/1.1\r\n\r\n",
    "two spaces": b"CONNECT  api.example:443 HTTP/1.1\r\n\r\n",
    "a tab": b"CONNECT\tapi.example:443 HTTP/1.1\r\n\r\n",
    "a lower-case method": b"connect api.example:443 HTTP/1.1\r\n\r\n",
    "an empty line before": b"\r\nCONNECT api.example:443 HTTP/1.1\r\n\r\n",
    "HTTP/2": b"CONNECT api.example:443 HTTP/2.0\r\n\r\n",
    "no version": b"CONNECT api.example:443\r\n\r\n",
    "a bare line feed": b"CONNECT api.example:443 HTTP/1.1\nHost: api.example:443\r\n\r\n",
    "a bare carriage return": b"CONNECT api.example:443 HTTP/1.1\r\nx: a\rb\r\n\r\n",
    "a folded line": b"CONNECT api.example:443 HTTP/1.1\r\nx: a\r\n b\r\n\r\n",
    "a space before the colon": b"CONNECT api.example:443 HTTP/1.1\r\nhost : api.example:443\r\n\r\n",
    "a NUL": b"CONNECT api.example:443 HTTP/1.1\r\nx: \0\r\n\r\n",
    "a Host that differs": b"CONNECT api.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "a port that differs": b"CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:80\r\n\r\n",
    "two Hosts": b"CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\nHost: api.example:443\r\n\r\n",
    "a length": b"CONNECT api.example:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    "chunks": b"CONNECT api.example:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an upgrade": b"CONNECT api.example:443 HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
    "a wildcard": b"CONNECT *.example:443 HTTP/1.1\r\n\r\n",
    "a decimal address": b"CONNECT 2852039166:80 HTTP/1.1\r\n\r\n",
    "a hexadecimal address": b"CONNECT 0xa9fea9fe:80 HTTP/1.1\r\n\r\n",
    "a short address": b"CONNECT 127.1:80 HTTP/1.1\r\n\r\n",
    "a mapped address": b"CONNECT [::ffff:a9fe:a9fe]:80 HTTP/1.1\r\n\r\n",
    "an address with a zone": b"CONNECT [fe80::1%25lo]:80 HTTP/1.1\r\n\r\n",
    "an IPv6 address without brackets": b"CONNECT fd00::1:80 HTTP/1.1\r\n\r\n",
    "a percent escape": b"CONNECT api%2eexample:443 HTTP/1.1\r\n\r\n",
    "a name that is not ASCII": "CONNECT äpi.example:443 HTTP/1.1\r\n\r\n".encode(),
    "a NUL in the name": b"CONNECT api\0.example:443 HTTP/1.1\r\n\r\n",
    "too many fields": b"CONNECT api.example:443 HTTP/1.1\r\n" + b"x: y\r\n" * 65 + b"\r\n",
    "a head without end": b"CONNECT api.example:443 HTTP/1.1\r\nx: " + b"y" * 9000,
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_head_with_two_meanings_is_not_taken(sentence: str) -> None:
    assert connect.read(REFUSED[sentence]) is Verdict.OTHER


LENIENT = {
    "upper case": b"CONNECT API.Example:443 HTTP/1.1\r\n\r\n",
    "a final dot": b"CONNECT api.example.:443 HTTP/1.1\r\n\r\n",
    "a Host without port": b"CONNECT api.example:443 HTTP/1.1\r\nHost: api.example\r\n\r\n",
    "a Host that names the proxy": b"CONNECT api.example:443 HTTP/1.1\r\nHost: proxy.remit.alt:3128\r\n\r\n",
    "a password": b"CONNECT api.example:443 HTTP/1.0\r\nProxy-Authorization: Basic dTpw\r\n\r\n",
}


@pytest.mark.parametrize("sentence", LENIENT)
def test_what_clients_really_send_is_taken(sentence: str) -> None:
    assert connect.read(LENIENT[sentence]) == Asked(host="api.example", port=443, rest=b"")


@given(NAME)
def test_the_question_for_a_name_is_the_one_that_the_cells_dns_answers(name: str) -> None:
    reply = dns.answer(proxy.query(name), lambda _: True)
    assert reply.fate in (dns.Fate.ANSWERED, dns.Fate.ABSENT)
    if reply.fate is dns.Fate.ANSWERED:
        assert reply.name == name
        assert reply.kind == "A"
    assert names.canonical(flow.PROXY_NAME) == flow.PROXY_NAME
