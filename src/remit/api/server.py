"""The API, served: on a Unix socket that only its owner can open, and on loopback when asked.

uvicorn says nothing of who is at the other end of a Unix socket; the kernel does (SO_PEERCRED, unix(7)), and an audit
record of an operator's action is worth little without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from remit.api.app import create_app
from remit.api.guard import LoopbackGuard
from remit.api.services import Services
from remit.core.errors import Unavailable

GRACE_S = 5
BACKLOG = 128
VERSION_HEADER = "remit-version"
"""On the socket only: the command line is told whose API it uses, a stranger on loopback is not."""
DOOR_CONNECTIONS = 512
"""Envoy answers 503 for more: tasks that delegate must not take the descriptors of the API."""
LOOPBACK_CONNECTIONS = 256
"""At once. More are closed: descriptors are needed by the socket, over which authority is taken away."""
HEAD_TIMEOUT_S = 10.0
"""For the head of the first request. Whoever has shown no good token is answered once (`api.guard`)."""


class _PeerProtocol(H11Protocol):
    """HTTP/1.1 whose scope says which user is connected (`remit.uid`), where the kernel knows."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is None or connection.family != socket.AF_UNIX:
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        inner = self.app

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:
            await inner({**scope, "remit.uid": uid}, receive, send)

        self.app = with_peer


class _LoopbackProtocol(H11Protocol):
    """HTTP/1.1 for whoever is on this machine: nobody keeps a connection for nothing."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > LOOPBACK_CONNECTIONS:
            transport.abort()
            return
        self._due = self.loop.call_later(HEAD_TIMEOUT_S, transport.abort)

    def handle_events(self) -> None:
        super().handle_events()
        if self._due is not None and self.cycle is not None:
            self._due.cancel()
            self._due = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._due is not None:
            self._due.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """Signals belong to the process, not to one of its servers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


async def serve(
    services: Services,
    *,
    control_socket: Path,
    port: int,
    token_file: Path,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until cancelled. `port` 0: no TCP. The token is made, 0600, where its file does not exist.

    `ready` is called when connections are accepted. `Unavailable`: a listener cannot be opened.
    """
    app = create_app(services)
    with contextlib.ExitStack() as open_sockets:
        versions = [(VERSION_HEADER, services.version)]
        listeners = [(_server(app, headers=versions), open_sockets.enter_context(_unix(control_socket)))]
        open_sockets.callback(control_socket.unlink, missing_ok=True)
        if port:
            guarded = LoopbackGuard(app, port=port, token=_token(token_file))
            listeners.append((_server(guarded, _LoopbackProtocol), open_sockets.enter_context(_loopback(port))))
        running = [asyncio.ensure_future(one.serve(sockets=[listener])) for one, listener in listeners]
        ready()
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one, _ in listeners:
                one.should_exit = True
            await asyncio.wait(running, timeout=GRACE_S + 1)
        for done in running:
            done.result()


async def serve_door(door: ASGIApp, path: Path) -> None:
    """Serve `door` until cancelled, at a socket that the group of its directory may open. `Unavailable`: it cannot."""
    with _unix(path, 0o660) as listener:
        one = _server(door, connections=DOOR_CONNECTIONS)
        running = asyncio.ensure_future(one.serve(sockets=[listener]))
        try:
            await asyncio.shield(running)
        finally:
            one.should_exit = True
            await asyncio.wait([running], timeout=GRACE_S + 1)
            path.unlink(missing_ok=True)


def _server(
    app: ASGIApp,
    protocol: type[H11Protocol] = _PeerProtocol,
    *,
    connections: int | None = None,
    headers: list[tuple[str, str]] | None = None,
) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            headers=headers,
            proxy_headers=False,
            limit_concurrency=connections,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=60,
        )
    )


def _unix(path: Path, mode: int = 0o600) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # before it has a name: no moment in which others can connect
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"the control socket {path} cannot be opened: {error.strerror}", hint="remit doctor"
        ) from error
    return listener


def _loopback(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"the API cannot listen on 127.0.0.1:{port}: {error.strerror}", hint="set api_port to a free port, or to 0"
        ) from error
    return listener


def _token(path: Path) -> str:
    """The bearer token, at least 32 characters; a shorter one in the file is not used."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        found = path.read_text().strip()
        if len(found) >= 32:
            path.chmod(0o600)
            return found
    fresh = secrets.token_urlsafe(32)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(fresh + "\n")
    return fresh
