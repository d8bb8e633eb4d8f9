"""Whoever watches approvals learns of each and of every change, and of nothing twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from questions import ALICE, Asked, begin

from remit.control.ports_control import RevocationKind
from remit.core.approval import Approval
from remit.core.errors import Unavailable
from remit.core.grant import Scope


class Watcher:
    def __init__(self, asked: Asked) -> None:
        self._following = asked.plane.services.watching.follow(asked.approvals)

    async def told(self) -> tuple[str, str]:
        async with asyncio.timeout(30):
            one: Approval = await anext(self._following)
        return one.id, one.state.value


async def test_each_approval_is_told_as_it_comes_and_as_it_changes(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    first = (await asked.ask()).approval
    watcher, other = Watcher(asked), Watcher(asked)
    assert await watcher.told() == await other.told() == (first, "pending")
    upcoming = asyncio.ensure_future(watcher.told())
    second = (await asked.ask(path="/repos/b")).approval
    assert await upcoming == (second, "pending")
    upcoming = asyncio.ensure_future(watcher.told())
    await asked.approvals.approve(first, scope=Scope.ONCE, who=ALICE)
    assert await upcoming == (first, "approved")
    upcoming = asyncio.ensure_future(watcher.told())
    await asked.approvals.deny(second, who=ALICE)
    assert await upcoming == (second, "denied")
    assert {await other.told(), await other.told()} == {(first, "approved"), (second, "denied")}, "the last word each"


async def test_what_nobody_answered_and_what_a_task_left_behind_is_told_too(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    one = (await asked.ask()).approval
    watcher = Watcher(asked)
    assert await watcher.told() == (one, "pending")
    upcoming = asyncio.ensure_future(watcher.told())
    await asked.plane.services.revoking.revoke(RevocationKind.TASK, asked.question.task, operator="bob")
    await asked.approvals.sweep()
    assert await upcoming == (one, "withdrawn")


async def test_those_who_ask_and_are_told_elsewhere_still_are(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    one = (await asked.ask()).approval
    await asked.approvals.deny(one, who=ALICE)
    assert [notice.approval.id for notice in asked.plane.told.notices] == [one]
    assert asked.question.task in asked.plane.rung


async def test_a_watcher_that_goes_leaves_nothing_behind(tmp_path: Path) -> None:
    asked = await begin(tmp_path)
    watcher = Watcher(asked)
    upcoming = asyncio.ensure_future(watcher.told())
    await asyncio.sleep(0)
    upcoming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upcoming
    assert asked.plane.services.watching.watchers == 0


async def test_a_store_that_cannot_be_read_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = await begin(tmp_path)

    def gone(*, pending_only: bool) -> list[Approval]:
        raise Unavailable("the database cannot be read")

    monkeypatch.setattr(asked.approvals, "all", gone)
    with pytest.raises(Unavailable):
        await Watcher(asked).told()
