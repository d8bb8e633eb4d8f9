"""Tasks that tasks ask for: within bounds, recorded where refused, ended with whoever waits for them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import control_plane
import pytest
from control_plane import Plane

from remit.control import delegates
from remit.control.delegates import Asker, Refused
from remit.control.ports_delegates import Child, Wanted
from remit.core.errors import Conflict, Invalid, NotFound, RemitError, Unavailable
from remit.core.reason import Reason

MANIFESTS = [
    {"apiVersion": "remit.dev/v1alpha1", "kind": "Role", "metadata": {"name": name}, "spec": {"delegates": ["lead", "notifier"], "maxDepth": 8}}
    for name in ("lead", "notifier")
]  # fmt: skip
WANTED = Wanted(role="notifier", command=("true",))


@pytest.fixture
async def plane(tmp_path: Path) -> Plane:
    plane = control_plane.build(tmp_path)
    await plane.services.manifests.apply(MANIFESTS, operator="ann")
    return plane


async def asker(plane: Plane, parent: str | None = None) -> Asker:
    task = (await plane.services.tasks.create("lead", ["sh"], operator="ann", parent=parent)).task
    plane.services.tasks.started(task.id)
    return Asker(task=task.id, record="r-1")


@contextlib.asynccontextmanager
async def many(plane: Plane, who: Asker, count: int) -> AsyncIterator[list[Child | Refused]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(plane.services.delegates.child(who, WANTED)) for _ in range(count)]


def reasons(found: list[Child | Refused]) -> set[Reason]:
    return {one.refusal.reason for one in found if isinstance(one, Refused)}


async def test_a_child_lives_while_somebody_waits(plane: Plane) -> None:
    who = await asker(plane)
    async with plane.services.delegates.child(who, WANTED) as child:
        assert not isinstance(child, Refused)
        assert plane.children.started == [(who.task, "r-1", WANTED)]
        assert not plane.children.children[0].ended.is_set()
    assert plane.children.children[0].ended.is_set()


async def test_children_at_once_are_bounded_and_room_returns(plane: Plane) -> None:
    who = await asker(plane)
    async with many(plane, who, delegates.MAX_AT_ONCE + 1) as found:
        assert [isinstance(one, Refused) for one in found] == [False] * delegates.MAX_AT_ONCE + [True]
        assert reasons(found) == {Reason.DELEGATIONS_EXCEEDED}
        assert isinstance(found[-1], Refused)
        assert f"{delegates.MAX_AT_ONCE} children at once" in found[-1].refusal.detail
    async with many(plane, who, 1) as found:
        assert reasons(found) == set()


async def test_a_tree_is_bounded_however_it_branches(plane: Plane) -> None:
    top = await asker(plane)
    below = [await asker(plane, top.task) for _ in range(delegates.MAX_IN_TREE // delegates.MAX_AT_ONCE + 1)]
    async with contextlib.AsyncExitStack() as stack:
        found: list[Child | Refused] = []
        for one in below:
            found += await stack.enter_async_context(many(plane, one, delegates.MAX_AT_ONCE))
        assert sum(not isinstance(one, Refused) for one in found) == delegates.MAX_IN_TREE
        last = found[-1]
        assert isinstance(last, Refused)
        assert f"below task {top.task}" in last.refusal.detail
        async with many(plane, await asker(plane), 1) as other:
            assert reasons(other) == set(), "another tree has room"


async def test_a_node_is_bounded_whosever_trees_they_are(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegates, "MAX_ON_NODE", 3)
    async with many(plane, await asker(plane), 2) as first, many(plane, await asker(plane), 2) as second:
        assert [isinstance(one, Refused) for one in (*first, *second)] == [False, False, False, True]
        assert reasons(second) == {Reason.DELEGATIONS_EXCEEDED}
    async with many(plane, await asker(plane), 3) as found:
        assert reasons(found) == set(), "who has ended leaves room"


async def test_a_tree_has_so_many_one_after_the_other(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each leaves something on the node's disk, and a child can ask as its parent can."""
    monkeypatch.setattr(delegates, "MAX_EVER_IN_TREE", 3)
    top = await asker(plane)
    for below in (top, await asker(plane, top.task), await asker(plane, top.task)):
        async with many(plane, below, 1) as found:
            assert reasons(found) == set()
    async with many(plane, await asker(plane, top.task), 1) as found:
        assert isinstance(found[0], Refused)
        assert f"have run below task {top.task}" in found[0].refusal.detail
    async with many(plane, await asker(plane), 1) as found:
        assert reasons(found) == set(), "another tree has its own"


async def test_what_a_task_asks_for_in_a_minute_and_ever_is_bounded(plane: Plane) -> None:
    who, done = await asker(plane), 0
    while done < delegates.MAX_EVER:
        for _ in range(min(delegates.MAX_A_MINUTE, delegates.MAX_EVER - done)):
            async with many(plane, who, 1) as found:
                assert reasons(found) == set()
            done += 1
        async with many(plane, who, 1) as found:
            assert reasons(found) == {Reason.DELEGATIONS_EXCEEDED}
        plane.clock.advance(60)
    async with many(plane, who, 1) as found:
        assert isinstance(found[0], Refused)
        assert f"has had {delegates.MAX_EVER} children" in found[0].refusal.detail


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
async def test_a_minute_lasts_a_minute_although_somebody_sets_the_clock(plane: Plane, jump_s: float) -> None:
    who = await asker(plane)
    for _ in range(delegates.MAX_A_MINUTE):
        async with many(plane, who, 1) as found:
            assert reasons(found) == set()
    plane.clock.set_by(jump_s)
    async with many(plane, who, 1) as found:
        assert reasons(found) == {Reason.DELEGATIONS_EXCEEDED}
    plane.clock.advance(60)
    async with many(plane, who, 1) as found:
        assert reasons(found) == set()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Conflict("wider"), Reason.NOT_DELEGATED),
        (NotFound("no role"), Reason.NOT_DELEGATED),
        (Invalid("a NUL"), Reason.MALFORMED),
        (Unavailable("no cells"), Reason.DELEGATION_UNAVAILABLE),
    ],
)
async def test_a_refusal_is_recorded_with_its_reason_and_takes_no_room(
    plane: Plane, error: RemitError, reason: Reason
) -> None:
    who = await asker(plane)
    plane.children.error = error
    async with many(plane, who, delegates.MAX_AT_ONCE + 1) as found:
        assert reasons(found) == {reason}
    kind, fields = plane.node.records[-1]
    assert (kind, fields["action"], fields["reason"]) == ("operator", "task.refuse", reason.value)
    assert (fields["task"], fields["request"], fields["operator"]) == (who.task, "r-1", f"task {who.task}")
    assert error.detail in fields["detail"]


async def test_a_task_that_is_not_known_gets_none(plane: Plane) -> None:
    async with many(plane, Asker(task="t-zzzzzzzzzz", record="r-1"), 1) as found:
        assert reasons(found) == {Reason.NOT_DELEGATED}
    assert plane.children.started == []
