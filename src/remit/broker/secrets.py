"""The secret for a permit: no permit, no secret.

Opened values live in memory only: sealed ones while the blob they came from is the current one, others until the end
that their source gave them (`cache`). The credential's pins and its revocation are looked at here once more, next to
the secret: a mistake elsewhere must not hand it out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from remit.broker.cache import NEVER, Cache, Expired, Key, Material
from remit.broker.exchanger import Exchanger
from remit.broker.openbao import reference
from remit.broker.sealed import Opener
from remit.control.ports import Secrets
from remit.core.credential import Credential, Injection
from remit.core.decision import Permit
from remit.core.errors import Unavailable
from remit.core.reason import Reason, Refusal
from remit.core.secret import Secret
from remit.core.snapshot import Rules, Snapshot
from remit.core.source import Kv, Lease, Source
from remit.core.task import ALIVE

log = logging.getLogger(__name__)

PROBE_S = 8.0
NO_STORE = "this node has no OpenBao (settings secrets and openbao_file)"


class Remote(Protocol):
    """A store beside the node (`openbao.source.OpenBao`)."""

    async def obtain(self, source: Source, task: str, credential: str) -> Material:
        """What `source` holds, or makes for `task`. Raises `Unavailable` with the reason."""
        ...

    async def probe(self, source: Source) -> Material:
        """As `obtain`, for nobody: what is made for it is taken back before it returns."""
        ...

    def keep(self, wanted: Callable[[str, str], bool], alive: frozenset[str]) -> None:
        """Take back what tasks not in `alive` hold, and every lease that is not `wanted` (task, credential)."""
        ...


class _End(NamedTuple):
    """`until`: monotonic seconds."""

    time: datetime
    until: float


class Broker:
    """`control.ports.Secrets` over the sealed blobs of the snapshot and a store. For one event loop.

    `monotonic`: seconds that go on while the machine sleeps. `wall`: seconds since 1970, for ends that secrets have.
    """

    def __init__(self, opener: Opener, monotonic: Callable[[], float], wall: Callable[[], float] = time.time) -> None:
        self._opener = opener
        self._monotonic = monotonic
        self._wall = wall
        self._rules = Rules()
        self._ends: dict[str, _End] = {}
        self._remote: Remote | None = None
        self._own = False
        self._exchanger: Exchanger | None = None
        self._cache = Cache(self._obtained, monotonic)
        self._blobs: Mapping[str, bytes] = {}
        self._kept: dict[str, Kv] = {}
        """Secrets of which the snapshot has a reference alone, by name."""
        self._sourced: dict[str, Credential] = {}
        self._revoked: frozenset[str] = frozenset()
        self._opened: dict[str, tuple[bytes, Secret | Refusal]] = {}
        self._fit: dict[tuple[str, Injection, bool], Refusal | None] = {}

    def attach(self, remote: Remote, *, own: bool = False) -> None:
        """Use `remote` for what is not sealed. `own`: the node's, which `openbao.reference` refers to."""
        self._remote, self._own = remote, own

    def exchange_with(self, exchanger: Exchanger) -> None:
        """Use `exchanger` for what is not presented as it is stored."""
        self._exchanger = exchanger

    def rejected(self, name: str) -> None:
        """A server answered 401 to what was presented for credential `name`."""
        self._cache.doubt(lambda key, by: key[0] == name and (by.exchange is not None or by.source is not None))

    def renewed(self, task: str, name: str, until: float, soon: bool) -> None:
        """The lease of credential `name` that `task` holds lasts until then; `soon`: another one is wanted."""
        self._cache.prolong((name, task), until=until, again=0.0 if soon else NEVER)

    def update(self, snapshot: Snapshot) -> None:
        """Use the blobs of `snapshot` from now on; forget what was opened from others."""
        before = self._blobs
        self._blobs, self._revoked = snapshot.sealed, snapshot.revoked.credentials
        self._rules, self._ends = snapshot.rules, self._counted(snapshot.expires)
        self._opened = {name: kept for name, kept in self._opened.items() if self._blobs.get(name) == kept[0]}
        self._fit = {}
        known = ((name, reference.source(name, blob)) for name, blob in self._blobs.items())
        self._kept = {name: at for name, at in known if at is not None} if self._own else {}
        self._sourced = {}
        rules, revoked = snapshot.rules, self._revoked
        replaced = {name for name in {*before, *self._blobs} if before.get(name) != self._blobs.get(name)}
        alive = frozenset(task.id for task in snapshot.tasks.values() if task.state in ALIVE)

        def stale(key: Key, by: Credential) -> bool:
            _, task = key
            if by.secret in replaced:
                return True
            now = rules.credentials.get(by.name)
            return by.name in revoked or now is None or self._at(now) != by or bool(task and task not in alive)

        self._cache.forget(stale)
        if self._remote is not None:
            self._remote.keep(lambda task, name: name in rules.credentials and name not in revoked, alive)

    def lease(self, permit: Permit) -> Secret | Refusal | None:
        wanted = self._usable(permit)
        if isinstance(wanted, Refusal):
            return wanted
        if wanted.source is not None or wanted.exchange is not None:
            return self._cache.get(_key(wanted, permit), wanted, permit)
        found = self._found(wanted.secret)
        if isinstance(found, Refusal):
            return found
        return self._unfit(wanted, found) or found

    async def obtain(self, permit: Permit, *, patient: bool = False) -> Secret | Refusal | None:
        found = self.lease(permit)
        if found is not None:
            return found
        wanted = self._usable(permit)
        if isinstance(wanted, Refusal):
            return wanted
        found = await self._cache.obtain(_key(wanted, permit), wanted, permit, patient=patient)
        again = self._usable(permit)  # it may have been revoked meanwhile
        return again if isinstance(again, Refusal) else found

    async def close(self) -> None:
        await self._cache.close()

    async def _obtained(self, permit: Permit) -> Material:
        assert permit.credential is not None
        wanted = self._at(permit.credential)
        if wanted.source is None:
            material = self._sealed(wanted)
        elif self._remote is None:
            raise Unavailable(NO_STORE, hint="docs/guide, OpenBao")
        else:
            material = await self._remote.obtain(wanted.source, permit.candidate.task.id, wanted.name)
        if wanted.exchange is not None:
            if self._exchanger is None:
                raise Unavailable(f"credential {wanted.name}: this node exchanges no secrets")
            material = self._bounded(wanted, material)
            exchanged = await self._exchanger.obtain(wanted, wanted.exchange, material.value.reveal(permit))
            material = replace(exchanged, until=min(exchanged.until, material.until))
        why = material.value.unfit(wanted)
        if why is not None:
            raise Unavailable(f"credential {wanted.name}: {why}")
        return self._bounded(wanted, material)

    def _bounded(self, wanted: Credential, material: Material) -> Material:
        """`material`, for no longer than its own text says, or whoever stored it. `Expired`: that is over."""
        told = material.value.end()
        stored = self._ends.get(wanted.secret) if wanted.secret else None
        left = min(
            self._left(stored) if stored is not None else NEVER,
            told.timestamp() - self._wall() if told is not None else NEVER,
        )
        if left <= 0:
            raise Expired(f"what the source of credential {wanted.name} gives has expired")
        return replace(material, until=min(material.until, self._monotonic() + left))

    def _counted(self, expires: Mapping[str, datetime]) -> dict[str, _End]:
        """Ends, each counted from when it was first seen: a clock that is set back makes nothing live longer."""
        now, wall, before = self._monotonic(), self._wall(), self._ends
        return {
            name: known
            if (known := before.get(name)) is not None and known.time == time
            else _End(time, now + time.timestamp() - wall)
            for name, time in expires.items()
        }

    def _left(self, end: _End) -> float:
        return min(end.until - self._monotonic(), end.time.timestamp() - self._wall())

    async def probe(self, name: str) -> Mapping[str, Any]:
        """Whether credential `name` could be had now, without its value: {"credential", "ok", "detail", "source",
        "hosts", "expires"}. A lease is made for it, and taken back; what is exchanged is not. Never raises."""
        wanted = self._rules.credentials.get(name)
        if wanted is None:
            return {"credential": name, "ok": False, "detail": "this node knows no such credential"}
        wanted = self._at(wanted)
        source = f"sealed {wanted.secret}" if wanted.source is None else f"openbao {wanted.source}"
        said = {"credential": name, "source": source, "hosts": list(wanted.hosts), "expires": None}
        try:
            async with asyncio.timeout(PROBE_S):
                end = await self._tried(wanted)
        except TimeoutError:
            return {**said, "ok": False, "detail": f"the source has not answered within {PROBE_S:g} s"}
        except Unavailable as error:
            return {**said, "ok": False, "detail": error.detail}
        except Exception as error:  # its text may hold what was being handled
            log.error("credential %s could not be tried: %s", name, type(error).__name__)
            return {**said, "ok": False, "detail": "it could not be tried (the log of decide says more)"}
        detail = "" if wanted.exchange is None else "what it is exchanged for was not asked for"
        return {**said, "ok": True, "detail": detail, "expires": _shown(end) if end is not None else None}

    async def _tried(self, wanted: Credential) -> datetime | None:
        """When it would end. `Unavailable` where it could not be had."""
        if wanted.invalid is not None:
            raise Unavailable(wanted.invalid)
        if wanted.name in self._revoked:
            raise Unavailable(f"credential {wanted.name} was revoked")
        if wanted.source is not None and self._remote is None:
            raise Unavailable(NO_STORE)
        if wanted.source is not None and self._remote is not None:
            material = await self._remote.probe(wanted.source)
        else:
            material = self._sealed(wanted)
        why = material.value.unfit(wanted) if wanted.exchange is None else None
        if why is not None:
            raise Unavailable(why)
        until = self._bounded(wanted, material).until
        if until == NEVER or (
            isinstance(wanted.source, Kv) and material.value.end() is None and wanted.secret not in self._ends
        ):
            return None
        return datetime.fromtimestamp(self._wall() + until - self._monotonic(), UTC)

    def _sealed(self, wanted: Credential) -> Material:
        found = self._found(wanted.secret)
        if isinstance(found, Refusal):
            kind = Expired if found.reason is Reason.CREDENTIAL_EXPIRED else Unavailable
            raise kind(found.detail)
        return Material(value=found, until=NEVER, again=NEVER)

    def _usable(self, permit: Permit) -> Credential | Refusal:
        wanted = permit.credential
        if wanted is None:
            return Refusal(Reason.CREDENTIAL_UNAVAILABLE, "this permit carries no credential")
        if wanted.name in self._revoked:
            return Refusal(Reason.CREDENTIAL_REVOKED, f"credential {wanted.name} was revoked")
        host = permit.candidate.request.host
        if not wanted.pinned_to(host):
            return Refusal(Reason.CREDENTIAL_NOT_PINNED, f"credential {wanted.name} is not pinned to {host}")
        return self._at(wanted) if self._kept else wanted

    def _at(self, wanted: Credential) -> Credential:
        """`wanted` with where its secret is, if that is the node's own OpenBao."""
        if wanted.source is not None or wanted.secret not in self._kept:
            return wanted
        known = self._sourced.get(wanted.name)
        if known is None or replace(known, source=None) != wanted:
            known = self._sourced[wanted.name] = replace(wanted, source=self._kept[wanted.secret])
        return known

    def _found(self, name: str) -> Secret | Refusal:
        blob = self._blobs.get(name)
        if blob is None:
            return Refusal(Reason.CREDENTIAL_UNAVAILABLE, f"no secret {name} is stored")
        end = self._ends.get(name)
        if end is not None and self._left(end) <= 0:
            self._opened.pop(name, None)
            return Refusal(Reason.CREDENTIAL_EXPIRED, f"secret {name} expired at {_shown(end.time)}")
        kept = self._opened.get(name)
        if kept is None or kept[0] != blob:
            kept = self._opened[name] = (blob, self._open(name, blob))
        return kept[1]

    def _open(self, name: str, blob: bytes) -> Secret | Refusal:
        if reference.source(name, blob) is not None:
            detail = f"secret {name} is in the node's own OpenBao, which does not run (remit up --secrets openbao)"
            return Refusal(Reason.CREDENTIAL_UNAVAILABLE, detail)
        try:
            return self._opener.open(name, blob)
        except Unavailable as error:
            return Refusal(Reason.CREDENTIAL_UNAVAILABLE, error.detail)

    def _unfit(self, wanted: Credential, secret: Secret) -> Refusal | None:
        key = (wanted.secret, wanted.injection, wanted.scrub)
        if key not in self._fit:
            why = secret.unfit(wanted)
            said = f"secret {wanted.secret}: {why}"
            self._fit[key] = Refusal(Reason.CREDENTIAL_UNAVAILABLE, said) if why is not None else None
        return self._fit[key]


def _shown(end: datetime) -> str:
    return end.astimezone(UTC).isoformat(timespec="seconds")


def _key(wanted: Credential, permit: Permit) -> Key:
    """What is stored is the same for every task; what is made is made for one."""
    return wanted.name, permit.candidate.task.id if isinstance(wanted.source, Lease) else ""


_: type[Secrets] = Broker
