"""`cells` end of its socket with the forwarder: who is open, with which listeners and token.

The forwarder is unprivileged and can be killed; what it was told is kept here and said again when it comes back, so
its restart costs the open connections and nothing else. Only its uid may connect, and one connection is the current.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import json
import logging
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remit.core import flow
from remit.core.errors import Unavailable

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5.0
_MAX_MESSAGE = 65536


@dataclass(slots=True)
class _Open:
    token: str
    sockets: tuple[int, ...]


class ForwardLink:
    """`open`, `renew`, `cut`, `close` return when the forwarder has answered. `Unavailable`: it did not."""

    def __init__(self, path: Path, user: int) -> None:
        self._path, self._user = path, user
        self._cells: dict[int, _Open] = {}
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._peer: socket.socket | None = None
        self._connected = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None

    def start(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        previous = os.umask(0o177)
        try:
            listener.bind(str(self._path))
        finally:
            os.umask(previous)
        if os.geteuid() == 0:
            os.chown(self._path, self._user, -1)
        listener.listen(4)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def stop(self) -> None:
        self._hang_up()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        user = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if user != self._user:
            log.error("uid %d connected as the forwarder and was refused", user)
            peer.close()
            return
        self._hang_up()
        peer.setblocking(False)
        self._peer = peer
        asyncio.get_running_loop().add_reader(peer.fileno(), self._readable, peer)
        self._telling = asyncio.ensure_future(self._tell(peer))

    async def _tell(self, peer: socket.socket) -> None:
        """Say which cells are open, each when the one before was heard: a socket holds no more than some hundred."""
        try:
            for number in list(self._cells):
                if self._peer is not peer:
                    return
                cell = self._cells.get(number)
                if cell is None:
                    continue  # it ended meanwhile
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    answer = await self._send(self._opening(number, cell), cell.sockets)
                if answer.get("ok") is not True:
                    log.error("the forwarder did not open cell %d again: %s", number, answer.get("error"))
        except (OSError, Unavailable) as error:
            log.error("the forwarder went away while it was told the open cells: %s", error)
            if self._peer is peer:
                self._hang_up()
            return
        if self._peer is peer:
            self._connected.set()

    def _hang_up(self) -> None:
        self._connected.clear()
        if self._peer is not None:
            asyncio.get_running_loop().remove_reader(self._peer.fileno())
            self._peer.close()
            self._peer = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("the forwarder went away", hint="remit status"))
        self._waiting.clear()

    def _readable(self, peer: socket.socket) -> None:
        try:
            data = peer.recv(_MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return
        try:
            message = json.loads(data)
            future = self._waiting.pop(message["id"], None)
        except (ValueError, KeyError, TypeError, RecursionError):
            log.error("the forwarder sent something that is no answer")
            return
        if future is not None and not future.done():
            future.set_result(message)

    def _opening(self, number: int, cell: _Open) -> dict[str, Any]:
        source4, source6 = flow.source(number)
        return {"op": "open", "cell": number, "source4": source4, "source6": source6, "token": cell.token}

    def _send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> asyncio.Future[dict[str, Any]]:
        if self._peer is None:
            raise Unavailable("the forwarder is not connected", hint="remit status")
        number = next(self._numbers)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._peer.sendmsg([json.dumps(message | {"id": number}).encode()], rights)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        # Whoever waits for it may have given up.
        future.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        self._waiting[number] = future
        return future

    async def _ask(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> dict[str, Any]:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._connected.wait()
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await self._send(message, descriptors)
        except TimeoutError as error:
            raise Unavailable("the forwarder does not answer", hint="remit status") from error
        except OSError as error:
            raise Unavailable(f"the forwarder does not answer: {error}", hint="remit status") from error
        if answer.get("ok") is not True:
            raise Unavailable(f"the forwarder refused: {answer.get('error')}", hint="remit status")
        return answer

    async def open(self, number: int, token: str, sockets: tuple[int, ...]) -> None:
        cell = _Open(token, sockets)
        try:
            await self._ask(self._opening(number, cell), sockets)
        except BaseException:
            # It may do it still, and would keep the cell's network for ever; it does one thing after the other.
            with contextlib.suppress(OSError, Unavailable):
                self._send({"op": "close", "cell": number})
            raise
        self._cells[number] = cell

    async def renew(self, number: int, token: str) -> None:
        if number in self._cells:
            self._cells[number].token = token
            await self._ask({"op": "token", "cell": number, "token": token})

    async def cut(self, number: int, ports: Sequence[int] | None = None) -> int:
        """Close the open connections of the cell, or those that `ports` name. How many there were."""
        if self._peer is None:
            # A forwarder that is away has no connections: they ended with it.
            return 0
        return int((await self._ask({"op": "cut", "cell": number, "ports": ports})).get("closed", 0))

    async def cut_everything(self) -> int:
        """Close every open connection of every cell. How many there were."""
        if self._peer is None:
            return 0
        return int((await self._ask({"op": "cut-everything", "cell": 0})).get("closed", 0))

    async def close(self, number: int) -> None:
        if self._cells.pop(number, None) is not None and self._peer is not None:
            await self._ask({"op": "close", "cell": number})
