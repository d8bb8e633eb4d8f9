"""A real cell says that it is somebody else, or uses up what others need: it stays who it is, and they notice nothing."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from attacked import Attacker, Whole, request
from governed import SECRET
from instance import wait_for

pytestmark = pytest.mark.xdist_group("attacks-whole")

API = "api.up.example"


def unsigned(**claims: object) -> str:
    """A token of `alg: none`."""
    parts = ({"alg": "none", "typ": "JWT"}, {"exp": 4102444800, **claims})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


def proxy2(source: bytes, token: bytes, command: int = 0x21) -> str:
    """A PROXY v2 header with a token TLV."""
    tlv = b"\xe0" + len(token).to_bytes(2, "big") + token
    block = source + b"\xc6\x12\0\x01" + b"\x10\x00\0\x50" + tlv
    header = b"\r\n\r\n\0\r\nQUIT\n" + bytes([command, 0x11]) + len(block).to_bytes(2, "big") + block
    return header.decode("latin-1")


def newest(whole: Whole, path: str) -> dict[str, Any]:
    return wait_for(lambda: [r for r in whole.audit(host=API) if r["path"] == path], f"the record of {path}")[-1]


CLAIMS = {
    "a token as a header": "x-remit-connection: v=- - - - - " + unsigned(sub="spiffe://remit/role/admin/task/t-1"),
    "a token as bearer": "authorization: Bearer " + unsigned(sub="spiffe://remit/role/admin/task/t-1"),
    "a token in Proxy-Authorization": "proxy-authorization: Bearer " + unsigned(role="admin"),
    "a task in a header": "x-remit-task: t-1",
    "a role in a header": "x-remit-role: admin",
    "a peer in a header": "x-remit-connection: v=100.64.0.1:1",
    "a peer that was forwarded": "x-forwarded-for: 100.64.0.1, 100.64.0.2",
    "a real address": "x-real-ip: 100.64.0.1",
    "a request id": "x-request-id: r-aaaaaaaaaaaaaaaaaaaaaaa",
}


@pytest.mark.parametrize("sentence", CLAIMS)
def test_what_a_request_says_of_its_sender_changes_nothing(
    whole: Whole, cell: Attacker, neighbour: Attacker, sentence: str
) -> None:
    port, line = whole.upstreams.https_port, CLAIMS[sentence]
    paths = [f"/v1/who-{list(CLAIMS).index(sentence)}-{who}" for who in ("cell", "neighbour")]
    for asking, path in zip((cell, neighbour), paths, strict=True):
        answer = asking.ask(API, port, request(API, port, path, line, line))
        assert answer["status"] == 200, answer
    found = [newest(whole, path) for path in paths]
    assert [record["role"] for record in found] == ["attacker", "neighbour"]
    assert found[0]["flow"].rpartition(":")[0] != found[1]["flow"].rpartition(":")[0]
    for path in paths:
        (seen,) = whole.upstreams.reached(path)
        assert seen["headers"]["authorization"] == f"Bearer {SECRET}"


def test_a_role_cannot_use_what_another_may(whole: Whole, neighbour: Attacker) -> None:
    port = whole.upstreams.https_port
    claim = "x-remit-role: attacker"
    record = whole.refused(lambda: neighbour.ask(API, port, request(API, port, "/basic/x", claim)), "no_capability")
    assert record["role"] == "neighbour"


HEADERS = {
    "a PROXY header before the request": proxy2(b"\x64\x40\0\x01", b"stolen"),
    "a PROXY header that names the cell of another": proxy2(b"\x64\x40\0\x02", unsigned(role="admin").encode()),
    "a PROXY header that says LOCAL": proxy2(b"\x64\x40\0\x01", b"", 0x20),
    "a PROXY header of 8 KB": proxy2(b"\x64\x40\0\x01", b"x" * 8192),
    "a PROXY header of version 1": "PROXY TCP4 100.64.0.1 198.18.0.1 1000 80\r\n",
    "half of a PROXY header": "\r\n\r\n\0\r\nQUIT\n!\x11",
}


@pytest.mark.parametrize("sentence", HEADERS)
def test_a_second_proxy_header_is_only_bytes(whole: Whole, cell: Attacker, sentence: str) -> None:
    """It comes after the forwarder's own, so it is the first byte of no protocol that is governed."""
    port, before = whole.upstreams.http_port, whole.arrived
    data = HEADERS[sentence].encode("latin-1") + request(API, port, "/v1/proxied")
    source = "with connect('api.up.example', port, tls=False) as sock:\n    result = everything(sock, data)"
    said = cell.do(source, port=port, data=data)
    assert " 200 " not in said.split("\r\n")[0]
    assert whole.arrived == before

    def recorded() -> list[dict[str, Any]]:
        found = whole.audit(decision="deny", role="attacker")
        return [r for r in found if r["port"] == port and r["reason"] in ("no_capability", "refused_by_boundary")]

    assert wait_for(recorded, "a record")


