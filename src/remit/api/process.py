"""The control process, once its parts are made: it listens to its node, serves its API, and keeps its tasks honest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from remit.api import server
from remit.api.link import NodeLink
from remit.api.services import Services
from remit.control.approvals import Approvals
from remit.control.expiring import Expiring
from remit.control.ports_control import Cells
from remit.control.publish import Publisher
from remit.control.retiring import Retiring
from remit.control.revocation import Revoking
from remit.control.tasks import Lifecycle
from remit.core.errors import Unavailable

log = logging.getLogger(__name__)

RECONCILE_S = 10.0
SETTLE_S = 1.0
SWEEP_S = 2.0
EXPIRY_S = 30.0
BOUND_S = 30.0
RETRY_S = 0.5
"""While `cells` does not answer: after a start, what it no longer runs must not keep its authority for long."""


async def serve(
    services: Services,
    *,
    link: NodeLink,
    publisher: Publisher,
    cells: Cells,
    control_socket: Path,
    node_socket: Path,
    api_port: int,
    token_file: Path,
    ready: Callable[[], None],
) -> None:
    """Run until cancelled. `ready` is called once both sockets accept. `Unavailable`: one of them cannot be opened."""
    publisher.begin()
    async with link.listening(node_socket, publisher.current), asyncio.TaskGroup() as group:
        group.create_task(_reconcile(services.tasks, cells, publisher))
        group.create_task(_settle(services.revoking))
        group.create_task(_sweep(services.approvals))
        group.create_task(_look(services.expiring))
        group.create_task(services.audit.keep_up())
        group.create_task(_bound(services.retiring))
        await server.serve(services, control_socket=control_socket, port=api_port, token_file=token_file, ready=ready)


async def _sweep(approvals: Approvals) -> None:
    """What nobody answered in time is over, also where nobody asks what became of it."""
    while True:
        try:
            await approvals.sweep()
        except Unavailable as error:
            log.warning("approvals could not be looked through: %s", error)
        await asyncio.sleep(SWEEP_S)


async def _look(expiring: Expiring) -> None:
    """Ends of secrets are told of while there is time to do something about them."""
    while True:
        try:
            await expiring.look()
        except Unavailable as error:
            log.warning("the ends of secrets could not be looked at: %s", error)
        await asyncio.sleep(EXPIRY_S)


async def _bound(retiring: Retiring) -> None:
    """The audit log is kept within its bounds, by what was acknowledged to be elsewhere."""
    while True:
        try:
            while going := await retiring.bound():
                log.info("audit records up to %d are retired", going.seq)
        except Unavailable as error:
            log.warning("the audit log could not be kept within its bounds: %s", error.detail)
        await asyncio.sleep(BOUND_S)


async def _reconcile(tasks: Lifecycle, cells: Cells, publisher: Publisher) -> None:
    """A task whose cell is gone (a reboot, a killed `cells`) must not keep its authority."""
    while True:
        try:
            for task in tasks.reconcile(await cells.running()):
                log.warning("task %s has no cell any more: it has failed", task.id)
        except Unavailable as error:
            log.debug("cells cannot be asked what runs: %s", error)
            await asyncio.sleep(RETRY_S)
            continue
        await publisher.keep_reach()
        await asyncio.sleep(RECONCILE_S)


async def _settle(revoking: Revoking) -> None:
    """A revocation that the database could not take is stored and recorded once it can be."""
    while True:
        try:
            await revoking.settle()
        except Unavailable as error:
            log.warning("a revocation is pending still: %s", error.detail)
        await asyncio.sleep(SETTLE_S)
