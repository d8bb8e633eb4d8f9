"""The API as it is served: who may connect, who is recorded, what a browser cannot do."""

from __future__ import annotations

import json
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import control_plane
import httpx
import pytest
from control_plane import MANIFESTS, Plane
from servers import free_port
from starlette.types import Message

from remit.api import guard, server
from remit.api.app import create_app
from remit.core.errors import Unavailable


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    return control_plane.build(tmp_path)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def tcp(plane: Plane, tmp_path: Path, port: int) -> Iterator[httpx.Client]:
    with control_plane.served(plane, tmp_path / "c.sock", port=port):
        token = (tmp_path / "api-token").read_text().strip()
        with httpx.Client(
            timeout=60,
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {token}"},
            trust_env=False,
        ) as client:
            yield client


def test_the_socket_is_its_owners_and_gone_afterwards(plane: Plane, tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    path.write_text("stale")
    with control_plane.served(plane, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with httpx.Client(timeout=60, transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as api:
            assert api.get("/v1/status").json()["ok"] is False
            assert api.post("/v1/apply", json={"documents": MANIFESTS}).status_code == 200
    assert not path.exists()


def test_who_acts_over_the_socket_is_recorded_as_the_kernel_knows_them(plane: Plane, tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    with (
        control_plane.served(plane, path),
        httpx.Client(timeout=60, transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as api,
    ):
        api.post("/v1/apply", json={"documents": MANIFESTS}, headers={"x-remit-uid": "0"}).raise_for_status()
    assert plane.node.records[0][1]["operator"] == pwd.getpwuid(os.getuid()).pw_name


def test_the_token_file_is_its_owners(tcp: httpx.Client, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "api-token").stat().st_mode) == 0o600
    assert tcp.get("/v1/status").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": ""}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "bearer " + "x" * 43}, 401),
        ({"host": "evil.example.com"}, 403),
        ({"host": "127.0.0.1"}, 403),
        ({"host": "127.0.0.1.evil.example.com"}, 403),
        ({"origin": "https://evil.example.com"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1"}, 403),
    ],
)
def test_a_stranger_or_a_browser_is_refused(tcp: httpx.Client, headers: dict[str, str], status: int) -> None:
    answer = tcp.get("/v1/status", headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_two_tokens_are_none(tcp: httpx.Client) -> None:
    real = tcp.headers["authorization"]
    answer = httpx.get(
        f"{tcp.base_url}/v1/status",
        headers=[("authorization", "Bearer x"), ("authorization", real)],
        trust_env=False,
        timeout=60,
    )
    assert answer.status_code == 401


def test_who_acts_over_tcp_is_recorded_as_the_token(tcp: httpx.Client, plane: Plane) -> None:
    tcp.post("/v1/apply", json={"documents": MANIFESTS}).raise_for_status()
    assert plane.node.records[0][1]["operator"] == "token"


def _closed(one: socket.socket) -> bool:
    one.settimeout(10)
    try:
        return one.recv(1) == b""
    except ConnectionError:
        return True


def test_whoever_says_nothing_keeps_no_connection_and_takes_no_descriptors(
    tcp: httpx.Client, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody on the machine can connect; what they hold must not be what an operator needs to revoke something."""
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.5)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(server.LOOPBACK_CONNECTIONS + 40)]
    for one in silent[::2]:
        one.sendall(b"GET /v1/status HTTP/1.1\r\n")
    assert all(_closed(one) for one in silent[-40:]), "no more than so many at once"
    assert all(_closed(one) for one in silent), "and none for long"
    for one in silent:
        one.close()
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 60.0)
    assert tcp.get("/v1/status").status_code == 200
    with httpx.Client(
        timeout=60, transport=httpx.HTTPTransport(uds=str(tmp_path / "c.sock")), base_url="http://x"
    ) as api:
        assert api.get("/v1/status").status_code == 200


@pytest.mark.parametrize("headers", [{"authorization": ""}, {"authorization": "Bearer wrong"}, {"host": "evil.test"}])
def test_a_stranger_is_not_kept(tcp: httpx.Client, headers: dict[str, str]) -> None:
    assert tcp.get("/v1/status", headers=headers).headers["connection"] == "close"
    assert "connection" not in tcp.get("/v1/status").headers


async def test_a_last_answer_comes_after_the_rest_of_its_request(plane: Plane) -> None:
    """A body that comes to a closed connection resets it, and the client may never read why it was refused."""
    steps: list[str] = []
    rest = iter([True, True, False])

    async def receive() -> Message:
        steps.append("received")
        return {"type": "http.request", "body": b"x", "more_body": next(rest)}

    async def send(message: Message) -> None:
        steps.append(message["type"])

    scope = {"type": "http", "method": "POST", "path": "/v1/apply", "headers": [(b"host", b"evil.test")]}
    await guard.LoopbackGuard(create_app(plane.services), port=1, token="x")(scope, receive, send)
    assert steps == ["received"] * 3 + ["http.response.start", "http.response.body"]


def test_who_is_not_let_in_and_sends_no_body_is_not_waited_for(
    tcp: httpx.Client, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LINGER_S", 0.1)
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.settimeout(30)
        silent.sendall(b"POST /v1/apply HTTP/1.1\r\nhost: evil.test\r\ncontent-length: 2\r\n\r\n")
        assert silent.makefile("rb").read().startswith(b"HTTP/1.1 403")


async def test_a_port_in_use_is_one_clear_error(plane: Plane, tmp_path: Path, port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}") as caught:
            await server.serve(
                plane.services, control_socket=tmp_path / "c.sock", port=port, token_file=tmp_path / "token"
            )
    assert "api_port" in caught.value.hint
    assert not (tmp_path / "c.sock").exists()


def test_a_short_token_in_the_file_is_replaced(plane: Plane, tmp_path: Path, port: int) -> None:
    (tmp_path / "api-token").write_text("x\n")
    with control_plane.served(plane, tmp_path / "c.sock", port=port):
        answer = httpx.get(
            f"http://127.0.0.1:{port}/v1/status", headers={"authorization": "Bearer x"}, trust_env=False, timeout=60
        )
    assert answer.status_code == 401
    assert len((tmp_path / "api-token").read_text().strip()) >= 32


def test_records_are_streamed_as_they_are_written(plane: Plane, tmp_path: Path) -> None:
    import asyncio
    import threading

    path = tmp_path / "c.sock"
    with (
        control_plane.served(plane, path) as loop,
        httpx.Client(timeout=60, transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as api,
        api.stream("GET", "/v1/audit/stream", timeout=10) as events,
    ):
        lines = events.iter_lines()
        assert next(lines).startswith(":")
        writing = threading.Timer(
            0,
            lambda: asyncio.run_coroutine_threadsafe(plane.audit.add({"id": "r-1", "seq": 1, "path": "\n\x1b"}), loop),
        )
        writing.start()
        data = next(line for line in lines if line.startswith("data: "))
        writing.join()
        assert json.loads(data.removeprefix("data: ")) == {"id": "r-1", "seq": 1, "path": "\n\x1b"}
        events.close()
