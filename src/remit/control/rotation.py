"""The issuer's key, replaced: on schedule, or because someone may have it.

A token that is signed before its key is known to the node is refused, so the node learns first. Rotation on schedule
ends nothing: old tokens verify until no connection can carry one. After a compromise they end at once, with every
connection that carries one; cells fetch new tokens by themselves.
"""

from __future__ import annotations

from remit.control.ports import Clock
from remit.control.ports_control import Issuer, Store
from remit.control.publish import Publisher
from remit.control.recording import Recorder


class Rotation:
    def __init__(self, *, store: Store, publisher: Publisher, recorder: Recorder, issuer: Issuer, clock: Clock) -> None:
        self._store = store
        self._publisher = publisher
        self._recorder = recorder
        self._issuer = issuer
        self._clock = clock

    async def rotate(self, *, operator: str, compromised: bool = False) -> tuple[str, str]:
        """(key id that signs from now on, id of the record)."""
        why = "because the old key is compromised" if compromised else "on request"
        record = await self._recorder.before("issuer.rotate", operator, f"issuer key rotated {why}")
        kid = self._issuer.prepare()
        await self._publish()
        self._issuer.activate(compromised=compromised)
        if compromised:
            await self._publish()
        return kid, record

    async def _publish(self) -> None:
        with self._store.unit() as unit:
            unit.advance_epoch(self._clock.now())
        await self._publisher.publish()