def test_an_address_that_the_agent_binds_is_not_its_flow(whole: Whole, cell: Attacker) -> None:
    """IP_FREEBIND lets anybody bind any address; the flow is what the forwarder says."""
    port = whole.upstreams.https_port
    source = """
result = []
for bound in ("100.64.0.1", "100.64.0.2", "127.0.0.9"):
    sock = socket.socket()
    sock.settimeout(10)
    try:
        sock.setsockopt(socket.SOL_IP, 15, 1)
        sock.bind((bound, 0))
        sock.connect((address(host), port))
        context = ssl.create_default_context()
        result.append(send(context.wrap_socket(sock, server_hostname=host), data)["status"])
    except OSError as error:
        result.append(type(error).__name__)
"""
    begun = {record["id"] for record in whole.audit(host=API)}
    tried = cell.do(source, host=API, port=port, data=request(API, port, "/v1/bound"))
    whole.still_works(cell)
    own = newest(whole, "/v1/ordinary")["flow"].rpartition(":")[0]
    found = [one for one in whole.audit(host=API) if one["id"] not in begun and one["path"] == "/v1/bound"]
    assert len(found) == tried.count(200)
    assert {(record["role"], record["flow"].rpartition(":")[0]) for record in found} <= {("attacker", own)}


def test_the_way_past_the_forwarder_does_not_exist(whole: Whole, cell: Attacker) -> None:
    """Sockets of the instance, ports that only redirected connections may reach, listeners of another cell."""
    run = whole.remit.run_dir
    sockets = [str(path) for path in run.rglob("*.sock")]
    assert len(sockets) >= 6
    source = """
result = []
for path in sockets:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path); result.append(path)
        except OSError: pass
for to in ("127.0.0.1", "::1", "10.201.0.2"):
    for port in (15001, 15053, 9901, 19999):
        try:
            with socket.create_connection((to, port), 2) as sock: result.append([to, port])
        except OSError: pass
"""
    with whole.attacker("neighbour") as listening:
        listening.do("listener = socket.create_server(('0.0.0.0', 19999)); import builtins; builtins.kept = listener")
        assert cell.do(source, sockets=sockets) == []


def test_streams_without_end_from_one_cell_are_bounded_and_do_not_stop_another(
    whole: Whole, cell: Attacker, neighbour: Attacker
) -> None:
    """Each takes a connection to its upstream, of which Envoy has so many for all cells."""
    source = """
import builtins, selectors, boundary_h2 as h2
fields = [(b':method', b'POST'), *h2.request(b'/v1/slow', f'{host}:{port}'.encode())[1:]]
kept, refused = [], 0
for _ in range(count):
    sock = connect(host, port, alpn='h2')
    opened = [h2.frame(h2.HEADERS, h2.END_HEADERS, number, h2.block(fields)) for number in range(1, 257, 2)]
    sock.sendall(h2.PREFACE + h2.frame(h2.SETTINGS, 0, 0) + b''.join(opened))
    kept.append(sock)
ready, parts, said = selectors.DefaultSelector(), dict.fromkeys(kept, b''), {sock: h2.Streams() for sock in kept}
for sock in kept:
    sock.settimeout(5)
    ready.register(sock, selectors.EVENT_READ)
while some := ready.select(5 if any(found.bodies for found in said.values()) else 60):
    for key, _ in some:
        sock = key.fileobj
        try:
            more = sock.recv(65536)
            while sock.pending():
                more += sock.recv(65536)
            parts[sock] = h2.taken(sock, parts[sock] + more, said[sock])
        except OSError:
            more = b''
        if not more:
            ready.unregister(sock)
for found in said.values():
    refused += sum(b'"requests_exceeded"' in body for body in found.bodies.values())
builtins.kept = kept
result = refused
"""
    port = whole.upstreams.https_port
    with whole.attacker("attacker") as flooding:
        assert flooding.do(source, host=API, port=port, count=24) > 0
        assert neighbour.ask(API, port, request(API, port, "/v1/beside-streams"))["status"] == 200
        flooding.do("import builtins\nfor sock in builtins.kept: sock.close()\nresult = 0")
        wait_for(
            lambda: flooding.ask(API, port, request(API, port, "/v1/again"))["status"] == 200,
            "what has ended counts no more",
        )
    whole.still_works(cell)


