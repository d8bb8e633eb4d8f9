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
from remit.api.services import Services
from remit.app import notifiers, sealing
from remit.app import policies as engines
from remit.app.clock import SystemClock
from remit.audit.reader import Reader
from remit.control.approvals import Approvals
from remit.control.audit_keys import AuditKeys
from remit.control.catalog import Catalog
from remit.control.cutting import Cutting
from remit.control.delegates import Delegates
from remit.control.expiring import Expiring
from remit.control.explaining import Explaining
from remit.control.manifests import Manifests
from remit.control.operators import Operating
from remit.control.pending import Pending
from remit.control.publish import Publisher
from remit.control.reaching import Reaching
from remit.control.recording import Recorder
from remit.control.retiring import Retiring
from remit.control.revocation import Revoking
from remit.control.secrets import Secrets
from remit.control.spending import Spending
from remit.control.status import Status
from remit.control.tasks import Lifecycle
from remit.control.telling import Telling
from remit.control.watching import Watching
from remit.identity.issuer import Issuer
from remit.node import privilege
from remit.node.notify import Notifier
from remit.settings import Settings
from remit.store.database import Database
from remit.store.decisions import DecisionFiles
from remit.store.reserve import FileReserve


def build(settings: Settings) -> tuple[Services, NodeLink, Publisher]:
    """Everything but the sockets."""
    clock = SystemClock()
    store = Database(settings.control_dir / "remit.db")
    issuer = Issuer(
        directory=settings.control_dir / "issuer",
        clock=clock,
        retain_s=settings.token_ttl_s + settings.connection_max_s,
    )
    cells = CellsClient(settings.cells_socket)
    link = NodeLink(store=store, clock=clock, cells=cells)
    pending = Pending(FileReserve(settings.control_dir / "revocations.reserve"), clock.now())
    recorder, catalog = Recorder(link), Catalog()
    reaching = Reaching(store=store, cells=cells, catalog=catalog)
    publisher = Publisher(store=store, node=link, issuer=issuer, clock=clock, pending=pending, reaching=reaching)
    audit = Reader(directory=settings.audit_dir, file=settings.control_dir / "audit-index.db")
    telling = Telling(notifiers.of(settings, clock))
    watching = Watching(ring=link.ring, tell=telling.tell)
    approvals = Approvals(
        store=store,
        publisher=publisher,
        recorder=recorder,
        catalog=catalog,
        clock=clock,
        ring=watching.ring,
        tell=watching.tell,
        cutting=Cutting(node=link, cells=cells),
    )
    link.answers(approvals.answer)
    tasks = Lifecycle(
        store=store,
        publisher=publisher,
        recorder=recorder,
        issuer=issuer,
        catalog=catalog,
        clock=clock,
        trust_domain=settings.trust_domain,
        token_ttl_s=settings.token_ttl_s,
    )
    services = Services(
        approvals=approvals,
        watching=watching,
        manifests=Manifests(store=store, publisher=publisher, recorder=recorder, clock=clock),
        secrets=Secrets(
            store=store,
            publisher=publisher,
            recorder=recorder,
            sealer=sealing.sealer(settings),
            catalog=catalog,
            clock=clock,
            node=link,
        ),
        expiring=Expiring(store=store, recorder=recorder, catalog=catalog, clock=clock, warn=telling.warn),
        tasks=tasks,
        delegates=Delegates(tasks=tasks, children=CellsChildren(settings.cells_socket), recorder=recorder, clock=clock),
        revoking=Revoking(
            store=store,
            node=link,
            publisher=publisher,
            recorder=recorder,
            cells=cells,
            catalog=catalog,
            clock=clock,
            pending=pending,
        ),
        explaining=Explaining(publisher=publisher, audit=audit, policies=engines.engine(settings), node=link),
        spending=Spending(node=link, recorder=recorder),
        status=Status(store=store, node=link, issuer=issuer, catalog=catalog, clock=clock),
        operating=Operating(store=store, recorder=recorder, clock=clock),
        audit=audit,
        decisions=DecisionFiles(settings.control_dir / "opa-decisions.jsonl"),
        retiring=Retiring(audit=audit, recorder=recorder),
        audit_keys=AuditKeys(store=store, recorder=recorder, clock=clock),
        store=store,
        version=__version__,
    )
    return services, link, publisher


async def serve(settings: Settings, notifier: Notifier) -> None:
    privilege.closed_to_equals()
    services, link, publisher = build(settings)
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            process.serve(
                services,
                link=link,
                publisher=publisher,
                cells=CellsClient(settings.cells_socket),
                control_socket=settings.control_socket,
                node_socket=settings.node_socket,
                api_port=settings.api_port,
                token_file=settings.control_dir / "api-token",
                ready=ready.set,
            )
        )
        await ready.wait()
        door = Door(services.delegates, _envoy(settings))
        group.create_task(server.serve_door(door, settings.delegate_socket))
        group.create_task(notifier.run())


def _envoy(settings: Settings) -> int:
    """The uid of Envoy, which `app.layout` made the group of the directory that it connects in."""
    group = settings.delegate_socket.parent.stat().st_gid
    return group if group != os.getegid() else os.geteuid()
