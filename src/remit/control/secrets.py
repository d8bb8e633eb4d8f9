"""Secrets on their way into the sealed store: sealed at once, never shown, never in an error or a record."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from remit.control.catalog import Catalog
from remit.control.ports import Clock
from remit.control.ports_control import Node, SealedSecret, Sealer, Store, Unit
from remit.control.publish import Publisher
from remit.control.recording import Recorder
from remit.core import expiry
from remit.core.claims import ROLE_NAME
from remit.core.errors import Conflict, Invalid, NotFound
from remit.core.expiry import Nearness
from remit.core.source import MAX_KEPT_BYTES
from remit.policy import quantity

MAX_SECRETS_BYTES = 4 << 20
"""All of them, sealed: they travel in the snapshot (`core.frame` bounds it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """`credentials`: the names of those that use it. `created`: of its first version, `updated`: of this one."""

    name: str
    version: int
    created: datetime
    updated: datetime
    expires: datetime | None
    nearness: Nearness
    credentials: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A secret as it was just stored; `record` is the audit record's id."""

    version: int
    expires: datetime | None
    record: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rekeyed:
    """`secrets`: how many were sealed anew."""

    secrets: int
    record: str


class Secrets:
    """For one event loop: what is written is written one after the other."""

    def __init__(
        self,
        *,
        store: Store,
        publisher: Publisher,
        recorder: Recorder,
        sealer: Sealer,
        catalog: Catalog,
        clock: Clock,
        node: Node,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._recorder = recorder
        self._sealer = sealer
        self._catalog = catalog
        self._clock = clock
        self._node = node
        self._writing = asyncio.Lock()

    async def put(self, name: str, value: bytes, *, operator: str, expires: datetime | None = None) -> Kept:
        """Seal and keep `value`, replacing what was there. `expires`: its end, where its text tells none before."""
        _named(name)
        return await self._keep("secret.put", name, value, expires, operator)

    async def rotate(self, name: str, value: bytes, *, operator: str, expires: datetime | None = None) -> Kept:
        """A new version of what is there (`NotFound`: nothing is): used from the next request on, nothing is cut."""
        with self._store.unit() as unit:
            _there(unit, name)
        return await self._keep("secret.rotate", name, value, expires, operator)

    async def remove(self, name: str, *, operator: str) -> str:
        async with self._writing:
            with self._store.unit() as unit:
                there = _there(unit, name)
            await self._sealer.forget(name, there.blob)
            with self._store.unit() as unit:
                if not unit.secrets.remove(name):
                    raise _unknown(name)
                unit.advance_epoch(self._clock.now())
            await self._publisher.publish()
        return await self._recorder.after("secret.remove", operator, f"secret {name} removed", secret=name)

    async def rekey(self, *, operator: str) -> Rekeyed:
        """Seal every secret for a new key of the node and have it forget the one before.

        Interrupted, or refused (`Conflict`, `Unavailable`), both keys open; done again, it goes on from there.
        """
        async with self._writing:
            record = await self._recorder.before("secret.rekey", operator, "a new sealing key")
            await self._node.rekey("begin")
            with self._store.unit() as unit:
                found = unit.secrets.all()
            anew = [replace(one, blob=await self._node.rekey("reseal", one.name, one.blob)) for one in found]
            with self._store.unit() as unit:
                for one in anew:
                    unit.secrets.put(one)
                unit.advance_epoch(self._clock.now())
            await self._publisher.publish()
            await self._node.rekey("end")
        changed = sum(one.blob != before.blob for one, before in zip(anew, found, strict=True))
        return Rekeyed(secrets=changed, record=record)

    async def test(self, name: str, *, operator: str) -> Sequence[Mapping[str, Any]]:
        """Whether each credential that uses secret (or is called) `name` could be had now; the node tries it."""
        wanted = self.credentials(name)
        if not wanted:
            raise Conflict(f"no credential uses secret {name}, so nothing can be tried", hint="remit apply -f FILE")
        found = await self._node.probe(wanted)
        ok = all(one.get("ok") is True for one in found)
        await self._recorder.after(
            "secret.test", operator, f"secret {name} tried: {'usable' if ok else 'not usable'}", secret=name
        )
        return found

    def end(self, text: str) -> datetime:
        """`text` as a moment: ISO 8601 (a date, or a time with its zone), or how long from now (`90d`, `12h`).

        `Invalid`: it is neither.
        """
        with contextlib.suppress(ValueError):
            return self._clock.now() + timedelta(seconds=quantity.duration_s(text))
        with contextlib.suppress(ValueError):
            found = datetime.fromisoformat(text)
            if found.tzinfo is not None or len(text) == len("2026-01-01"):
                return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)
        raise Invalid(f"{text[:40]!a} is no end", hint="2027-01-31, 2027-01-31T12:00:00Z, 90d or 12h")

    def credentials(self, name: str) -> Sequence[str]:
        """Credentials that use secret `name`, or the one of that name. `NotFound`: there is neither."""
        with self._store.unit() as unit:
            rules = self._catalog.rules(unit)
            using = rules.presenting(name)
            if not using and name in rules.credentials:
                return [name]
            if not using:
                _there(unit, name)
            return using

    def all(self) -> Sequence[Stored]:
        now = self._clock.now()
        with self._store.unit() as unit:
            rules = self._catalog.rules(unit)
            return [
                Stored(
                    name=secret.name,
                    version=secret.version,
                    created=secret.created or secret.updated,
                    updated=secret.updated,
                    expires=secret.expires,
                    nearness=expiry.nearness(secret.expires, now),
                    credentials=rules.presenting(secret.name),
                )
                for secret in unit.secrets.all()
            ]

    def needed(self) -> Sequence[str]:
        """Names of secrets that credentials want and nobody has stored."""
        with self._store.unit() as unit:
            have = {secret.name for secret in unit.secrets.all()}
            return sorted({c.secret for c in self._catalog.rules(unit).credentials.values() if c.secret} - have)

    async def _keep(self, action: str, name: str, value: bytes, expires: datetime | None, operator: str) -> Kept:
        now = self._clock.now()
        if not value:
            raise Invalid("the secret is empty", hint=f'printf %s "$TOKEN" | remit secret put {name}')
        if len(value) > MAX_KEPT_BYTES:
            raise Invalid(f"the secret is longer than {MAX_KEPT_BYTES} bytes")
        ends = [end for end in (expires, expiry.told(value)) if end is not None]
        end = min(ends, default=None)
        if end is not None and end <= now:
            raise Invalid(f"the secret has expired already ({end.isoformat(timespec='seconds')})")
        async with self._writing:
            return await self._sealed(action, name, value, end, operator)

    async def _sealed(self, action: str, name: str, value: bytes, end: datetime | None, operator: str) -> Kept:
        blob, now = await self._sealer.seal(name, value), self._clock.now()
        with self._store.unit() as unit:
            total = len(blob) + sum(len(secret.blob) for secret in unit.secrets.all() if secret.name != name)
        if total > MAX_SECRETS_BYTES:
            raise Conflict(f"the secrets would take {total} bytes together; at most {MAX_SECRETS_BYTES} can be kept")
        done = "stored" if action == "secret.put" else "rotated"
        record = await self._recorder.before(action, operator, f"secret {name} {done}", secret=name)
        with self._store.unit() as unit:
            before = unit.secrets.get(name)
            version = before.version + 1 if before is not None else 1
            created = (before.created or before.updated) if before is not None else now
            unit.secrets.put(
                SealedSecret(name=name, blob=blob, updated=now, version=version, created=created, expires=end)
            )
            unit.advance_epoch(now)
        await self._publisher.publish()
        return Kept(version=version, expires=end, record=record)


def _named(name: str) -> None:
    if not ROLE_NAME.fullmatch(name):
        raise Invalid("the name of a secret is 1 to 63 lower-case letters, digits and hyphens")


def _there(unit: Unit, name: str) -> SealedSecret:
    found = unit.secrets.get(name)
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no secret {ascii(name[:80])[1:-1]}", hint="remit secret list")
