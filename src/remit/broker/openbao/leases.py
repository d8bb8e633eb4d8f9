"""Leases: obtained for one task, renewed while it lives, taken back when it ends, is revoked, or this node restarts.

    holding:  open ──task ends──▶ ending ──the store says so──▶ (gone)
                                    ▲ a restart finds it in the ledger

Taking back is tried until the store has answered. While the store is away nothing lives on: a lease that is not renewed
ends by itself, and its value is never given after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from remit.broker.ledger import Ledger
from remit.broker.openbao import store
from remit.broker.openbao.client import Client, Refused
from remit.broker.openbao.config import Config
from remit.broker.openbao.sessions import Session
from remit.broker.openbao.store import Ask, Got
from remit.core.errors import Unavailable
from remit.core.source import Lease

log = logging.getLogger(__name__)

RETRY_S = 0.5
IDLE_S = 60.0
CLOSE_S = 3.0
SHORT = 0.5
"""A renewal that gives less than this part of the first life means that the lease nears its end: get another."""

Renewed = Callable[[str, str, float, bool], None]
"""(task, credential, until, whether another is wanted soon)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    source: Lease
    id: str
    until: float
    lasts_s: float
    renewable: bool

    @property
    def again(self) -> float:
        return self.until - self.lasts_s / 2 if self.renewable else float("inf")


@dataclass(slots=True)
class _Holding:
    session: Session
    held: dict[str, _Held] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)
    asking: int = 0
    """Leases that are being made. A token that is revoked meanwhile would leave what is made without an owner."""
    ending: bool = False


