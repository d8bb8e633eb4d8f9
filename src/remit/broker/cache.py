"""Values that others keep or make, held for exactly as long as they said: the asynchronous half of the broker.

A value is never given after its end, which is counted from before it was asked for. It is asked for again at half of
its life, in the background, so that requests do not wait; those that have to wait share one question, for a bounded
time. A source that fails is left alone for a moment, and its reason is given meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from remit.core.credential import Credential
from remit.core.decision import Permit
from remit.core.errors import Unavailable
from remit.core.reason import Reason, Refusal
from remit.core.secret import Secret

log = logging.getLogger(__name__)

WAIT_S = 0.7
"""How long a decision waits; Envoy gives the whole check a second."""
FETCH_S = 5.0
PATIENT_S = FETCH_S + 0.5
"""How long the second check waits: until the question ends by itself."""
QUIET_S = 0.5
"""After a failure nobody asks again for this long."""
DOUBT_S = 60.0
MAX_DOUBT_S = 3600.0
"""A server that rejects a value makes it be obtained anew once in this time; twice as long each time it does so soon
again: a hostile one must not use us to hammer a token endpoint."""
MAX_FLIGHTS = 64
NEVER = float("inf")

Key = tuple[str, str]
"""(credential, task); no task where the value is the same for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """`until`: monotonic seconds. `again`: when to ask anew in the background, `NEVER` where others see to it."""

    value: Secret
    until: float
    again: float


class Expired(Unavailable):
    """The source gave something that says itself that it has ended."""


Obtain = Callable[[Permit], Awaitable[Material]]
"""Asks the source of the permit's credential. Raises `Unavailable` with the reason."""


@dataclass(slots=True)
class _Flight:
    wanted: Credential
    task: asyncio.Task[Secret | Refusal]


