"""Ends of secrets are told before they come, and when they are there: recorded, and sent to whoever is told things.

Each stage is told once for each version of a secret, whatever restarts; a stage that was slept through is passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from remit.control.catalog import Catalog
from remit.control.ports import Clock
from remit.control.ports_approvals import Ending
from remit.control.ports_control import SealedSecret, Store
from remit.control.recording import Recorder
from remit.core import expiry
from remit.core.errors import Unavailable
from remit.core.expiry import STAGES, Nearness

log = logging.getLogger(__name__)

OPERATOR = "remit"


class Expiring:
    def __init__(
        self,
        *,
        store: Store,
        recorder: Recorder,
        catalog: Catalog,
        clock: Clock,
        warn: Callable[[Ending], Awaitable[None]],
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._catalog = catalog
        self._clock = clock
        self._warn = warn

    async def look(self) -> None:
        """Tell what came nearer since the last look. `Unavailable`: the store cannot be used."""
        now = self._clock.now()
        with self._store.unit() as unit:
            secrets = [one for one in unit.secrets.all() if one.expires is not None]
            rules = self._catalog.rules(unit)
        for secret in secrets:
            stage = expiry.nearness(secret.expires, now)
            if STAGES.index(stage) <= STAGES.index(secret.told):
                continue
            await self._tell(secret, stage, rules.presenting(secret.name))

    async def _tell(self, secret: SealedSecret, stage: Nearness, using: tuple[str, ...]) -> None:
        assert secret.expires is not None
        over = stage is Nearness.OVER
        end = secret.expires.isoformat(timespec="seconds")
        try:
            record = await self._recorder.after(
                "secret.expired" if over else "secret.expiring",
                OPERATOR,
                f"secret {secret.name} {stage.value} ({end})",
                secret=secret.name,
            )
        except Unavailable as error:
            log.warning("%s", error.detail)
            return  # told when it can be recorded
        with self._store.unit() as unit:
            now = unit.secrets.get(secret.name)
            if now is None or now.version != secret.version:
                return
            unit.secrets.put(replace(now, told=stage))
        await self._warn(
            Ending(
                secret=secret.name,
                version=secret.version,
                expires=secret.expires,
                nearness=stage,
                credentials=using,
                record=record,
            )
        )
