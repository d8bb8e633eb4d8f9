"""A real audit log in a directory, for the tests that read, damage or fill one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from remit.audit import head, segments
from remit.audit.journal import Journal
from remit.control.ports import Entry

DECISION = {"task": "t-aaaaaaaaaa", "role": "devops", "decision": "permit", "reason": "permitted", "host": "a.com"}


@contextmanager
def journal(
    directory: Path,
    segment_bytes: int = 4096,
    *,
    checkpoint: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
) -> Iterator[Journal]:
    """Inside a running loop. The log is in `directory`/audit."""
    directory.mkdir(exist_ok=True)
    signer = head.Signer(directory / "head.key")
    opened = Journal(
        directory / "audit", segment_bytes=segment_bytes, signer=signer, now=lambda: datetime.now(UTC),
        checkpoint=checkpoint,
    )  # fmt: skip
    try:
        yield opened
    finally:
        opened.close()


async def filled(directory: Path, count: int = 40, segment_bytes: int = 4096) -> dict[str, Any]:
    """Append `count` decisions one by one, close; the signed head."""
    with journal(directory, segment_bytes) as log:
        for number in range(count):
            await log.append(log.new_id(), Entry(kind="decision", fields={**DECISION, "number": number}))
        signed = log.head()
        assert signed is not None
        return signed


def content(directory: Path) -> bytes:
    """All segments, one after the other."""
    audit = directory / "audit"
    return b"".join(segments.path(audit, number).read_bytes() for number in segments.numbers(audit))
