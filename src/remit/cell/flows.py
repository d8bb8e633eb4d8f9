"""The open connections of one cell, each with a name of its own: the cell's synthetic source and a port.

That name is what the audit log writes and what revocation cuts, so no two open connections share it, and an agent has
no say in it. A cell has at most `MAX_FLOWS`; more are reset, so that one cell cannot take the descriptors of all.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from remit.cell import proxy, proxy_header
from remit.cell.dns_relay import MAX_TCP, Relay, TcpConnection, UdpPort
from remit.cell.doors import Doors
from remit.cell.splice import RESET, Half
from remit.core import flow as flow_names

log = logging.getLogger(__name__)

MAX_FLOWS = 4096
DIAL_TIMEOUT_S = 5.0
_FIRST_PORT, _LAST_PORT = 1024, 65535
_ACCEPTS_A_TURN = 64
_NO_DESCRIPTORS_PAUSE_S = 0.1
_SO_ORIGINAL_DST = 80
"""linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST has the same number at SOL_IPV6."""


def original_destination(sock: socket.socket) -> tuple[str, int]:
    """Where the agent dialled before nftables redirected it. `OSError`: it was not redirected."""
    if sock.family == socket.AF_INET:
        raw = sock.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
        return str(ipaddress.IPv4Address(raw[4:8])), int.from_bytes(raw[2:4], "big")
    raw = sock.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28)
    address = ipaddress.IPv6Address(raw[8:24])
    return str(address.ipv4_mapped or address), int.from_bytes(raw[2:4], "big")


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


class _Flow:
    """One connection of the agent and its connection to the boundary."""

    __slots__ = ("_open", "far", "near", "port")

    def __init__(self, port: int, cell: Cell) -> None:
        self.port = port
        self._open = cell
        self.near = Half(self._lost)
        self.far = Half(self._lost)
        self.near.join(self.far)

    def _lost(self) -> None:
        if self.near.lost and self.far.lost:
            self._open.forget(self)

    def abort(self) -> None:
        self.near.abort()
        self.far.abort()


class Cell:
    """Listeners and flows of one cell. `sockets`: tcp4, tcp6, dns_udp4, dns_udp6, dns_tcp4, dns_tcp6, listening."""

    def __init__(
        self,
        *,
        number: int,
        sources: tuple[str, str],
        token: bytes,
        proxy: Path,
        relay: Relay,
        sockets: Sequence[socket.socket],
    ) -> None:
        self.token = token
        self._number, self._sources, self._relay = number, sources, relay
        self._doors = Doors(number, proxy, relay)
        self._flows: dict[int, _Flow] = {}
        self._dns: set[TcpConnection] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._port = _FIRST_PORT - 1
        self._loop = asyncio.get_running_loop()
        self._listeners = [*sockets[:2], *sockets[4:]]
        self._udp = [UdpPort(number, sock, relay) for sock in sockets[2:4]]
        for index, listener in enumerate(self._listeners):
            listener.setblocking(False)
            self._loop.add_reader(listener.fileno(), self._accept, listener, index >= 2)

    def _accept(self, listener: socket.socket, dns: bool) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.error("cell %d: no more connections: %s", self._number, error)
                    self._loop.remove_reader(listener.fileno())
                    self._loop.call_later(_NO_DESCRIPTORS_PAUSE_S, self._listen_again, listener, dns)
                    return
                continue
            sock.setblocking(False)
            self._begin_dns(sock) if dns else self._begin(sock)

    def _listen_again(self, listener: socket.socket, dns: bool) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener.fileno(), self._accept, listener, dns)

    def _begin(self, sock: socket.socket) -> None:
        try:
            destination = original_destination(sock)
        except OSError:
            _reset(sock)
            return
        if len(self._flows) >= MAX_FLOWS:
            _reset(sock)
            return
        flow = _Flow(self._free_port(), self)
        self._flows[flow.port] = flow
        self._spawn(self._carry(flow, sock, destination), sock)

    def _free_port(self) -> int:
        while True:
            self._port = self._port + 1 if self._port < _LAST_PORT else _FIRST_PORT
            if self._port not in self._flows:
                return self._port

    async def _carry(self, flow: _Flow, sock: socket.socket, destination: tuple[str, int]) -> None:
        try:
            heard = proxy.Heard(destination=destination, early=b"")
            if flow_names.is_proxy(*destination):
                heard = await proxy.hear(sock, destination, self._number, self._relay)
                if self._flows.get(flow.port) is not flow:
                    raise ConnectionAbortedError("cut while it said where to")
            destination = heard.destination
            source = self._sources[":" in destination[0]]
            header = proxy_header.encode(source=(source, flow.port), destination=destination, token=self.token)
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                entrance = await self._doors.entrance(*destination)
                await self._loop.create_unix_connection(lambda: flow.far, str(entrance))
                flow.far.write(header + heard.early)
                flow.near.write(heard.answer)
                await self._loop.connect_accepted_socket(lambda: flow.near, sock)
        except (OSError, ValueError, TimeoutError, asyncio.CancelledError):
            # Cut while being opened, or no boundary: reset, never left half open.
            flow.abort()
            self.forget(flow)
            _reset(sock)
            return
        if self._flows.get(flow.port) is not flow:
            flow.abort()

    def _begin_dns(self, sock: socket.socket) -> None:
        if len(self._dns) >= MAX_TCP:
            _reset(sock)
            return
        connection = TcpConnection(self._number, self._relay, self._dns.discard)
        self._dns.add(connection)
        self._spawn(self._carry_dns(connection, sock), sock)

    async def _carry_dns(self, connection: TcpConnection, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except (OSError, asyncio.CancelledError):
            self._dns.discard(connection)
            sock.close()

    def _spawn(self, work: object, sock: socket.socket) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)  # type: ignore[arg-type]
        self._work.add(task)

        def over(done: asyncio.Task[None]) -> None:
            self._work.discard(done)
            if done.cancelled():  # cut before its first step, so it closed nothing
                _reset(sock)

        task.add_done_callback(over)

    def forget(self, flow: _Flow) -> None:
        if self._flows.get(flow.port) is flow:
            del self._flows[flow.port]

    def cut(self) -> int:
        """Close every flow now, also those being opened; the listeners stay. The number of flows closed."""
        flows = list(self._flows.values())
        self._flows.clear()
        for flow in flows:
            flow.abort()
        for task in list(self._work):
            task.cancel()
        for connection in list(self._dns):
            connection.abort()
        return len(flows)

    def cut_some(self, ports: Iterable[int]) -> int:
        """Close the flows of these ports now. How many there were; the others go on."""
        flows = [flow for port in ports if (flow := self._flows.pop(port, None)) is not None]
        for flow in flows:
            flow.abort()
        return len(flows)

    def close(self) -> int:
        for listener in self._listeners:
            if listener.fileno() >= 0:
                self._loop.remove_reader(listener.fileno())
                listener.close()
        for port in self._udp:
            port.close()
        return self.cut()
