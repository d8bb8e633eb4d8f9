"""Secrets on their way into the sealed store: sealed at once, never shown, never in an error or a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from remit.control.catalog import Catalog
from remit.control.ports import Clock
from remit.control.ports_control import SealedSecret, Sealer, Store
from remit.control.publish import Publisher
from remit.control.recording import Recorder
from remit.core.claims import ROLE_NAME
from remit.core.errors import Conflict, Invalid, NotFound

MAX_SECRET_BYTES = 32 << 10
MAX_SECRETS_BYTES = 4 << 20
"""All of them, sealed: they travel in the snapshot (`core.frame` bounds it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """`credentials`: the names of those that use it."""

    name: str
    updated: datetime
    credentials: tuple[str, ...]


class Secrets:
    def __init__(
        self,
        *,
        store: Store,
        publisher: Publisher,
        recorder: Recorder,
        sealer: Sealer,
        catalog: Catalog,
        clock: Clock,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._recorder = recorder
        self._sealer = sealer
        self._catalog = catalog
        self._clock = clock

    async def put(self, name: str, value: bytes, *, operator: str) -> str:
        """Seal and keep `value`, replacing what was there; the record's id."""
        if not ROLE_NAME.fullmatch(name):
            raise Invalid("the name of a secret is 1 to 63 lower-case letters, digits and hyphens")
        if not value:
            raise Invalid("the secret is empty", hint=f'printf %s "$TOKEN" | remit secret put {name}')
        if len(value) > MAX_SECRET_BYTES:
            raise Invalid(f"the secret is longer than {MAX_SECRET_BYTES} bytes")
        blob = self._sealer.seal(name, value)
        with self._store.unit() as unit:
            total = len(blob) + sum(len(secret.blob) for secret in unit.secrets.all() if secret.name != name)
        if total > MAX_SECRETS_BYTES:
            raise Conflict(f"the secrets would take {total} bytes together; at most {MAX_SECRETS_BYTES} can be kept")
        record = await self._recorder.before("secret.put", operator, f"secret {name} stored", secret=name)
        with self._store.unit() as unit:
            unit.secrets.put(SealedSecret(name=name, blob=blob, updated=self._clock.now()))
            unit.advance_epoch(self._clock.now())
        await self._publisher.publish()
        return record

    async def remove(self, name: str, *, operator: str) -> str:
        with self._store.unit() as unit:
            if not unit.secrets.remove(name):
                raise NotFound(f"there is no secret {ascii(name[:80])[1:-1]}", hint="remit secret list")
            unit.advance_epoch(self._clock.now())
        await self._publisher.publish()
        return await self._recorder.after("secret.remove", operator, f"secret {name} removed", secret=name)

    def all(self) -> Sequence[Stored]:
        with self._store.unit() as unit:
            rules = self._catalog.rules(unit)
            return [
                Stored(
                    name=secret.name,
                    updated=secret.updated,
                    credentials=tuple(sorted(c.name for c in rules.credentials.values() if c.secret == secret.name)),
                )
                for secret in unit.secrets.all()
            ]

    def needed(self) -> Sequence[str]:
        """Names of secrets that credentials want and nobody has stored."""
        with self._store.unit() as unit:
            have = {secret.name for secret in unit.secrets.all()}
            return sorted({c.secret for c in self._catalog.rules(unit).credentials.values() if not c.source} - have)
