"""What every journal keeps to: the one on files and the one in memory."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from audit_log import DECISION, journal

from remit.control.ports import Entry, Journal
from remit.testing import MemoryJournal


@pytest.fixture(params=["files", "memory"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    if request.param == "memory":
        yield MemoryJournal()
        return
    with journal(tmp_path) as opened:
        yield opened


async def test_ids_are_new_sortable_and_known_beforehand(log: Journal) -> None:
    ids = [log.new_id() for _ in range(100)]
    assert ids == sorted(set(ids))
    assert all(one.startswith("r-") and one.isascii() and len(one) <= 64 for one in ids)


@pytest.mark.parametrize("kind", ["decision", "completion", "operator", "dns", "boundary"])
async def test_every_kind_can_be_written(log: Journal, kind: str) -> None:
    await log.append(log.new_id(), Entry(kind=kind, fields=DECISION))


async def test_many_can_write_at_once(log: Journal) -> None:
    await asyncio.gather(*(log.append(log.new_id(), Entry(kind="decision", fields=DECISION)) for _ in range(200)))
