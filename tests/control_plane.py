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

from remit import __version__, testing
from remit.api import server
from remit.api.services import Services
from remit.app import plane
from remit.app.plane import Outside
from remit.control.ports_control import Store
from remit.control.publish import Publisher
from remit.control.questions import Questions
from remit.control.retiring import Bounds
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
    questions: Questions
    store: Store
    clock: testing.ManualClock
    node: testing.MemoryNode
    cells: testing.MemoryCells
    audit: testing.MemoryAudit
    issuer: Issuer
    reserve: testing.MemoryReserve
    rung: list[str]
    told: testing.MemoryNotifier
    children: testing.MemoryChildren


def build(directory: Path, store: Store | None = None) -> Plane:
    """`directory` holds the issuer's keys; without a `store`, everything else is in memory."""
    clock, store = testing.ManualClock(), store or testing.MemoryStore()
    node, cells, children = testing.MemoryNode(), testing.MemoryCells(), testing.MemoryChildren()
    audit, reserve, told = testing.MemoryAudit(), testing.MemoryReserve(), testing.MemoryNotifier()
    issuer = Issuer(directory=directory / "issuer", clock=clock, retain_s=4200)
    rung: list[str] = []
    made = plane.over(
        Outside(
            clock=clock,
            store=store,
            node=node,
            cells=cells,
            children=children,
            issuer=issuer,
            sealer=testing.PlainSealer(),
            policies=testing.StaticPolicies(),
            audit=audit,
            decisions=testing.MemoryDecisions(),
            reserve=reserve,
            ring=rung.append,
            tell=told.notify,
            warn=told.warn,
            trust_domain="remit.local",
            audit_bounds=Bounds(),
            token_ttl_s=600,
            version=__version__,
        )
    )
    made.publisher.begin()
    return Plane(
        services=made.services,
        publisher=made.publisher,
        questions=made.questions,
        store=store,
        clock=clock,
        node=node,
        cells=cells,
        audit=audit,
        issuer=issuer,
        reserve=reserve,
        rung=rung,
        told=told,
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
    assert started.wait(60), "the API did not start"
    try:
        yield loops[0]
    finally:
        loops[0].call_soon_threadsafe(tasks[0].cancel)
        thread.join(60)
        assert not thread.is_alive(), "the API did not stop"