def test_connections_without_end_from_one_cell_are_bounded_and_do_not_stop_another(
    whole: Whole, cell: Attacker, neighbour: Attacker
) -> None:
    """Each takes descriptors of the forwarder and of Envoy, which all cells share."""
    source = """
import builtins, resource
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
to, kept, failed = address(host), [], 0
for _ in range(count):
    if failed == 5:
        break
    try:
        sock = socket.socket()
    except OSError:
        break
    sock.settimeout(0.5)
    try:
        sock.connect((to, port))
        kept.append(sock)
    except OSError:
        failed += 1
        sock.close()
def alive(sock):
    try:
        return sock.recv(1, socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
builtins.kept = kept
result = [len(kept), sum(map(alive, kept))]
"""
    port, before = whole.upstreams.https_port, whole.arrived
    with whole.attacker("attacker") as flooding:
        flooding.start(source, host=API, port=port, count=10_000)
        for number in range(5):
            answer = neighbour.ask(API, port, request(API, port, f"/v1/beside-connections-{number}"))
            assert answer["status"] == 200, answer
        made, alive = flooding.finish()
        answer = neighbour.ask(API, port, request(API, port, "/v1/beside-connections"))
        assert answer["status"] == 200, answer
    assert made > 1000 and alive <= 4096
    assert whole.arrived == before + 6
    whole.still_works(cell)


def test_names_without_end_from_one_cell_do_not_stop_another(whole: Whole, neighbour: Attacker) -> None:
    """Each is a certificate to make, a decision, a record; the node's allowance of new names is not one cell's to spend."""
    port = whole.hostile.port
    source = """
from concurrent.futures import ThreadPoolExecutor
import secrets
def one(number):
    host = secrets.token_hex(8) + ".flood.example"
    return ask(host, port, f"GET / HTTP/1.1\\r\\nhost: {host}:{port}\\r\\n\\r\\n".encode())["status"]
with ThreadPoolExecutor(12) as pool:
    started = list(pool.map(one, range(count)))
result = [started.count(403), started.count(200)]
"""
    before = whole.arrived
    with whole.attacker("attacker") as flooding:
        flooding.start(source, port=port, count=300)
        for number in range(10):
            answer = neighbour.ask(API, port := whole.upstreams.https_port, request(API, port, f"/v1/calm-{number}"))
            assert answer["status"] == 200, answer
        told, reached = flooding.finish()
    assert (told == 300, reached) == (True, 0)
    assert whole.arrived == before + 10
    assert [r for r in whole.audit(kind="dns") if str(r["host"]).endswith(".flood.example")]


def test_handshakes_that_spend_the_nodes_allowance_of_new_names_do_not_stop_another_cell(
    whole: Whole, neighbour: Attacker
) -> None:
    """A ClientHello is enough to have a certificate made; nothing says in SDS which cell asks."""
    source = """
from concurrent.futures import ThreadPoolExecutor
import secrets
context = ssl.create_default_context()
tls = context.wrap_bio(ssl.MemoryBIO(), outgoing := ssl.MemoryBIO(), server_hostname="a" * 16 + ".flood.example")
with contextlib.suppress(ssl.SSLWantReadError):
    tls.do_handshake()
hello, to = outgoing.read(), address("api.up.example")
def one(number):
    try:
        with socket.create_connection((to, 443), 5) as sock:
            sock.sendall(hello.replace(b"a" * 16, secrets.token_hex(8).encode()))
            return sock.recv(5)[:1] == bytes([22])
    except OSError:
        return False
with ThreadPoolExecutor(16) as pool:
    result = sum(pool.map(one, range(count)))
"""
    port = whole.hostile.port
    with whole.attacker("attacker") as flooding:
        made = flooding.do(source, count=1400)
        flooding.start(source, count=300)
        answer = neighbour.ask("quiet.up.example", port, request("quiet.up.example", port))
        flooding.finish()
    assert made < 1400, "the allowance was not spent"
    assert answer["status"] == 200, answer


def test_more_names_than_a_cell_may_know_are_refused_with_a_record_and_only_to_that_cell(
    whole: Whole, neighbour: Attacker
) -> None:
    source = """
import struct
def asked(number):
    labels = b"".join(bytes([len(part)]) + part for part in (str(number).encode(), b"many", b"example"))
    return struct.pack("!6H", number, 256, 1, 0, 0, 0) + labels + b"\\0\\0\\1\\0\\1"
codes = []
with socket.create_connection(("10.201.0.53", 53), 10) as sock:
    stream = sock.makefile("rb")
    for start in range(0, count, 50):
        some = [asked(number) for number in range(start, start + 50)]
        sock.sendall(b"".join(struct.pack("!H", len(one)) + one for one in some))
        codes += [stream.read(struct.unpack("!H", stream.read(2))[0])[3] & 15 for _ in some]
result = [codes.count(0), codes.count(2), address("api.up.example")]
"""
    with whole.attacker("attacker") as asking:
        asking.do("result = address('api.up.example')")
        given, refused, known = asking.do(source, count=2200)
    assert (given < 2048, given + refused, known.startswith("198.1")) == (True, 2200, True)
    assert wait_for(lambda: whole.audit(kind="dns", reason="overloaded"), "a dns record")
    assert neighbour.do("result = address('never.asked.example')")
    whole.still_works(neighbour)