class Leases:
    """For one event loop. `renewed` hears what each renewal gave."""

    def __init__(
        self,
        *,
        client: Client,
        config: Config,
        ledger: Ledger,
        monotonic: Callable[[], float],
        renewed: Renewed,
    ) -> None:
        self._client = client
        self._config = config
        self._ledger = ledger
        self._monotonic = monotonic
        self._renewed = renewed
        self._tasks: dict[str, _Holding] = {}
        self._ending: dict[str, str] = ledger.left()
        self._dropped: list[tuple[Session, _Held]] = []
        self._wanted: Callable[[str, str], bool] = lambda task, credential: False
        self._wake = asyncio.Event()

    async def obtain(self, source: Lease, task: str, credential: str) -> tuple[Got, float]:
        """A lease for `task`, and until when (monotonic seconds). `Unavailable` where there is none."""
        holding = self._tasks.get(task)
        if holding is None:
            holding = self._tasks[task] = self._holding()
        asked = self._monotonic()
        holding.asking += 1
        try:
            got = store.made(source, await holding.session.ask(store.make(source)))
        finally:
            holding.asking -= 1
            self._end_when_still(holding)
        held = _Held(
            source=source, id=got.lease, until=asked + got.lasts_s, lasts_s=got.lasts_s, renewable=got.renewable
        )
        self._wake.set()
        if holding.ending or not self._wanted(task, credential):
            if not holding.ending:  # else it ends with the task's token
                self._dropped.append((holding.session, held))
            raise Unavailable(f"task {task} has lost its authority meanwhile")
        before = holding.held.get(credential)
        if before is not None and before.source != source:
            self._dropped.append((holding.session, before))
        holding.held[credential] = held
        return got, min(held.until, holding.session.until)

    async def tried(self, source: Lease) -> Got:
        """A lease for nobody, taken back before this returns, or by a restart. `Unavailable` where there is none."""
        holding = self._holding()
        try:
            return store.made(source, await holding.session.ask(store.make(source)))
        finally:
            holding.ending = True
            self._ending.update(holding.entries)
            self._wake.set()
            for entry, token in list(holding.entries.items()):
                await self._end(entry, token)

    def keep(self, wanted: Callable[[str, str], bool], alive: frozenset[str]) -> None:
        """Take back what tasks not in `alive` hold, and every lease that is not `wanted` (task, credential)."""
        self._wanted = wanted
        for task in [task for task in self._tasks if task not in alive]:
            holding = self._tasks.pop(task)
            holding.ending = True
            self._end_when_still(holding)
        for task, holding in self._tasks.items():
            for credential in [name for name in holding.held if not wanted(task, name)]:
                self._dropped.append((holding.session, holding.held.pop(credential)))
        self._wake.set()

    async def run(self) -> None:
        """Renew and take back; until cancelled."""
        while True:
            pause = await self._round()
            # Not `wait_for`: it may swallow a cancellation (cpython#86296).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()

    async def close(self) -> None:
        """Take back everything, as far as the store answers in time; a restart does the rest."""
        self.keep(lambda task, credential: False, frozenset())
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._end_all()
        except TimeoutError:
            log.warning("%d tokens of tasks could not be revoked in time", len(self._ending))

    def _end_when_still(self, holding: _Holding) -> None:
        if holding.ending and not holding.asking:
            self._ending.update(holding.entries)
            self._wake.set()

    def _holding(self) -> _Holding:
        async def written(token: str) -> None:
            entry = await asyncio.to_thread(self._ledger.open, token)
            if holding.ending:
                self._ending[entry] = token
                self._wake.set()
                raise Unavailable("the task has ended")
            holding.entries[entry] = token

        holding = _Holding(Session(self._client, self._config, self._monotonic, written))
        return holding

    async def _round(self) -> float:
        """Do what is due; seconds until the next time."""
        await self._end_all()
        now = self._monotonic()
        due = [
            (task, holding, name, held)
            for task, holding in self._tasks.items()
            for name, held in holding.held.items()
            if held.again <= now
        ]
        tokens = [item for item in self._tasks.items() if item[1].held and item[1].session.again <= now]
        await asyncio.gather(*(self._renew_token(*item) for item in tokens))
        await asyncio.gather(*(self._renew(*item) for item in due))
        if self._ending or self._dropped:
            return RETRY_S
        now = self._monotonic()
        times = [held.again for holding in self._tasks.values() for held in holding.held.values()]
        times += [holding.session.again for holding in self._tasks.values() if holding.held]
        return max(RETRY_S, min([*times, now + IDLE_S]) - now)

    async def _end_all(self) -> None:
        await asyncio.gather(*(self._end(entry, token) for entry, token in list(self._ending.items())))
        dropped, self._dropped = self._dropped, []
        await asyncio.gather(*(self._drop(session, held) for session, held in dropped))

    async def _end(self, entry: str, token: str) -> None:
        try:
            await self._client.request("POST", "auth/token/revoke-self", token=token, body={})
        except Refused as error:
            if error.status != 403:
                log.warning("a token of a task was not revoked: %s", error.detail)
                return
            # It exists no more: it ended by itself, or was revoked at the store.
        except Unavailable as error:
            log.warning("a token of a task was not revoked: %s", error.detail)
            return
        try:
            await asyncio.to_thread(self._ledger.closed, entry)
        except Unavailable as error:
            log.error("%s", error.detail)
            return
        self._ending.pop(entry, None)

    async def _drop(self, session: Session, held: _Held) -> None:
        ask = Ask(method="POST", path="sys/leases/revoke", namespace=held.source.namespace, body={"lease_id": held.id})
        try:
            await session.ask(ask)
        except Refused as error:
            # It ends with the task's token at the latest.
            log.warning("a lease was not taken back before its task ends: %s", error.detail)
        except Unavailable:
            if self._monotonic() < held.until:
                self._dropped.append((session, held))

    async def _renew_token(self, task: str, holding: _Holding) -> None:
        try:
            await holding.session.renew()
        except Unavailable as error:
            log.warning("a token of a task was not renewed: %s", error.detail)
            return
        for name, held in holding.held.items():
            if held.renewable and not holding.ending:
                self._renewed(task, name, min(held.until, holding.session.until), False)

    async def _renew(self, task: str, holding: _Holding, name: str, held: _Held) -> None:
        body = {"lease_id": held.id, "increment": int(held.lasts_s)}
        ask = Ask(method="POST", path="sys/leases/renew", namespace=held.source.namespace, body=body)
        asked = self._monotonic()
        try:
            lasts = (await holding.session.ask(ask)).get("lease_duration")
        except Refused:
            lasts = 0.0  # it ends when it said it would: another one is wanted
        except Unavailable as error:
            log.warning("a lease of credential %s was not renewed: %s", name, error.detail)
            if asked < held.until:
                return  # tried again in the next round
            lasts = 0.0
        if holding.held.get(name) is not held:
            return
        gives = float(lasts) if isinstance(lasts, int | float) else 0.0
        short = gives < held.lasts_s * SHORT
        until = max(held.until, asked + gives)
        holding.held[name] = replace(held, until=until, renewable=not short)
        self._renewed(task, name, min(until, holding.session.until), short)