class Cache:
    """For one event loop. `monotonic` gives seconds that go on while the machine sleeps."""

    def __init__(self, obtain: Obtain, monotonic: Callable[[], float]) -> None:
        self._obtain = obtain
        self._monotonic = monotonic
        self._kept: dict[Key, tuple[Credential, Material]] = {}
        self._failed: dict[Key, tuple[float, Refusal]] = {}
        self._flights: dict[Key, _Flight] = {}
        self._tasks: set[asyncio.Task[Secret | Refusal]] = set()
        self._doubted: set[Key] = set()
        self._doubts: dict[Key, tuple[float, float]] = {}
        """When the last doubt was, and for how long there is no other."""

    def get(self, key: Key, wanted: Credential, permit: Permit) -> Secret | Refusal | None:
        """What is at hand; None where it has to be obtained."""
        kept = self._kept.get(key)
        now = self._monotonic()
        if kept is not None:
            by, material = kept
            if now < material.until and (by is wanted or by == wanted):
                if key in self._doubted and not self._quiet(key, now):
                    return None
                if now >= material.again and not self._quiet(key, now):
                    self._fly(key, wanted, permit)
                return material.value
            del self._kept[key]
            self._doubted.discard(key)
        return self._quiet(key, now)

    async def obtain(
        self, key: Key, wanted: Credential, permit: Permit, *, patient: bool = False
    ) -> Secret | Refusal | None:
        """What is at hand after at most `WAIT_S`, or `PATIENT_S`; all who ask at once wait for the same question.

        None: nothing yet, and it is an exchange, which whoever is patient may wait for.
        """
        flight = self._fly(key, wanted, permit)
        if isinstance(flight, Refusal):
            return flight
        done, _ = await asyncio.wait({flight.task}, timeout=PATIENT_S if patient else WAIT_S)
        found = flight.task.result() if done else None
        if isinstance(found, Secret):
            return found
        kept = self._kept.get(key)
        if kept is not None and kept[0] == wanted and self._monotonic() < kept[1].until:
            return kept[1].value  # it was only doubted
        if found is None and wanted.exchange is not None and not patient:
            return None
        return found or _refusal(f"the source of credential {wanted.name} has not answered within {WAIT_S:g} s")

    def doubt(self, which: Callable[[Key, Credential], bool]) -> None:
        """Somebody rejects these values: obtain them anew for the next request, within bounds. They are given until
        there are others."""
        now = self._monotonic()
        for key, (by, _) in self._kept.items():
            if not which(key, by) or key in self._doubted:
                continue
            last, pause_s = self._doubts.get(key, (-NEVER, DOUBT_S))
            if now < last + pause_s:
                continue
            soon = now < last + 4 * pause_s
            self._doubts[key] = now, min(2 * pause_s, MAX_DOUBT_S) if soon else DOUBT_S
            self._doubted.add(key)

    def forget(self, unwanted: Callable[[Key, Credential], bool]) -> None:
        """Values for which `unwanted` is true are gone; so are those that are being asked for."""
        self._kept = {key: kept for key, kept in self._kept.items() if not unwanted(key, kept[0])}
        self._flights = {key: flight for key, flight in self._flights.items() if not unwanted(key, flight.wanted)}
        self._failed.clear()
        self._doubted &= self._kept.keys()
        self._doubts = {key: doubt for key, doubt in self._doubts.items() if key in self._kept}

    def prolong(self, key: Key, *, until: float, again: float) -> None:
        """The value under `key` lasts until then, and is asked for anew at `again`."""
        kept = self._kept.get(key)
        if kept is not None:
            by, material = kept
            self._kept[key] = by, Material(value=material.value, until=until, again=again)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _quiet(self, key: Key, now: float) -> Refusal | None:
        failed = self._failed.get(key)
        if failed is None:
            return None
        if now < failed[0]:
            return failed[1]
        del self._failed[key]
        return None

    def _fly(self, key: Key, wanted: Credential, permit: Permit) -> _Flight | Refusal:
        flight = self._flights.get(key)
        if flight is not None and flight.wanted == wanted:
            return flight
        if len(self._flights) >= MAX_FLIGHTS:
            return _refusal(f"{MAX_FLIGHTS} credentials are being obtained already")
        flight = _Flight(wanted, asyncio.ensure_future(self._fetch(key, wanted, permit)))
        self._flights[key] = flight
        self._tasks.add(flight.task)
        flight.task.add_done_callback(self._tasks.discard)
        return flight

    async def _fetch(self, key: Key, wanted: Credential, permit: Permit) -> Secret | Refusal:
        me = asyncio.current_task()
        try:
            async with asyncio.timeout(FETCH_S):
                material = await self._obtain(permit)
        except TimeoutError:
            return self._fail(key, f"the source of credential {wanted.name} does not answer")
        except Expired as error:
            return self._fail(key, error.detail, Reason.CREDENTIAL_EXPIRED)
        except Unavailable as error:
            return self._fail(key, error.detail)
        except Exception as error:  # a fault of ours is a denial, never a hang
            # Only its type: the text of an exception may hold what was being handled.
            log.error("credential %s could not be obtained: %s", wanted.name, type(error).__name__)
            return self._fail(key, f"credential {wanted.name} could not be obtained")
        finally:
            flight = self._flights.get(key)
            current = flight is not None and flight.task is me
            if current:
                del self._flights[key]
        if not current:
            return _refusal(f"credential {wanted.name} was taken back while it was obtained")
        if self._monotonic() >= material.until:
            return self._fail(key, f"what the source of credential {wanted.name} gave has ended already")
        self._kept[key] = wanted, material
        self._doubted.discard(key)
        self._failed.pop(key, None)
        return material.value

    def _fail(self, key: Key, why: str, reason: Reason = Reason.CREDENTIAL_UNAVAILABLE) -> Refusal:
        refusal = Refusal(reason, why)
        self._failed[key] = self._monotonic() + QUIET_S, refusal
        return refusal


def _refusal(why: str) -> Refusal:
    return Refusal(Reason.CREDENTIAL_UNAVAILABLE, why)
