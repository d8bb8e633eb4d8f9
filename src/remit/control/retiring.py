"""Records that were carried elsewhere leave the log: never others, and never without a record of it.

Whoever asks shows what he has: that his export begins where the log begins, and the hash of its last record, which
stands for all before it. The node looks once more before it records, and removes after that.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from remit.control.ports_audit import Audit, Retirable
from remit.control.recording import Recorder

ACTION = "audit.retire"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file of the whole log, from record `first` to `last`, whose hash is `digest`; `sha256` is of the rows."""

    first: int
    last: int
    digest: str
    sha256: str


class Retiring:
    def __init__(self, *, audit: Audit, recorder: Recorder) -> None:
        self._audit = audit
        self._recorder = recorder

    async def retire(self, exported: Exported, *, before: datetime | None, operator: str) -> tuple[Retirable, str]:
        """(what goes, id of the record). `Conflict`, `NotFound`: see `Audit.retirable`. `Unavailable`: nothing goes."""
        going = await self._audit.retirable(
            first=exported.first, last=exported.last, digest=exported.digest, before=before
        )
        detail = f"records up to {going.seq} retired: an export has them"
        record = await self._recorder.before(
            ACTION,
            operator,
            detail,
            segment=going.segment,
            through=going.seq,
            through_hash=going.hash,
            export_sha256=exported.sha256,
        )
        return going, record
