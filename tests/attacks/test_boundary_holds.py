"""Held requests against a real Envoy: nothing passes while they wait, and waiting starves nobody."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading

import pytest
from boundary_harness import SECRET, Boundary, exchange, until

from remit.boundary import hold_server
from remit.control.decide import Denied, Permitted
from remit.core.grant import Body
from remit.core.reason import Reason, Refusal
from remit.core.request import Evidence

MANY = 300
"""Connections that wait at once: more than the fast check has connections for."""


def begin(sock: socket.socket, target: str) -> None:
    """Send a request and do not wait for its answer."""
    sock.sendall(f"GET {target} HTTP/1.1\r\nhost: api.test\r\n\r\n".encode())


class Door:
    """A second check that waits until it is opened."""

    def __init__(self, boundary: Boundary) -> None:
        self._boundary = boundary
        self.waiting = 0
        self.gone = 0
        self._open = boundary.run(self._event())
        boundary.script, boundary.hold_script = boundary.hold, self.wait

    async def _event(self) -> asyncio.Event:
        return asyncio.Event()

    async def wait(self, evidence: Evidence) -> Permitted | Denied:
        self.waiting += 1
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.gone += 1
            raise
        finally:
            self.waiting -= 1
        return self._boundary.permit(evidence)

    def open(self) -> None:
        async def now() -> None:
            self._open.set()

        self._boundary.run(now())


def test_a_held_request_is_asked_about_with_its_body_and_passes_when_it_is_permitted(boundary: Boundary) -> None:
    boundary.script = boundary.hold
    answer = boundary.ask("/pay?x=1", method="POST", body=b"ten euros")
    assert answer.status == 200
    assert answer.upstream_headers["authorization"] == SECRET.decode()
    assert answer.json["target"] == "/pay?x=1"
    (evidence, body), (fast,) = boundary.held[0], boundary.seen
    assert body == Body(digest=hashlib.sha256(b"ten euros").hexdigest(), size=9, text="ten euros")
    assert (evidence.token, evidence.peer, evidence.target) == (fast.token, fast.peer, fast.target)
    assert {name: value for name, value in evidence.headers.items() if name != "content-length"} == {
        name: value for name, value in fast.headers.items() if name != "content-length"
    }


def test_what_was_permitted_at_once_is_not_asked_about_again(boundary: Boundary) -> None:
    assert boundary.ask().status == 200
    assert boundary.held == []


def test_what_was_denied_at_once_is_not_asked_about_again(boundary: Boundary) -> None:
    boundary.script = boundary.deny
    answer = boundary.ask()
    assert (answer.status, answer.json["reason"]) == (403, "no_capability")
    assert boundary.held == []


def test_a_held_request_that_is_denied_says_why_and_dials_nothing(boundary: Boundary) -> None:
    boundary.script = boundary.hold
    boundary.hold_script = lambda _: Denied(record="r-held", refusal=Refusal(Reason.APPROVAL_DENIED, "bob said no"))
    before = boundary.dialled
    answer = boundary.ask()
    assert (answer.status, answer.json["reason"], answer.json["record"]) == (403, "approval_denied", "r-held")
    assert answer.json["detail"] == "bob said no"
    assert boundary.dialled == before


def test_an_agent_cannot_hold_or_unhold_its_own_request(boundary: Boundary) -> None:
    answer = boundary.ask(headers=(("x-remit-hold", "hold"), ("x-remit-pin", "127.0.0.1")))
    assert answer.status == 200
    assert boundary.held == []
    boundary.script = boundary.hold
    boundary.hold_script = boundary.deny
    before = boundary.dialled
    answer = boundary.ask(headers=(("x-remit-hold", "no"), ("x-remit-pin", "127.0.0.1"), ("x-remit-pin-port", "1")))
    assert (answer.status, answer.json["reason"]) == (403, "no_capability")
    assert boundary.dialled == before


def test_a_body_that_is_too_large_to_be_shown_is_refused(boundary: Boundary) -> None:
    boundary.script = boundary.hold
    before = boundary.dialled
    with boundary.connect() as sock:
        sock.sendall(
            b"POST /big HTTP/1.1\r\nhost: api.test\r\ncontent-length: %d\r\n\r\n" % (hold_server.BODY_MAX_BYTES + 1)
        )
        sent = 0
        try:
            while sent <= hold_server.BODY_MAX_BYTES:
                sent += sock.send(b"x" * min(65536, hold_server.BODY_MAX_BYTES + 1 - sent))
                if sent > hold_server.BODY_MAX_BYTES:
                    break
        except (BrokenPipeError, ConnectionResetError):
            pass
        head = sock.recv(65536)
    # Envoy refuses it, or says that it showed a part only, which is refused.
    assert head.startswith(b"HTTP/1.1 413 ") or b"shown in part only" in head
    assert boundary.dialled == before
    assert boundary.held == []


def test_a_second_check_that_is_gone_denies(boundary: Boundary) -> None:
    boundary.script = boundary.hold
    boundary.stop("hold")
    try:
        before = boundary.dialled
        answer = boundary.ask()
        assert answer.status == 503
        assert boundary.dialled == before
    finally:
        boundary.serve_hold()


def test_a_second_check_that_dies_while_requests_wait_denies_them(boundary: Boundary) -> None:
    door = Door(boundary)
    before = boundary.dialled
    with boundary.connect() as sock:
        begin(sock, "/")
        until(lambda: door.waiting == 1, "it waits")
        boundary.stop("hold")
        try:
            assert sock.recv(65536).startswith(b"HTTP/1.1 503 ")
            assert boundary.dialled == before
        finally:
            boundary.serve_hold()


def test_an_agent_that_gives_up_ends_its_hold(boundary: Boundary) -> None:
    door = Door(boundary)
    before = boundary.dialled
    sock = boundary.connect()
    begin(sock, "/")
    until(lambda: door.waiting == 1, "it waits")
    sock.close()
    until(lambda: door.gone == 1, "the wait was cancelled")
    door.open()
    assert boundary.dialled == before


@pytest.mark.parametrize("tls", [True, False])
def test_held_requests_of_one_cell_do_not_starve_the_next_cells_checks(boundary: Boundary, tls: bool) -> None:
    """Found against the first design: 1,024 holds took every connection that the check had."""
    door = Door(boundary)
    sockets: list[socket.socket] = []
    try:
        for _ in range(MANY):
            sock = boundary.connect(tls=False, port=80)
            sockets.append(sock)
            begin(sock, "/held")
        until(lambda: door.waiting == MANY, "all of them wait", 30)
        boundary.script = boundary.permit
        for _ in range(20):
            port = 443 if tls else 80
            answer = boundary.ask(port=port, tls=tls, source=("100.64.0.2", boundary.port()))
            assert answer.status == 200
        assert door.waiting == MANY
    finally:
        for sock in sockets:
            sock.close()
        until(lambda: door.waiting == 0, "none waits any more")


def test_more_than_may_wait_are_answered_at_once(boundary: Boundary) -> None:
    door = Door(boundary)
    boundary.stop("hold")
    boundary.serve_hold(pending_max=2)
    sockets = [boundary.connect() for _ in range(2)]
    try:
        for sock in sockets:
            begin(sock, "/")
        until(lambda: door.waiting == 2, "two wait")
        answer = boundary.ask()
        assert (answer.status, answer.json["reason"]) == (503, "overloaded")
        door.open()
        for sock in sockets:
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    finally:
        for sock in sockets:
            sock.close()
        boundary.stop("hold")
        boundary.serve_hold()


def test_a_cell_that_fills_the_second_check_leaves_another_its_share(
    boundary: Boundary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold_server, "SHARE", 2)
    door = Door(boundary)
    boundary.stop("hold")
    boundary.serve_hold(pending_max=40)
    sockets: list[socket.socket] = []
    try:
        for cell, count in (("100.64.0.1", 50), ("100.64.0.2", 2)):
            for _ in range(count):
                sockets.append(boundary.connect(source=(cell, boundary.port())))
                begin(sockets[-1], "/")
        until(lambda: door.waiting == 32, "three quarters wait, and two of the other cell")
        door.open()
        for sock in sockets[-2:]:
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        said = [sock.recv(65536) for sock in sockets[:-2]]
        assert sum(one.startswith(b"HTTP/1.1 200 ") for one in said) == 30
        assert sum(b"overloaded" in one for one in said) == 20
    finally:
        for sock in sockets:
            sock.close()
        boundary.stop("hold")
        boundary.serve_hold()


def test_a_held_websocket_upgrade_waits_without_a_body(boundary: Boundary) -> None:
    boundary.script = boundary.hold
    boundary.hold_script = boundary.deny
    upgrade = (("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "x"))
    answer = boundary.ask(headers=upgrade)
    assert (answer.status, answer.json["reason"]) == (403, "no_capability")
    ((_, body),) = boundary.held
    assert body == Body()


def test_two_requests_of_one_connection_are_held_one_by_one(boundary: Boundary) -> None:
    door = Door(boundary)
    with boundary.connect() as sock:
        results: list[int] = []

        def both() -> None:
            for target in ("/one", "/two"):
                results.append(exchange(sock, target, "api.test").status)

        thread = threading.Thread(target=both)
        thread.start()
        until(lambda: door.waiting == 1, "the first waits")
        door.open()
        thread.join(10)
    assert results == [200, 200]
    assert [evidence.target for evidence, _ in boundary.held] == ["/one", "/two"]
