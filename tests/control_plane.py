"""A control plane for tests: real use cases, issuer and API over a store of choice; node, cells and audit are fakes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from remit import testing
from remit.api import server
from remit.api.services import Services
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
from remit.control.ports_control import Store
from remit.control.publish import Publisher
from remit.control.reaching import Reaching
from remit.control.recording import Recorder
from remit.control.retiring import Retiring
from remit.control.revocation import Revoking
from remit.control.secrets import Secrets
from remit.control.spending import Spending
from remit.control.status import Status
from remit.control.tasks import Lifecycle
from remit.control.watching import Watching
from remit.identity.issuer import Issuer

API = "remit.dev/v1alpha1"
ROLE = {"apiVersion": API, "kind": "Role", "metadata": {"name": "devops"}, "spec": {"capabilities": ["github"]}}
CAPABILITY = {
    "apiVersion": API,
    "kind": "Capability",
    "metadata": {"name": "github"},
    "spec": {"hosts": ["api.github.com"], "methods": ["GET"], "credential": "github-token"},
}
CREDENTIAL = {
    "apiVersion": API,
    "kind": "Credential",
    "metadata": {"name": "github-token"},
    "spec": {
        "hosts": ["api.github.com"],
        "inject": {"header": {"name": "Authorization", "format": "Bearer {secret}"}},
        "placeholder": {"env": "GITHUB_TOKEN", "value": "ghp_placeholder"},
    },
}
MANIFESTS: list[dict[str, Any]] = [ROLE, CAPABILITY, CREDENTIAL]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    services: Services
    publisher: Publisher
    store: Store
    clock: testing.ManualClock
    node: testing.MemoryNode
    cells: testing.MemoryCells
    audit: testing.MemoryAudit
    issuer: Issuer
    reserve: testing.MemoryReserve
    rung: list[str]
    warned: testing.MemoryNotifier
    children: testing.MemoryChildren


def build(directory: Path, store: Store | None = None) -> Plane:
    """`directory` holds the issuer's keys; without a `store`, everything else is in memory."""
    clock, node, cells, audit = (
        testing.ManualClock(),
        testing.MemoryNode(),
        testing.MemoryCells(),
        testing.MemoryAudit(),
    )
    store = store or testing.MemoryStore()
    issuer = Issuer(directory=directory / "issuer", clock=clock, retain_s=4200)
    reserve = testing.MemoryReserve()
    pending = Pending(reserve, clock.now())
    recorder, catalog = Recorder(node), Catalog()
    reaching = Reaching(store=store, cells=cells, catalog=catalog)
    publisher = Publisher(store=store, node=node, issuer=issuer, clock=clock, pending=pending, reaching=reaching)
    publisher.begin()
    rung: list[str] = []
    warned = testing.MemoryNotifier()
    watching = Watching(ring=rung.append, tell=warned.notify)
    approvals = Approvals(
        store=store,
        publisher=publisher,
        recorder=recorder,
        catalog=catalog,
        clock=clock,
        ring=watching.ring,
        tell=watching.tell,
        cutting=Cutting(node=node, cells=cells),
    )
    tasks, children = (
        Lifecycle(
            store=store,
            publisher=publisher,
            recorder=recorder,
            issuer=issuer,
            catalog=catalog,
            clock=clock,
            trust_domain="remit.local",
            token_ttl_s=600,
        ),
        testing.MemoryChildren(),
    )
    services = Services(
        approvals=approvals,
        watching=watching,
        manifests=Manifests(store=store, publisher=publisher, recorder=recorder, clock=clock),
        secrets=Secrets(
            store=store,
            publisher=publisher,
            recorder=recorder,
            sealer=testing.PlainSealer(),
            catalog=catalog,
            clock=clock,
            node=node,
        ),
        expiring=Expiring(store=store, recorder=recorder, catalog=catalog, clock=clock, warn=warned.warn),
        tasks=tasks,
        delegates=Delegates(tasks=tasks, children=children, recorder=recorder, clock=clock),
        revoking=Revoking(
            store=store,
            node=node,
            publisher=publisher,
            recorder=recorder,
            cells=cells,
            catalog=catalog,
            clock=clock,
            pending=pending,
        ),
        explaining=Explaining(publisher=publisher, audit=audit, policies=testing.StaticPolicies(), node=node),
        spending=Spending(node=node, recorder=recorder),
        status=Status(store=store, node=node, issuer=issuer, catalog=catalog, clock=clock),
        operating=Operating(store=store, recorder=recorder, clock=clock),
        audit=audit,
        decisions=testing.MemoryDecisions(),
        retiring=Retiring(audit=audit, recorder=recorder),
        audit_keys=AuditKeys(store=store, recorder=recorder, clock=clock),
        store=store,
        version="0.0.test",
    )
    return Plane(
        services=services,
        publisher=publisher,
        store=store,
        clock=clock,
        node=node,
        cells=cells,
        audit=audit,
        issuer=issuer,
        reserve=reserve,
        rung=rung,
        warned=warned,
        children=children,
    )


def as_user(app: ASGIApp, uid: int) -> ASGIApp:
    """`app` as if every request came over the Unix socket from the user `uid`."""

    async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "remit.uid": uid}, receive, send)

    return with_peer


@contextlib.contextmanager
def served(plane: Plane, socket: Path, *, port: int = 0) -> Iterator[asyncio.AbstractEventLoop]:
    """The API on a Unix socket (and on loopback), in a thread of its own; for clients that are not asyncio."""
    started, loops = threading.Event(), list[asyncio.AbstractEventLoop]()
    tasks = list[asyncio.Task[None]]()

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        serving = asyncio.ensure_future(
            server.serve(
                plane.services,
                control_socket=socket,
                port=port,
                token_file=socket.parent / "api-token",
                ready=started.set,
            )
        )
        tasks.append(serving)
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(10), "the API did not start"
    try:
        yield loops[0]
    finally:
        loops[0].call_soon_threadsafe(tasks[0].cancel)
        thread.join(15)
        assert not thread.is_alive(), "the API did not stop"
