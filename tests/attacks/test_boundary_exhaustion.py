"""What one cell can use up, and that another cell does not notice. Real Envoy, real SDS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import boundary_h2
import pytest
from boundary_harness import Boundary, exchange, proxy_header, until
from cryptography import x509
from servers import Greeter

from remit.boundary import ca, completions, refuse, sds_server
from remit.boundary.leaf_ration import Ration, nobody
from remit.boundary.sds import Desk
from remit.boundary.sds_server import serve_sds
from remit.control.decide import Denied, Permitted
from remit.core import flow
from remit.core.reason import Reason, Refusal
from remit.core.request import Evidence
from remit.node import dns

SILENT = ("100.64.0.7", 4007)


@contextlib.contextmanager
def sds_with(boundary: Boundary, desk: Desk) -> Iterator[None]:
    boundary.stop("sds")
    boundary.start("sds", serve_sds(Path(boundary.layout.sds_socket), desk, lambda: datetime.now(UTC)))
    until(Path(boundary.layout.sds_socket).exists, "SDS listens")
    try:
        yield
    finally:
        boundary.stop("sds")
        boundary.serve_sds()


def handshake(boundary: Boundary, name: str) -> x509.Certificate | None:
    """The leaf that a handshake for `name` shows, or None where it fails."""
    try:
        with boundary.connect(name) as sock:
            return x509.load_der_x509_certificate(sock.getpeercert(binary_form=True))
    except (ssl.SSLError, OSError):
        return None


def test_names_without_end_are_rationed_and_known_names_are_not(boundary: Boundary) -> None:
    assert handshake(boundary, "api.test")
    desk = Desk(ca.load(boundary.directory / "node"), Ration(nobody, unasked=10))
    with sds_with(boundary, desk):
        until(lambda: handshake(boundary, "ration-first.test"), "SDS is used again")
        began = time.monotonic()
        shown = [handshake(boundary, f"ration-{number}.test") for number in range(30)]
        assert sum(leaf is not None for leaf in shown) <= 10
        assert time.monotonic() - began < 60, "a refused name must fail at once, not at its time-out"
        assert desk.refused >= 20
        assert boundary.ask(host="api.test").status == 200


def test_ten_thousand_random_names_of_one_cell_leave_another_its_new_names(boundary: Boundary) -> None:
    """The attacker asks DNS for as many as it may and connects to ten thousand; the other cell notices nothing."""
    quota = dns.Quota()
    spent = [f"x{number}.wild.test" for number in range(10_000)]
    assert sum(quota.admit(1, name) for name in spent) == dns.NAMES_PER_CELL
    desk = Desk(ca.load(boundary.directory / "node"), Ration(quota.askers, per_cell=50, unasked=50))
    now = datetime.now(UTC)
    made = sum(desk.leaf(name, now) is not None for name in spent)
    assert made == 100, "its own allowance, and what is shared by names that nobody asked for"
    with sds_with(boundary, desk):
        until(lambda: handshake(boundary, "x0.wild.test"), "SDS is used again")
        assert handshake(boundary, "x9999.wild.test") is None
        for number in range(20):
            assert quota.admit(2, f"new{number}.wild.test")
            assert handshake(boundary, f"new{number}.wild.test"), "another cell's new name has its leaf"


def test_only_so_many_leaves_are_held_and_an_evicted_name_works_again(
    boundary: Boundary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sds_server, "SWEEP_S", 0.05)
    desk = Desk(ca.load(boundary.directory / "node"), Ration(nobody), names_max=3)
    with sds_with(boundary, desk):
        until(lambda: handshake(boundary, "evict-0.test"), "SDS is used again")
        for number in range(12):
            assert handshake(boundary, f"evict-{number}.test"), number
        for number in range(12):
            assert until(lambda name=f"evict-{number}.test": handshake(boundary, name), f"{number} works again")
        assert len(desk._held) <= 3


def test_a_renewed_leaf_is_shown_without_a_restart(boundary: Boundary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sds_server, "SWEEP_S", 0.05)
    with sds_with(boundary, Desk(ca.load(boundary.directory / "node"), Ration(nobody))):
        first = until(lambda: handshake(boundary, "renew.test"), "SDS is used again")
        monkeypatch.setattr(ca, "LEAF_RENEW", ca.LEAF_LIFE)
        assert isinstance(first, x509.Certificate)

        def renewed() -> bool:
            leaf = handshake(boundary, "renew.test")
            return leaf is not None and leaf.serial_number != first.serial_number

        until(renewed, "the new leaf is shown")


def test_connections_that_say_too_little_are_closed_in_time(boundary: Boundary) -> None:
    """No header, half of one, a header and silence, half a ClientHello, half a request: none stays for ever."""
    header = proxy_header((flow.virtual("api.test")[0], 443))
    plain = proxy_header((flow.virtual("api.test")[0], 80))
    hello, request = b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\nhost: api.te"
    socks = [boundary.raw(sent) for sent in (b"", header[:20], header, header + hello, plain + request)]
    began = time.monotonic()
    try:
        for sock in socks:
            sock.settimeout(60)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4096):
                    pass
    finally:
        for sock in socks:
            sock.close()
    assert time.monotonic() - began < 60
    silent = until(lambda: [x for x in boundary.lines() if _told(x) == completions.UNSORTED], "silence is recorded")
    assert isinstance(silent, list)


def test_half_a_greeting_and_then_silence_is_recorded(boundary: Boundary) -> None:
    """Where it went, from whom, and why it was closed: a connection that says nothing is still an attempt."""
    secure, plain = (proxy_header((flow.virtual("half.test")[0], port), source=SILENT) for port in (443, 80))
    starts = {
        443: [secure, secure + b"\x16\x03\x01\x02\x00\x01"],
        80: [plain + b"GET / HT", plain + b"GET / HTTP/1.1\r\nhost: half.te"],
    }
    socks = [boundary.raw(sent) for group in starts.values() for sent in group]
    try:
        for sock in socks:
            sock.settimeout(60)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(4096):
                    pass
    finally:
        for sock in socks:
            sock.close()
    flow_id = f"{SILENT[0]}:{SILENT[1]}"

    def records() -> list[tuple[object, object]]:
        found = [x for line in boundary.lines() if (x := completions.parse(json.dumps(line).encode()))]
        assert all(record is None for record, x in found if x.get("flow") == flow_id)
        return sorted((x["port"], x["detail"]) for _, x in found if x.get("flow") == flow_id)

    wanted = [(80, "request_header_timeout"), (80, completions.UNSORTED)] + [(443, completions.UNSORTED)] * 2
    until(lambda: records() == sorted(wanted), "every one of them is a record")


def _told(line: dict) -> object:
    parsed = completions.parse(json.dumps(line).encode())
    return parsed and parsed[1].get("detail")


def test_checks_that_one_cell_keeps_waiting_do_not_stop_another(boundary: Boundary) -> None:
    go, answered = asyncio.Event(), list[str]()

    async def script(evidence: Evidence) -> Permitted:
        if evidence.peer.startswith("100.64.0.1:"):
            await go.wait()
        answered.append(evidence.peer)
        return boundary.permit(evidence)

    boundary.script = script
    waiting: list[socket.socket] = []
    try:
        for _ in range(200):
            sock = boundary.connect(port=80, tls=False)
            sock.sendall(b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n")
            waiting.append(sock)
        until(lambda: len(boundary.seen) >= 200, "all are being decided")
        with boundary.connect(port=80, tls=False, source=("100.64.0.2", 5000)) as sock:
            assert exchange(sock, "/", "api.test").status == 200
        assert answered == ["100.64.0.2:5000"]
    finally:
        boundary.run(released(go))
        for sock in waiting:
            sock.close()


def test_a_cell_that_fills_what_may_wait_for_a_decision_leaves_another_its_share(boundary: Boundary) -> None:
    """As with names whose servers do not answer: each decision waits for them, and a cell may ask for a thousand."""
    go = asyncio.Event()

    async def script(evidence: Evidence) -> Permitted:
        if evidence.peer.startswith("100.64.0.1:"):
            await go.wait()
        return boundary.permit(evidence)

    boundary.script = script
    boundary.stop("check")
    boundary.serve_check(40)
    try:
        with contextlib.ExitStack() as kept:
            waiting: list[socket.socket] = []
            for _ in range(60):
                waiting.append(kept.enter_context(boundary.connect(port=80, tls=False)))
                waiting[-1].sendall(b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n")
            until(lambda: len(boundary.seen) >= 40, "as many as may wait are being decided")
            for number in range(5):
                with boundary.connect(port=80, tls=False, source=("100.64.0.2", 5000 + number)) as sock:
                    assert exchange(sock, "/", "api.test").status == 200
            assert sum(evidence.peer.startswith("100.64.0.1:") for evidence in boundary.seen) == 40
    finally:
        boundary.run(released(go))
        boundary.stop("check")
        boundary.serve_check()


async def released(event: asyncio.Event) -> None:
    event.set()


def test_refused_connections_that_one_cell_keeps_open_do_not_take_the_words_from_another(
    boundary: Boundary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refuse, "CONNECTIONS_MAX", 16)
    monkeypatch.setattr(refuse, "OPENING_TIMEOUT_S", 60.0)
    boundary.script = lambda evidence: Denied(record="r-91", refusal=Refusal(Reason.NO_CAPABILITY, "nothing covers it"))
    before, half = boundary.dialled, (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
    start = (20).to_bytes(4, "big") + (196608).to_bytes(4, "big") + b"user\0agent\0\0"
    with contextlib.ExitStack() as kept:

        def waiting(cell: int, port: int) -> socket.socket:
            """A connection that was told that there is no TLS, and says nothing more."""
            sock = boundary.connect("db.test", 5432, tls=False, source=(flow.source(cell)[0], port))
            kept.enter_context(sock)
            sock.sendall(half)
            assert sock.recv(1) == b"N"
            return sock

        quiet = waiting(2, 5000)
        for number in range(64):
            waiting(1, 6000 + number)
        for sock in (quiet, waiting(3, 5000)):
            sock.sendall(start)
            said = b"".join(iter(lambda sock=sock: sock.recv(4096), b""))
            assert b"no_capability" in said and b"r-91" in said
    assert len(boundary.seen) == 66, "each was decided, and so recorded"
    assert boundary.dialled == before


def test_a_head_that_is_too_large_is_refused_and_recorded(boundary: Boundary) -> None:
    for headers, status in [((("x-a", "a" * 70_000),), 431), (tuple((f"x-{n}", "a") for n in range(150)), 431)]:
        answer = boundary.ask(headers=headers)
        assert answer.status == status
        assert answer.json["reason"] == "refused_by_boundary"
    assert boundary.seen == []


def test_a_long_path_takes_little_of_the_spool(boundary: Boundary) -> None:
    """A path may have 60 KB, of which a record keeps little; a cell must not write megabytes a second for nothing."""
    boundary.script = boundary.deny
    path = "/a-long-path/" + "x" * 50_000
    boundary.ask(path)
    found = until(
        lambda: [line for line in boundary.lines() if str(line.get("path")).startswith(path[:20])], "the line of it"
    )
    assert len(json.dumps(found[0])) < 3000


def test_a_long_method_takes_little_of_the_spool(boundary: Boundary) -> None:
    boundary.script = boundary.deny
    asked = [(b":method", b"LONG" * 3000), *boundary_h2.request(b"/a-long-method")[1:]]
    with boundary.connect(port=80, tls=False) as sock:
        boundary_h2.talk(sock, [asked])
    found = until(
        lambda: [line for line in boundary.lines() if str(line.get("method")).startswith("LONG")], "the line of it"
    )
    assert len(json.dumps(found[0])) < 3000


def resident(boundary: Boundary) -> int:
    """Bytes of memory that Envoy has."""
    return int(Path(f"/proc/{boundary.process.pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("direction", ["what a server sends", "what a client sends"])
def test_opaque_connections_that_nobody_reads_stop_none_of_another_cell(boundary: Boundary, direction: str) -> None:
    """They share connections inside Envoy: forty of one cell were enough to stop those of all others, for good."""
    connections, stuck, down, over = 60, 0, direction == "what a server sends", asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal stuck
        with contextlib.suppress(TimeoutError, ConnectionError):
            while down:
                writer.write(bytes(1 << 16))
                await asyncio.wait_for(writer.drain(), 1)
        stuck += 1
        await over.wait()
        writer.transport.abort()

    async def end() -> None:
        over.set()

    def taken() -> int:
        """Bytes that the boundary takes of these connections now."""
        total = 0
        for sock in socks:
            with contextlib.suppress(BlockingIOError):
                total += sock.send(bytes(1 << 16))
        return total

    server = boundary.run(asyncio.start_server(silent, "127.0.0.1", 0))
    boundary.opened.append(server)
    before, greeter = resident(boundary), Greeter()
    with contextlib.ExitStack() as kept:
        kept.callback(greeter.listener.close)
        kept.callback(lambda: boundary.run(end()))
        boundary.script = boundary.carry(pin_port=server.sockets[0].getsockname()[1])
        door = boundary.door("tcp")
        socks = [
            kept.enter_context(boundary.connect("db.test", 7000, tls=False, door=door)) for _ in range(connections)
        ]
        if not down:
            for sock in socks:
                sock.setblocking(False)
            last = time.monotonic()
            while time.monotonic() - last < 1:
                last = time.monotonic() if taken() else last
        until(lambda: down <= (stuck == connections), "nothing goes on", 60)
        assert (resident(boundary) - before) / connections < 1 << 20
        boundary.script = boundary.carry(pin_port=greeter.port, pool="task-2")
        with boundary.connect("db.test", 7000, tls=False, door=door, source=("100.64.0.2", 4000)) as other:
            other.sendall(b"a" * 100_000)
            said = b""
            while len(said) < 100_011:
                said += other.recv(1 << 16)
        assert said == b"220 hello\r\n" + b"A" * 100_000


def test_answers_that_nobody_reads_hold_little_of_envoys_memory(boundary: Boundary) -> None:
    """Else a thousand connections of one cell, which it may have, take all there is, and no cell is served."""
    connections, stuck = 200, 0

    async def say(head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal stuck
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(TimeoutError):
            while True:
                writer.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
                await asyncio.wait_for(writer.drain(), 1)
        stuck += 1

    boundary.upstream.say, before = say, resident(boundary)
    with contextlib.ExitStack() as kept:
        for _ in range(connections):
            sock = kept.enter_context(boundary.connect())
            sock.sendall(b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n")
        until(lambda: stuck == connections, "nothing goes on", 60)
        assert (resident(boundary) - before) / connections < 300 << 10
