"""The node's end of its link to the control plane: snapshots in, acknowledgements and signed audit heads out.

A revocation is acknowledged to its author only when this end has acked it, so an ack is sent only after the snapshot
is in force. The last snapshot is kept on disk (0600): a node that restarts while its control plane is away keeps
what it knew, but decides nothing until it has heard from it (`control.knowledge`).
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from remit.control import retiring
from remit.control.budgets import Budgets
from remit.control.knowledge import Knowledge
from remit.control.openings import Ports
from remit.control.ports import Entry, Journal
from remit.core import frame, ledger_log
from remit.core.errors import Conflict, Invalid, RemitError, Unavailable
from remit.core.names import Address
from remit.core.snapshot import Snapshot
from remit.node.asking import Asking
from remit.policy import snapshot as snapshots

log = logging.getLogger(__name__)

HEAD_INTERVAL_S = 1.0
RECONNECT_S = (0.05, 0.1, 0.2, 0.5, 1.0)
READ_BYTES = 1 << 18
FLOWS_MAX = 50_000
"""More than these would not fit a frame; then every flow of the tasks concerned is meant."""
MAX_SHOWN = 2000
"""Budgets told at once, of those that are asked for: more would not fit a frame."""
PROBES_MAX = 4
PROBED_MAX = 32
OWN_MAX = 4096
"""Addresses of this node told at once; with more, none can be told from another's."""
Probe = Callable[[str], Awaitable[Mapping[str, Any]]]
"""Tries the credential of that name (`broker.probing`); never raises."""
Fixed = Callable[[str], tuple[Address, ...]]
ACCEPTED_KINDS = frozenset({"operator", "approval"})


class Rekeys(Protocol):
    """`broker.rekeying.Rekeying`"""

    def begin(self) -> None: ...

    def reseal(self, name: str, blob: bytes) -> bytes: ...

    def end(self) -> None: ...


