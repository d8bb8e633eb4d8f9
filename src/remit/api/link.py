"""The control plane's end of the link to its node: snapshots out, acknowledgements, records and audit heads in.

The node decides alone and stops when it has not heard from here for its lease, so this end speaks every few seconds,
sends the whole truth on every connection, and tells a caller "done" only when the node has said so. One node is
connected at a time: the newest connection is it, and whoever waited on an older one is told that nothing is known.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from remit.control import audit_keys
from remit.control.ports import Clock
from remit.control.ports_control import Cells, Flows, Head, Known, RekeyStep, Store
from remit.core import frame
from remit.core.errors import Conflict, Invalid, RemitError, Unavailable

Answers = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

log = logging.getLogger(__name__)

PING_S = 5.0
SILENCE_S = 20.0
"""A node that answers no ping for this long is taken for gone; it is below the default lease of 30 s."""
PROBE_TIMEOUT_S = 12.0
"""A source may take its whole time (`broker.probing`)."""
RECORD_TIMEOUT_S = 5.0
RETURN_S = 5.0
"""A node that died is back within two seconds; whoever can wait does for so long."""
FLOWS_TIMEOUT_S = 1.0
"""Whoever asks cuts more than it must when no answer comes: better soon than exactly."""
IN_MAX_BYTES = 1 << 20
ASKED_MAX = 1024
"""Questions under way; the node takes silence for no answer, and asks again."""
CUTTING_MAX = 256
"""Cuts under way that the node asked for; it asks again for what was left out."""
READ_BYTES = 1 << 16


class _Peer:
    """One connected node."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.acked = 0
        self.progress = asyncio.Condition()
        self.gone = False
        self.waiting: dict[tuple[str, int], asyncio.Future[Any]] = {}
        """Who waits for an answer of this type to the message of this number."""

    async def send(self, message: Mapping[str, Any]) -> None:
        self.writer.write(frame.encode(dict(message)))
        await self.writer.drain()

    def answered(self, kind: str, number: int, value: object) -> None:
        """Hand `value` (an exception: raise it) to whoever waits for it, if anybody still does."""
        waiting = self.waiting.get((kind, number))
        if waiting is None or waiting.done():
            return
        if isinstance(value, Exception):
            waiting.set_exception(value)
        else:
            waiting.set_result(value)

    async def end(self) -> None:
        self.gone = True
        self.writer.close()
        for waiting in self.waiting.values():
            if not waiting.done():
                waiting.set_exception(_lost())
        async with self.progress:
            self.progress.notify_all()


