"""OpenBao as the broker uses it: a permit in, a value and its end out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from remit.broker import cache, signing
from remit.broker.cache import Material
from remit.broker.ledger import Ledger
from remit.broker.openbao import config, store, transit
from remit.broker.openbao.client import Client
from remit.broker.openbao.leases import Leases, Renewed
from remit.broker.openbao.sessions import Session
from remit.broker.sealed import Opener
from remit.core.exchange import Sign
from remit.core.secret import Secret
from remit.core.source import Kv, Source


class OpenBao:
    """`broker.secrets.Remote` over a server that speaks OpenBao's (and Vault's) API. For one event loop.

    `file`: the node's configuration (`openbao.config`), read once. The store itself may be away when a node starts.
    `ledger`: where tokens of tasks are written down.
    """

    def __init__(
        self, *, file: Path, ledger: Path, opener: Opener, monotonic: Callable[[], float], renewed: Renewed
    ) -> None:
        found = config.read(file)
        self._monotonic = monotonic
        self._client = Client(found)
        self._session = Session(self._client, found, monotonic)
        written = Ledger(ledger, opener)
        self._leases = Leases(
            client=self._client,
            config=found,
            ledger=written,
            monotonic=monotonic,
            renewed=renewed,
        )
        self.keep, self.reseal = self._leases.keep, written.reseal

    async def obtain(self, source: Source, task: str, credential: str) -> Material:
        """What `source` holds, or makes for `task`. `Unavailable` with the reason."""
        asked = self._monotonic()
        if isinstance(source, Kv):
            got = store.stored(source, await self._session.ask(store.read(source)))
            until = asked + got.lasts_s
            return Material(value=Secret(got.value), until=until, again=asked + got.lasts_s / 2)
        got, until = await self._leases.obtain(source, task, credential)
        again = cache.NEVER if got.renewable else asked + got.lasts_s / 2
        return Material(value=Secret(got.value), until=until, again=again)

    async def probe(self, source: Source) -> Material:
        """As `obtain`, for nobody: what is made for it is taken back before it returns."""
        if isinstance(source, Kv):
            return await self.obtain(source, "", "")
        asked = self._monotonic()
        got = await self._leases.tried(source)
        return Material(value=Secret(got.value), until=asked + got.lasts_s, again=cache.NEVER)

    async def sign(self, wanted: Sign) -> bytes:
        """`broker.signing.Signer`, for keys that are kept there and those that are at hand."""
        ask = transit.sign(wanted)
        if ask is None:
            return await signing.local(wanted)
        return transit.signature(await self._session.ask(ask))

    async def run(self) -> None:
        """Renew leases and take them back; until cancelled."""
        await self._leases.run()

    async def close(self) -> None:
        """Take back what tasks hold, as far as the store answers; then let go of it."""
        await self._leases.close()
        await self._client.close()