class Link:
    """Keeps `knowledge` current. `head` gives the signed audit head to send, or None where nothing was written yet;
    `using` the flows that a revocation has to cut (`control.openings`)."""

    def __init__(
        self,
        *,
        socket: Path,
        cache: Path,
        knowledge: Knowledge,
        journal: Journal,
        head: Callable[[], dict[str, Any] | None],
        using: Callable[[str, str], Ports],
    ) -> None:
        self._writer: asyncio.StreamWriter | None = None
        self._budgets: Budgets | None = None
        self._asking: Asking | None = None
        self._probe: Probe | None = None
        self._probing: set[asyncio.Task[None]] = set()
        self._rekeys: Rekeys | None = None
        self._fixed: Fixed | None = None
        self._own: Callable[[], frozenset[Address]] = frozenset
        self._retire: Callable[[Mapping[str, Any]], Callable[[], None]] | None = None
        self._unkept: Mapping[str, Any] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._socket = socket
        self._cache = cache
        self._knowledge = knowledge
        self._journal = journal
        self._head = head
        self._using = using

    def keeps(self, budgets: Budgets) -> None:
        """What operators ask of budgets is asked of these."""
        self._budgets = budgets

    def probes(self, probe: Probe) -> None:
        """Credentials are tried by `probe`."""
        self._probe = probe

    def dials(self, fixed: Fixed, own: Callable[[], frozenset[Address]]) -> None:
        """Of hosts, what `fixed` gives is told, and the node's `own` addresses (or `Unavailable`)."""
        self._fixed, self._own = fixed, own

    def rekeys(self, rekeys: Rekeys) -> None:
        """The sealing key is changed by `rekeys`."""
        self._rekeys = rekeys

    def retires(self, plan: Callable[[Mapping[str, Any]], Callable[[], None]]) -> None:
        """What an operator has exported may leave the log: `plan` gives what removes it, or a `ValueError`."""
        self._retire = plan

    def asks(self, asking: Asking) -> None:
        """Questions to humans go this way."""
        self._asking = asking

    def cut(self, task: str, port: int | None) -> None:
        """Ask for connections to be ended (`control.budgets.Cut`). Unheard while the control plane is away."""
        if self._writer is not None:
            self._writer.write(frame.encode({"type": "cut", "task": task, "ports": None if port is None else [port]}))

    async def run(self) -> None:
        """Connect, follow, reconnect; until cancelled."""
        attempt = 0
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
            except OSError:
                await asyncio.sleep(RECONNECT_S[min(attempt, len(RECONNECT_S) - 1)])
                attempt += 1
                continue
            attempt = 0
            try:
                await self._follow(reader, writer)
            except (OSError, Invalid, EOFError) as error:
                log.warning("link to the control plane broke: %s", error)
            finally:
                writer.close()
            await asyncio.sleep(RECONNECT_S[0])

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame.encode({"type": "hello", "node": "local"}))
        if self._asking is not None:
            self._asking.connected(writer)
        decoder = frame.Decoder()
        heads = asyncio.ensure_future(self._send_heads(writer))
        self._writer = writer
        try:
            while data := await reader.read(READ_BYTES):
                for message in decoder.feed(data):
                    answer = await self._received(message)
                    self._knowledge.heard()
                    if answer is not None:
                        writer.write(frame.encode(answer))
                        await writer.drain()
        finally:
            self._writer = None
            if self._asking is not None:
                self._asking.lost()
            heads.cancel()
            # Not `suppress(CancelledError)`: that would swallow the end of this very task.
            await asyncio.gather(heads, return_exceptions=True)
        raise EOFError("the control plane closed the link")

    async def _received(self, message: dict[str, Any]) -> dict[str, Any] | None:
        match message.get("type"):
            case "snapshot":
                return self._snapshot(message.get("snapshot"))
            case "ping":
                return {"type": "pong"}
            case "record":
                return await self._record(message)
            case "using":
                return self._flows(message)
            case "answer" if self._asking is not None:
                self._asking.answered(message)
                return None
            case "ring" if self._asking is not None:
                self._asking.rang(message)
                return None
            case "probe" if self._probe is not None and len(self._probing) < PROBES_MAX:
                # Not in the loop that reads: a source may take its time, and the lease counts on being heard.
                probing = asyncio.ensure_future(self._probed(self._probe, message))
                self._probing.add(probing)
                probing.add_done_callback(self._probing.discard)
                return None
            case "probe":
                return None
            case "rekey" if self._rekeys is not None:
                return {"type": "rekeyed", "id": message.get("id"), **_rekeyed(self._rekeys, message)}
            case "usage":
                names, behind = [str(name) for name in message.get("names") or ()], str(message.get("behind") or "")
                every = self._budgets.show(names) if self._budgets is not None else ()
                shown = [one for one in every if one["budget"] > behind]
                more = len(shown) > MAX_SHOWN
                return {"type": "usage", "id": message.get("id"), "budgets": shown[:MAX_SHOWN], "more": more}
            case "addresses":
                return self._addresses(message)
            case other:
                raise Invalid(f"unknown message {other!r} on the link")

    def _snapshot(self, document: object) -> dict[str, Any]:
        if not isinstance(document, dict):
            raise Invalid("a snapshot is not an object")
        current = self._knowledge.snapshot
        fresh = snapshots.load(document, current if current.version else None)
        if fresh.epoch < current.epoch:
            raise Invalid(f"snapshot epoch {fresh.epoch} is older than {current.epoch}")
        self._knowledge.replace(fresh)
        self._unkept = document
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.ensure_future(self._keep())
        return {"type": "ack", "epoch": fresh.epoch, "version": fresh.version}

    async def _probed(self, probe: Probe, message: dict[str, Any]) -> None:
        names = [str(name) for name in message.get("credentials") or ()]
        found = [dict(await probe(name)) for name in names[:PROBED_MAX]]
        if self._writer is not None:
            self._writer.write(frame.encode({"type": "probed", "id": message.get("id"), "found": found}))

    async def _keep(self) -> None:
        """Keep the latest snapshot. Beside the loop: it is in force, and its acknowledgement waits for no disk."""
        while self._unkept is not None:
            document, self._unkept = self._unkept, None
            try:
                await asyncio.to_thread(_keep_private, self._cache, document)
            except OSError as error:
                # Only a restart without a control plane would miss it, and refuse until it hears one.
                log.error("the snapshot could not be kept: %s", error)

    def _addresses(self, message: dict[str, Any]) -> dict[str, Any]:
        fixed = self._fixed(str(message.get("host"))) if self._fixed is not None else ()
        try:
            own: list[str] | None = [str(one) for one in self._own()]
        except Unavailable:
            own = None
        told = own if own is not None and len(own) <= OWN_MAX else None
        return {"type": "addresses", "id": message.get("id"), "fixed": [str(one) for one in fixed], "own": told}

    def _flows(self, message: dict[str, Any]) -> dict[str, Any]:
        found = self._using(str(message.get("kind")), str(message.get("name")))
        every = sum(map(len, found.values())) > FLOWS_MAX
        tasks = {task: None if every else sorted(ports) for task, ports in found.items()}
        return {"type": "flows", "id": message.get("id"), "tasks": tasks}

    async def _record(self, message: dict[str, Any]) -> dict[str, Any]:
        kind, fields = message.get("kind"), message.get("fields")
        if kind not in ACCEPTED_KINDS or not isinstance(fields, dict):
            raise Invalid("only records of operators and approvals come over the link")
        record = self._journal.new_id()
        raises = self._budgets is not None and fields.get("action") == ledger_log.RAISE
        remove: Callable[[], None] | None = None
        try:
            if self._retire is not None and kind == "operator" and fields.get("action") == retiring.ACTION:
                remove = await asyncio.to_thread(self._retire, fields)
            if self._budgets is not None and raises:
                fields = {**fields, **self._budgets.raised(record, fields)}
            await self._journal.append(record, Entry(kind=kind, fields=fields))
        except (OSError, ValueError) as error:
            return {"type": "recorded", "id": message.get("id"), "record": None, "error": str(error)}
        except Unavailable as error:
            if self._budgets is not None and raises:
                self._budgets.raise_failed(record, fields)
            return {"type": "recorded", "id": message.get("id"), "record": None, "error": error.detail}
        if self._budgets is not None:
            self._budgets.confirm(record)
        if remove is not None:
            try:
                await asyncio.to_thread(remove)
            except OSError as error:
                log.error("retired segments were not all removed: %s", error)  # the next start does it
        return {"type": "recorded", "id": message.get("id"), "record": record}

    async def _send_heads(self, writer: asyncio.StreamWriter) -> None:
        sent: dict[str, Any] | None = None
        while True:
            head = self._head()
            if head is not None and (sent is None or head["seq"] != sent["seq"]):
                writer.write(frame.encode({"type": "head", **head}))
                await writer.drain()
                sent = head
            await asyncio.sleep(HEAD_INTERVAL_S)


def _rekeyed(rekeys: Rekeys, message: Mapping[str, Any]) -> dict[str, Any]:
    """What one step of `control.ports_control.Node.rekey` gave."""
    try:
        match message.get("step"):
            case "begin":
                rekeys.begin()
            case "end":
                rekeys.end()
            case _:
                blob = rekeys.reseal(str(message["name"]), base64.b64decode(message["blob"]))
                return {"blob": base64.b64encode(blob).decode()}
    except RemitError as error:
        return {"blob": None, "error": error.detail, "conflict": isinstance(error, Conflict)}
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid("a step of a new sealing key has no secret") from error
    return {"blob": ""}


def cached(path: Path) -> Snapshot | None:
    """The last snapshot that was in force, or None where there is none that can be read."""
    try:
        return snapshots.load(json.loads(path.read_bytes()), None)
    except (OSError, ValueError, Invalid):
        return None


def _keep_private(path: Path, document: Mapping[str, Any]) -> None:
    data = json.dumps(document).encode()
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)
