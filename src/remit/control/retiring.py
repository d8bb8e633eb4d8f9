"""Records that were carried elsewhere leave the log: never others, and never without a record of it.

Whoever asks shows what he has: that his export begins where the log begins, and the hash of its last record, which
stands for all before it. The node looks once more before it records, and removes after that. What an operator has
acknowledged, that an export of it is kept, goes by itself where settings bound the log.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from remit.control.ports import Clock
from remit.control.ports_audit import Audit, Retirable
from remit.control.ports_control import Acknowledged, Store
from remit.control.recording import Recorder
from remit.core.errors import Conflict

log = logging.getLogger(__name__)

ACTION = "audit.retire"
OPERATOR = "remit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file of the whole log, from record `first` to `last`, whose hash is `digest`; `sha256` is of the rows."""

    first: int
    last: int
    digest: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How old acknowledged records may become, and how large the log with them; None: without bound."""

    age_s: float | None = None
    size_bytes: int | None = None


class Retiring:
    def __init__(self, *, audit: Audit, recorder: Recorder, store: Store, clock: Clock, bounds: Bounds) -> None:
        self._audit = audit
        self._recorder = recorder
        self._store = store
        self._clock = clock
        self._refused: int | None = None
        self.bounds = bounds

    async def retire(self, exported: Exported, *, before: datetime | None, operator: str) -> tuple[Retirable, str]:
        """(what goes, id of the record). `Conflict`, `NotFound`: see `Audit.retirable`. `Unavailable`: nothing goes."""
        going = await self._audit.retirable(
            first=exported.first, last=exported.last, digest=exported.digest, before=before
        )
        detail = f"records up to {going.seq} retired: an export has them"
        return going, await self._record(going, operator, detail, exported.sha256)

    async def acknowledge(self, exported: Exported, *, operator: str) -> Acknowledged:
        """An export is kept: what it has may go by itself. Later ones continue it.

        `Conflict`: it is no export of this log, or there is a gap between it and what was acknowledged.
        """
        before = self.acknowledged()
        if before is not None and not await self._stands(before):
            before = None
        since = before.last if before is not None else 0
        await self._audit.continues(first=exported.first, last=exported.last, digest=exported.digest, since=since)
        if before is not None and exported.last <= before.last:
            raise Conflict(f"records up to {before.last} are acknowledged already", hint="remit audit retention")
        record = await self._recorder.before(
            "audit.acknowledge",
            operator,
            f"an export of the log up to record {exported.last} is kept elsewhere",
            first=exported.first,
            last=exported.last,
            last_hash=exported.digest,
            export_sha256=exported.sha256,
        )
        kept = Acknowledged(
            last=exported.last, digest=exported.digest, sha256=exported.sha256, operator=operator, record=record
        )
        with self._store.unit() as unit:
            unit.acknowledgements.put(kept)
        return kept

    async def _stands(self, kept: Acknowledged) -> bool:
        """Whether it is of this log as it stands, and not of one that was moved away."""
        try:
            await self._audit.continues(first=kept.last, last=kept.last, digest=kept.digest, since=kept.last)
        except Conflict:
            return False
        return True

    def acknowledged(self) -> Acknowledged | None:
        """The latest; None where there is none."""
        with self._store.unit() as unit:
            return unit.acknowledgements.get()

    async def bound(self) -> Retirable | None:
        """Retire what is beyond the bounds and was acknowledged; what went. `Unavailable`: it goes another time."""
        bounds = self.bounds
        if bounds.age_s is None and bounds.size_bytes is None:
            return None
        kept = self.acknowledged()
        if kept is None or kept.last == self._refused:
            return None
        before = self._clock.now() - timedelta(seconds=bounds.age_s) if bounds.age_s is not None else None
        try:
            going = await self._audit.expendable(
                through=kept.last, digest=kept.digest, before=before, keep_bytes=bounds.size_bytes
            )
        except Conflict as error:
            self._refused = kept.last
            log.error("nothing is retired, the acknowledged export is of another log: %s", error.detail)
            return None
        if going is None:
            return None
        detail = (
            f"records up to {going.seq} retired by retention: {kept.operator} keeps an export (record {kept.record})"
        )
        await self._record(going, OPERATOR, detail, kept.sha256)
        return going

    async def _record(self, going: Retirable, operator: str, detail: str, sha256: str) -> str:
        return await self._recorder.before(
            ACTION,
            operator,
            detail,
            segment=going.segment,
            through=going.seq,
            through_hash=going.hash,
            export_sha256=sha256,
        )
