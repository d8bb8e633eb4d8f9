"""What the node must know, built from the store and pushed until it says that it is in force.

A change that the node has not acknowledged has not happened as far as agents are concerned, so no use case answers
its caller before that (law 6). Snapshots are whole: there is no way to apply half a change. Many changes at once share
one push: whoever waits is done when any epoch at or above its own is acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from datetime import timedelta
from typing import Any

from remit.control.pending import Pending
from remit.control.ports import Clock
from remit.control.ports_control import Issuer, Node, RevocationKind, Store, Unit
from remit.control.reaching import Reaching
from remit.core.errors import Unavailable
from remit.core.snapshot import Revoked
from remit.policy import snapshot as snapshots

ACK_TIMEOUT_S = 5.0
ENDED_KEPT = timedelta(minutes=10)
"""How long the node can still tell an agent that its task has ended, rather than that it is unknown."""


class Publisher:
    """Pushes the store's state to the node."""

    def __init__(
        self, *, store: Store, node: Node, issuer: Issuer, clock: Clock, pending: Pending, reaching: Reaching
    ) -> None:
        self._store = store
        self._pending = pending
        self._node = node
        self._issuer = issuer
        self._clock = clock
        self._reaching = reaching
        self._pushing = asyncio.Lock()
        self._background: set[asyncio.Task[object]] = set()

    def current(self) -> Mapping[str, Any]:
        """The snapshot of the store as it is now, as JSON values."""
        with self._store.unit() as unit:
            return self._snapshot(unit)

    async def publish(self) -> None:
        """Returns when the node has all that is stored or pending now in force. `Unavailable`: it did not say so."""
        with contextlib.suppress(Unavailable):
            self._pending.settle(self._store)
        with self._store.unit() as unit:
            wanted = max(unit.epoch(), self._pending.epoch)
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S), self._pushing:
                await self._reaching.open()
                if self._node.acked_epoch < wanted:
                    await self._node.publish(self.current())
        except TimeoutError as error:
            raise Unavailable(
                f"the change is stored, but the node did not acknowledge it within {ACK_TIMEOUT_S:g} s",
                hint="remit status",
            ) from error
        finally:
            self._behind(self._reaching.keep())

    async def missed(self) -> Unavailable | None:
        """Publish: why the node does not have it in force, or None. For what goes on either way."""
        try:
            await self.publish()
        except Unavailable as error:
            return error
        return None

    def publish_later(self) -> None:
        """Push without waiting: for facts that take authority from nobody who could still use it."""
        self._behind(self.missed())  # the node gets the whole state when it connects again

    def _behind(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def keep_reach(self) -> None:
        """Tell the node's kernel what capabilities open, where it does not know. Never raises."""
        await self._reaching.keep()

    def begin(self) -> None:
        """Start a new epoch, so that nodes take this database's word over what they remember of another."""
        with self._store.unit() as unit:
            unit.advance_epoch(self._clock.now())

    def _snapshot(self, unit: Unit) -> Mapping[str, Any]:
        revocations, secrets = self._pending.revoked(unit), unit.secrets.all()
        return snapshots.dump(
            epoch=max(unit.epoch(), self._pending.epoch),
            documents=[dict(document) for document in unit.documents.all()],
            tasks=self._pending.over(unit.current_tasks(ended_since=self._clock.now() - ENDED_KEPT)),
            revoked=Revoked(
                capabilities=frozenset(r.name for r in revocations if r.kind is RevocationKind.CAPABILITY),
                credentials=frozenset(r.name for r in revocations if r.kind is RevocationKind.CREDENTIAL),
                roles=frozenset(r.name for r in revocations if r.kind is RevocationKind.ROLE),
                everything=any(r.kind is RevocationKind.EVERYTHING for r in revocations),
            ),
            keys=self._issuer.public_keys(),
            grants=unit.grants.active(),
            sealed={secret.name: secret.blob for secret in secrets},
            expires={secret.name: secret.expires for secret in secrets if secret.expires is not None},
        )
