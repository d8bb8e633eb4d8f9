"""Drives exchanges (`core.exchange`): the one place where their calls are made and their keys are used.

Of one stored secret one exchange runs at a time: two that spent the same refresh token would end each other's.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import datetime

from remit.broker.cache import Material
from remit.broker.rotations import Rotations
from remit.broker.signing import Signer
from remit.core.credential import Credential
from remit.core.errors import Unavailable
from remit.core.exchange import Answer, Call, Exchange, Granted
from remit.core.secret import Secret

MARGIN_S = 30.0
"""How long before its end a token is not used any more: the request still has to arrive, and clocks differ."""

Dial = Callable[[Call], Awaitable[Answer]]


class Exchanger:
    """`monotonic` as of the cache; `now` for what is signed."""

    def __init__(
        self,
        *,
        dial: Dial,
        sign: Signer,
        rotations: Rotations,
        monotonic: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._dial = dial
        self._sign = sign
        self._rotations = rotations
        self._monotonic = monotonic
        self._now = now
        self._one: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def obtain(self, wanted: Credential, exchange: Exchange, stored: bytes) -> Material:
        """What `stored` is exchanged for, as the other side gave it. `Unavailable` with the reason."""
        origin = wanted.secret or str(wanted.source)
        why = exchange.unfit(stored)
        if why is not None:
            raise Unavailable(f"credential {wanted.name}: {why}", hint=f"remit secret put {wanted.secret}")
        async with self._one[origin]:
            began = self._monotonic()
            granted = await self._granted(exchange, self._rotations.current(origin, stored))
            if granted.stored is not None:
                self._rotations.replace(origin, stored, granted.stored)
        lasts_s = granted.lasts_s - min(MARGIN_S, granted.lasts_s / 4)
        return Material(value=Secret(granted.value), until=began + lasts_s, again=began + lasts_s * 0.8)

    async def _granted(self, exchange: Exchange, value: bytes) -> Granted:
        steps = exchange.steps(value, self._now())
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(await (self._dial(wanted) if isinstance(wanted, Call) else self._sign(wanted)))
        except StopIteration as end:
            granted: Granted = end.value
            return granted
