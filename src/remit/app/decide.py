"""The decision service's process: what Envoy and the forwarder ask, and the audit log."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine, Iterator
from functools import partial

from remit.app import brain as brains
from remit.app.brain import Brain
from remit.boundary import (
    ca_renewal,
    check_server,
    completions,
    envoy,
    hold_server,
    refuse,
    scrub_server,
    sds_server,
    tunnel_check,
)
from remit.node import dns_server, privilege
from remit.node.dns_ledger import Refused
from remit.node.notify import Notifier
from remit.settings import Settings

GC_THRESHOLD = 50_000
"""A request makes a hundred containers and no cycles: at Python's default of 700 the collector runs all the time."""


async def serve(settings: Settings, notifier: Notifier) -> None:
    privilege.without_core()
    privilege.closed_to_equals()
    brain = brains.build(settings)
    try:
        async with asyncio.TaskGroup() as group:
            for server in (*_boundary(settings, brain), *_node(settings, brain)):
                group.create_task(server)
            await brain.knowledge.informed()
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD)
            group.create_task(notifier.run())
    finally:
        await brain.close()


def _boundary(settings: Settings, brain: Brain) -> Iterator[Coroutine[None, None, None]]:
    """What Envoy asks, and what it writes."""
    decider, most = brain.deciding.decider, settings.check_pending_max
    met, over = brain.openings.carried_by, brain.observer.unheard
    yield ca_renewal.follow(settings.ca_dir, brain.leaves.use)
    yield sds_server.serve_sds(settings.sds_socket, brain.leaves, brain.clock.now)
    yield check_server.serve_check(settings.check_socket, decider.check, decider.refuse, most, met=met, unheard=over)
    yield hold_server.serve_hold(settings.hold_socket, brain.holding.check, decider.refuse, met=met)
    names = brain.meant.names
    yield tunnel_check.serve_tunnel(settings.tunnel_socket, decider.check, decider.refuse, names, most, met, over)
    yield refuse.serve_refuse(settings.refuse_socket)
    yield scrub_server.serve_scrub(settings.scrub_socket, brain.deciding.hidden.answer)
    yield completions.follow(
        settings.spool,
        settings.decide_dir / "spool.mark",
        brain.observer.ended,
        partial(envoy.reopen_logs, settings.envoy_admin),
    )


def _node(settings: Settings, brain: Brain) -> Iterator[Coroutine[None, None, None]]:
    """What the forwarder asks, the link to the control plane, and what passes by itself."""

    async def name_refused(refused: Refused) -> None:
        await brain.observer.name_refused(
            cell=refused.cell, name=refused.name, kind=refused.kind, reason=refused.reason, count=refused.count
        )

    yield dns_server.serve_dns(
        settings.dns_socket,
        brain.observer.knows,
        name_refused,
        quota=brain.quota,
        door=brain.meant.door,
        search=settings.search_domains,
    )
    if brain.store is not None:
        yield brain.store.run()
    yield brain.upward.run()
    yield brain.deciding.budgets.watch()
