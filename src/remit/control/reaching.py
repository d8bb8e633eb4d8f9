"""What the kernel of the node must let through, told to it before the node may permit it.

A second, independent rule on the node refuses special-use and the node's own addresses (`node.fence`). A capability
that names such a range opens it there too, for its ports. The control plane says so, not the decision service: whoever
takes that over opens nothing. While the kernel cannot be told, such addresses stay refused; nothing else waits for it.
What is opened is told before the node may permit it; what is closed is told after the node refuses it, so that no
revocation waits for another process.
"""

from __future__ import annotations

import asyncio
import logging

from remit.control.catalog import Catalog
from remit.control.pending import Pending
from remit.control.ports_control import Cells, Reach, RevocationKind, Store
from remit.core.errors import RemitError

log = logging.getLogger(__name__)

TIMEOUT_S = 1.0
"""A change that opens something is published behind this: it must not wait for a process that does not answer."""


class Reaching:
    def __init__(self, *, store: Store, cells: Cells, catalog: Catalog, pending: Pending) -> None:
        self._store, self._cells, self._catalog, self._pending = store, cells, catalog, pending
        self._told: Reach | None = None
        self._telling = asyncio.Lock()

    def wanted(self) -> Reach:
        """(range, port) of every capability in force that names ranges."""
        with self._store.unit() as unit:
            rules = self._catalog.rules(unit)
            revoked = {one.name for one in self._pending.revoked(unit) if one.kind is RevocationKind.CAPABILITY}
        return frozenset(
            (str(network), port)
            for capability in rules.capabilities.values()
            if capability.invalid is None and capability.name not in revoked
            for network in capability.addresses
            for port in capability.ports
        )

    async def open(self) -> None:
        """`keep`, where something is wanted that the kernel does not let through yet."""
        try:
            if self._told is not None and self.wanted() <= self._told:
                return
        except RemitError as error:
            log.warning("nobody can say what capabilities open: %s", error)
            return
        await self.keep()

    async def keep(self) -> None:
        """Tell the kernel what is wanted, where that is something else than before. Never raises but cancellation."""
        async with self._telling:
            try:
                wanted = self.wanted()
                if wanted == self._told:
                    return
                self._told = None
                async with asyncio.timeout(TIMEOUT_S):
                    await self._cells.reach(wanted)
                self._told = wanted
            except (RemitError, TimeoutError) as error:
                log.warning("the kernel does not know yet what capabilities open: %s", error)
