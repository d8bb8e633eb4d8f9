"""The control plane's process: store, issuer, API, and the link to the node."""

from __future__ import annotations

import asyncio
import os

from remit import __version__
from remit.api import process, server
from remit.api.cells import CellsClient
from remit.api.children import CellsChildren
from remit.api.delegate import Door
from remit.api.link import NodeLink
from remit.app import notifiers, sealing
from remit.app import plane as planes
from remit.app import policies as engines
from remit.app.clock import SystemClock
from remit.app.plane import Outside, Plane
from remit.audit.reader import Reader
from remit.control.retiring import Bounds
from remit.control.telling import Telling
from remit.identity.issuer import Issuer
from remit.node import privilege
from remit.node.notify import Notifier
from remit.settings import Settings
from remit.store.database import Database
from remit.store.decisions import DecisionFiles
from remit.store.reserve import FileReserve


def build(settings: Settings) -> tuple[Plane, NodeLink]:
    """Everything but the sockets."""
    clock = SystemClock()
    store = Database(settings.control_dir / "remit.db")
    cells = CellsClient(settings.cells_socket)
    link = NodeLink(store=store, clock=clock, cells=cells)
    telling = Telling(notifiers.of(settings, clock))
    plane = planes.over(
        Outside(
            clock=clock,
            store=store,
            node=link,
            cells=cells,
            children=CellsChildren(settings.cells_socket),
            issuer=Issuer(
                directory=settings.control_dir / "issuer",
                clock=clock,
                retain_s=settings.token_ttl_s + settings.connection_max_s,
            ),
            sealer=sealing.sealer(settings),
            policies=engines.engine(settings),
            audit=Reader(directory=settings.audit_dir, file=settings.control_dir / "audit-index.db"),
            decisions=DecisionFiles(settings.control_dir / "opa-decisions.jsonl"),
            reserve=FileReserve(settings.control_dir / "revocations.reserve"),
            ring=link.ring,
            tell=telling.tell,
            warn=telling.warn,
            trust_domain=settings.trust_domain,
            audit_bounds=Bounds(age_s=settings.audit_keep_s or None, size_bytes=settings.audit_keep_bytes or None),
            token_ttl_s=settings.token_ttl_s,
            version=__version__,
        )
    )
    link.answers(plane.questions.answer)
    return plane, link


async def serve(settings: Settings, notifier: Notifier) -> None:
    privilege.closed_to_equals()
    plane, link = build(settings)
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            process.serve(
                plane.services,
                link=link,
                publisher=plane.publisher,
                cells=CellsClient(settings.cells_socket),
                control_socket=settings.control_socket,
                node_socket=settings.node_socket,
                api_port=settings.api_port,
                token_file=settings.control_dir / "api-token",
                ready=ready.set,
            )
        )
        await ready.wait()
        door = Door(plane.services.delegates, _envoy(settings))
        group.create_task(server.serve_door(door, settings.delegate_socket))
        group.create_task(notifier.run())


def _envoy(settings: Settings) -> int:
    """The uid of Envoy, which `app.layout` made the group of the directory that it connects in."""
    group = settings.delegate_socket.parent.stat().st_gid
    return group if group != os.getegid() else os.geteuid()
