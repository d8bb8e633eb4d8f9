"""`control.ports_audit.Audit` for who follows: the log on disk and the one in memory say the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from audit_log import DECISION, journal

from remit.audit.reader import Reader
from remit.control.ports import Entry
from remit.control.ports_audit import Audit, AuditFilter
from remit.testing.audit import MemoryAudit

Write = Callable[[str], Awaitable[None]]


@pytest.fixture(params=["memory", "disk"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Audit, Write]]:
    """An empty log, and what writes a decision of a role into it."""
    if request.param == "memory":
        memory = MemoryAudit()

        async def added(role: str) -> None:
            seq = len(memory.records) + 1
            await memory.add({**DECISION, "kind": "decision", "id": f"r-{seq:010}", "seq": seq, "role": role})

        yield memory, added
        return
    reader = Reader(directory=tmp_path / "audit", file=tmp_path / "index.db")
    with journal(tmp_path, 1 << 16) as written:

        async def appended(role: str) -> None:
            await written.append(written.new_id(), Entry(kind="decision", fields={**DECISION, "role": role}))

        yield reader, appended
    reader.close()


async def heard(following: AsyncIterator[Mapping[str, Any]], count: int) -> list[str]:
    async with asyncio.timeout(60):
        return [str((await anext(following))["role"]) for _ in range(count)]


async def test_who_breaks_off_goes_on_behind_what_was_heard(log: tuple[Audit, Write]) -> None:
    audit, write = log
    for role in ("a", "b"):
        await write(role)
    begin = str(await audit.last())
    following = audit.follow(AuditFilter(after=begin))
    await write("c")
    assert await heard(following, 1) == ["c"], "not what was before"
    position = str(await audit.last())
    for role in ("d", "e"):
        await write(role)
    again = audit.follow(AuditFilter(after=position))
    assert await heard(again, 2) == ["d", "e"], "each once"
    await write("f")
    assert await heard(again, 1) == ["f"]
    assert await heard(audit.follow(AuditFilter(after=begin, role="e")), 1) == ["e"]


async def test_the_position_of_another_longer_log_is_now(log: tuple[Audit, Write]) -> None:
    audit, write = log
    await write("a")
    following = audit.follow(AuditFilter(after="999999"))
    upcoming = asyncio.ensure_future(heard(following, 1))
    last = await audit.last()
    while not upcoming.done():  # it begins where the log ends, whenever it looks
        await write("b")
        await asyncio.wait([upcoming], timeout=0.05)
    assert await upcoming == ["b"] and await audit.last() > last


async def test_an_empty_log_begins_at_zero(log: tuple[Audit, Write]) -> None:
    audit, write = log
    begin = await audit.last()
    await write("a")
    assert begin in (0, 1), "a log on disk opens with a record of its own"
    assert await heard(audit.follow(AuditFilter(after=str(begin), kind="decision")), 1) == ["a"]
