"""The forwarder: every connection of every cell, carried to the boundary with its token in front.

A cell has no wire. Its listeners were opened inside its namespace and are handed to this process outside, which runs
as a user of its own, holds no secret but tokens, knows no policy and resolves nothing. It can dial one place: the
boundary's socket. Without the boundary a connection is reset; without `cells` there are no listeners.
Messages from `cells` (SOCK_SEQPACKET, one JSON object each): open (with six descriptors), token, cut (all or
some ports), cut-everything, close.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import logging
import resource
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remit.cell import flows
from remit.cell.dns_relay import Relay

log = logging.getLogger(__name__)

MAX_MESSAGE = 65536
_DESCRIPTORS = 6
_BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)


class Forwarder:
    """What `cells` told this process: the open cells. `handle` answers one message."""

    def __init__(self, *, proxy_socket: Path, relay: Relay) -> None:
        self._proxy, self._relay = proxy_socket, relay
        self._cells: dict[int, flows.Cell] = {}

    def handle(self, message: Mapping[str, Any], sockets: list[socket.socket]) -> dict[str, Any]:
        try:
            closed = self._act(message, sockets)
        except (ValueError, KeyError, TypeError, OSError) as error:
            for sock in sockets:
                sock.close()
            return {"id": message.get("id"), "ok": False, "error": f"{type(error).__name__}: {error}", "closed": 0}
        return {"id": message.get("id"), "ok": True, "closed": closed}

    def _act(self, message: Mapping[str, Any], sockets: list[socket.socket]) -> int:
        operation, number = message["op"], int(message["cell"])
        if operation == "open":
            if len(sockets) != _DESCRIPTORS:
                raise ValueError(f"open needs {_DESCRIPTORS} descriptors, {len(sockets)} came")
            closed = self._drop(number)
            self._cells[number] = flows.Cell(
                number=number,
                sources=(str(message["source4"]), str(message["source6"])),
                token=str(message["token"]).encode(),
                proxy=self._proxy,
                relay=self._relay,
                sockets=sockets,
            )
            return closed
        for sock in sockets:
            sock.close()
        if operation == "close":
            return self._drop(number)
        if operation == "cut-everything":
            return sum(cell.cut() for cell in self._cells.values())
        cell = self._cells.get(number)
        if cell is None:
            raise ValueError(f"cell {number} is not open")
        if operation == "token":
            cell.token = str(message["token"]).encode()
            return 0
        if operation == "cut":
            ports = message.get("ports")
            return cell.cut() if ports is None else cell.cut_some(ports)
        raise ValueError(f"unknown operation {str(operation)[:40]!r}")

    def _drop(self, number: int) -> int:
        cell = self._cells.pop(number, None)
        return cell.close() if cell is not None else 0

    def close(self) -> None:
        for number in list(self._cells):
            self._drop(number)


async def serve(*, forward_socket: Path, proxy_socket: Path, dns_socket: Path) -> None:
    """Connect to `cells`, do what it says, until cancelled. When it goes, every flow goes with it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    relay = Relay(dns_socket)
    forwarder = Forwarder(proxy_socket=proxy_socket, relay=relay)
    answering = asyncio.ensure_future(relay.run())
    failures = 0
    try:
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with contextlib.suppress(OSError), sock:
                sock.setblocking(False)
                sock.connect(str(forward_socket))
                failures = 0
                try:
                    await _obey(sock, forwarder)
                finally:
                    forwarder.close()
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            failures += 1
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


async def _obey(sock: socket.socket, forwarder: Forwarder) -> None:
    """Handle messages until `cells` hangs up."""
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        while not gone.done():
            try:
                message, sockets = _receive(sock)
                if message is None:
                    gone.set_result(None)
                    return
                sock.send(json.dumps(forwarder.handle(message, sockets)).encode())
            except BlockingIOError:
                return
            except (OSError, ValueError) as error:
                log.error("the connection to cells broke: %s", error)
                gone.set_result(None)

    loop.add_reader(sock.fileno(), readable)
    try:
        await gone
    finally:
        loop.remove_reader(sock.fileno())


def _receive(sock: socket.socket) -> tuple[dict[str, Any] | None, list[socket.socket]]:
    data, ancillary, _, _ = sock.recvmsg(
        MAX_MESSAGE, socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
    )
    sockets: list[socket.socket] = []
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(raw[: len(raw) - len(raw) % numbers.itemsize])
            sockets += [socket.socket(fileno=number) for number in numbers]
    if not data:
        return None, sockets
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a message is not a JSON object")
    return message, sockets