class NodeLink:
    """Implements `control.ports_control.Node`."""

    def __init__(self, *, store: Store, clock: Clock, cells: Cells) -> None:
        self._store = store
        self._cells = cells
        self._cutting: set[asyncio.Task[None]] = set()
        self._asked: set[asyncio.Task[None]] = set()
        self._answers: Answers | None = None
        self._clock = clock
        self._peer: _Peer | None = None
        self._arrived = asyncio.Event()
        self._ids = itertools.count(1)

    @property
    def connected(self) -> bool:
        return self._peer is not None

    @property
    def acked_epoch(self) -> int:
        return self._peer.acked if self._peer is not None else 0

    async def returned(self) -> None:
        """See `control.ports_control.Node.returned`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETURN_S):
                await self._arrived.wait()

    async def publish(self, snapshot: Mapping[str, Any]) -> None:
        """See `control.ports_control.Node.publish`. The caller bounds the time."""
        peer = self._here()
        epoch = int(snapshot["epoch"])
        try:
            await peer.send({"type": "snapshot", "snapshot": dict(snapshot)})
        except OSError as error:
            raise _lost() from error
        async with peer.progress:
            await peer.progress.wait_for(lambda: peer.acked >= epoch or peer.gone)
        if peer.acked < epoch:
            raise _lost()

    async def record(self, kind: str, fields: Mapping[str, Any]) -> str:
        """See `control.ports_control.Node.record`."""
        message = {"type": "record", "kind": kind, "fields": dict(fields)}
        record: str = await self._ask("recorded", message, RECORD_TIMEOUT_S, "did not record the action in time")
        return record

    async def using(self, kind: str, name: str) -> Flows:
        """See `control.ports_control.Node.using`."""
        message = {"type": "using", "kind": str(kind), "name": name}
        flows: Flows = await self._ask("flows", message, FLOWS_TIMEOUT_S, "did not say in time what is open")
        return flows

    async def probe(self, credentials: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """See `control.ports_control.Node.probe`."""
        message = {"type": "probe", "credentials": list(credentials)}
        found: list[dict[str, Any]] = await self._ask("probed", message, PROBE_TIMEOUT_S, "did not try them in time")
        return found

    async def rekey(self, step: RekeyStep, name: str = "", blob: bytes = b"") -> bytes:
        """See `control.ports_control.Node.rekey`."""
        message = {"type": "rekey", "step": step, "name": name, "blob": base64.b64encode(blob).decode()}
        anew: bytes = await self._ask("rekeyed", message, RECORD_TIMEOUT_S, "did not seal anew in time")
        return anew

    async def usage(self, wanted: Sequence[str] = ()) -> Sequence[Mapping[str, Any]]:
        """See `control.ports_control.Node.usage`."""
        found: list[dict[str, Any]] = []
        more = True
        while more:
            behind = found[-1]["budget"] if found else ""
            message = {"type": "usage", "names": list(wanted), "behind": behind}
            told, more = await self._ask("usage", message, RECORD_TIMEOUT_S, "did not tell what is used in time")
            found += told
            more = more and bool(told)
        return found

    async def addresses(self, host: str) -> Known:
        """See `control.ports_control.Node.addresses`."""
        message = {"type": "addresses", "host": host}
        known: Known = await self._ask("addresses", message, RECORD_TIMEOUT_S, "did not tell its addresses in time")
        return known

    async def _ask(self, kind: str, message: Mapping[str, Any], timeout_s: float, late: str) -> Any:
        """The node's answer of type `kind`. `Unavailable`: it gave none, or a refusal."""
        peer, number = self._here(), next(self._ids)
        waiting = peer.waiting[kind, number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await peer.send({**message, "id": number})
                return await waiting
        except TimeoutError as error:
            raise Unavailable(f"the node {late}", hint="remit status") from error
        except OSError as error:
            raise _lost() from error
        finally:
            del peer.waiting[kind, number]

    async def _cut(self, task: str, ports: Sequence[int] | None) -> None:
        try:
            await self._cells.cut(task, ports)
        except Unavailable as error:
            log.error("connections of task %s were not cut: %s", task, error.detail)  # the node asks again

    def answers(self, answers: Answers) -> None:
        """Questions of the node are answered by `answers`: message in, answer out."""
        self._answers = answers

    def ring(self, task: str) -> None:
        """Tell the node that held requests of `task` have something to learn. Where it is away, it asks by itself."""
        if self._peer is not None:
            self._peer.writer.write(frame.encode({"type": "ring", "task": task}))

    async def _answer(self, peer: _Peer, message: dict[str, Any]) -> None:
        """Not in the loop that reads: an answer may wait for a record, which comes in by that loop."""
        try:
            answer = dict(await self._answers(message)) if self._answers is not None else {"error": "nobody answers"}
        except RemitError as error:
            answer = {"error": error.detail}
        with contextlib.suppress(OSError):
            await peer.send({**answer, "type": "answer", "id": message["id"]})

    @contextlib.asynccontextmanager
    async def listening(self, socket: Path, current: Callable[[], Mapping[str, Any]]) -> AsyncIterator[None]:
        """Accept the node on `socket` (0660: its directory says who connects) inside the block.

        `current` gives the snapshot as it is at that moment.
        """
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        socket.unlink(missing_ok=True)

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(reader, writer, current)

        server = await asyncio.start_unix_server(accepted, str(socket))
        socket.chmod(0o660)
        try:
            yield
        finally:
            server.close()
            if self._peer is not None:
                await self._peer.end()
            socket.unlink(missing_ok=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, current: Callable[[], Mapping[str, Any]]
    ) -> None:
        peer = _Peer(writer)
        decoder = frame.Decoder(IN_MAX_BYTES)
        pinging: asyncio.Task[None] | None = None
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    data = await reader.read(READ_BYTES)
                if not data:
                    break
                for message in decoder.feed(data):
                    if message.get("type") == "hello":
                        if self._peer is not None and self._peer is not peer:
                            await self._peer.end()
                        self._peer = peer
                        self._arrived.set()
                        await peer.send({"type": "snapshot", "snapshot": dict(current())})
                        pinging = pinging or asyncio.ensure_future(_ping(peer))
                    else:
                        await self._received(peer, message)
        except (OSError, Invalid, Unavailable) as error:
            log.warning("the link to the node broke: %s", str(error) or "it fell silent")
        finally:
            if pinging is not None:
                pinging.cancel()
            if self._peer is peer:
                self._peer = None
                self._arrived.clear()
            await peer.end()

    async def _received(self, peer: _Peer, message: dict[str, Any]) -> None:
        match message:
            case {"type": "ack", "epoch": int(epoch)}:
                async with peer.progress:
                    peer.acked = max(peer.acked, epoch)
                    peer.progress.notify_all()
            case {"type": "recorded", "id": int(number), "record": record}:
                refused = Unavailable(str(message.get("error") or "the node could not record it"))
                peer.answered("recorded", number, record if isinstance(record, str) else refused)
            case {"type": "flows", "id": int(number), "tasks": dict(tasks)}:
                peer.answered("flows", number, {str(task): _ports(ports) for task, ports in tasks.items()})
            case {"type": "head", "seq": int(seq), "hash": str(digest)}:
                fields = {key: value for key, value in message.items() if key != "type"}
                try:
                    with self._store.unit() as unit:
                        now = self._clock.now()
                        if not audit_keys.receive(unit, Head(seq=seq, hash=digest, received=now, fields=fields), now):
                            log.error("a head of the audit log under a key that is not trusted was refused")
                except Unavailable as error:
                    log.error("a head of the audit log was not kept: %s", error)  # a later one covers it
            case {"type": "cut", "task": str(task), "ports": ports} if len(self._cutting) < CUTTING_MAX:
                cutting = asyncio.ensure_future(self._cut(task, _ports(ports)))
                self._cutting.add(cutting)
                cutting.add_done_callback(self._cutting.discard)
            case {"type": "probed", "id": int(number), "found": list(found)}:
                peer.answered("probed", number, found)
            case {"type": "rekeyed", "id": int(number)}:
                peer.answered("rekeyed", number, _rekeyed(message))
            case {"type": "usage", "id": int(number), "budgets": list(found)}:
                peer.answered("usage", number, (found, message.get("more") is True))
            case {"type": "addresses", "id": int(number), "fixed": list(fixed), "own": own}:
                peer.answered("addresses", number, _known(fixed, own))
            case {"type": "question" | "use", "id": int()} if len(self._asked) < ASKED_MAX:
                answering = asyncio.ensure_future(self._answer(peer, message))
                self._asked.add(answering)
                answering.add_done_callback(self._asked.discard)
            case {"type": "pong" | "cut" | "question" | "use"}:
                return
            case _:
                raise Invalid(f"the node sent a message of unknown type or shape: {ascii(message.get('type'))[:40]}")

    def _here(self) -> _Peer:
        if self._peer is None:
            raise Unavailable("no node is connected", hint="remit status")
        return self._peer


async def _ping(peer: _Peer) -> None:
    with contextlib.suppress(OSError):
        while True:
            await asyncio.sleep(PING_S)
            await peer.send({"type": "ping"})


def _rekeyed(message: Mapping[str, Any]) -> bytes | RemitError:
    blob = message.get("blob")
    if isinstance(blob, str):
        try:
            return base64.b64decode(blob)
        except ValueError:
            return Unavailable("the node sealed into what is no Base64", hint="remit status")
    kind = Conflict if message.get("conflict") is True else Unavailable
    return kind(str(message.get("error") or "the node could not seal anew"), hint="remit secret rekey")


def _ports(value: object) -> Sequence[int] | None:
    """What is no list of ports means all of them."""
    if isinstance(value, list) and all(isinstance(port, int) for port in value):
        return value
    return None


def _known(fixed: Sequence[object], own: object) -> Known | Unavailable:
    try:
        return Known(
            fixed=tuple(ipaddress.ip_address(str(one)) for one in fixed),
            own=frozenset(ipaddress.ip_address(str(one)) for one in own) if isinstance(own, list) else None,
        )
    except ValueError:
        return Unavailable("the node told addresses that are none", hint="remit status")


def _lost() -> Unavailable:
    return Unavailable("the link to the node broke before it answered", hint="remit status")
