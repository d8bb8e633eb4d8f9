"""A node decides from memory only for as long as it hears its control plane."""

from __future__ import annotations

import asyncio
import dataclasses

from remit.control.knowledge import Knowledge
from remit.core.reason import Reason
from remit.core.snapshot import Snapshot

KNOWN = dataclasses.replace(Snapshot(), version="1")


class Watch:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def reason(knowledge: Knowledge) -> Reason | None:
    refusal = knowledge.refusal()
    return refusal.reason if refusal is not None else None


def test_a_node_that_knows_nothing_is_not_ready_even_when_it_hears() -> None:
    knowledge = Knowledge(lease_s=30, monotonic=Watch())
    assert reason(knowledge) is Reason.NOT_READY
    knowledge.heard()
    assert reason(knowledge) is Reason.NOT_READY


def test_what_is_remembered_from_before_counts_only_once_the_control_plane_is_heard() -> None:
    knowledge = Knowledge(lease_s=30, monotonic=Watch())
    knowledge.replace(KNOWN)
    assert reason(knowledge) is Reason.CONTROL_PLANE_LOST
    knowledge.heard()
    assert reason(knowledge) is None


def test_the_lease_runs_out_and_begins_anew_with_the_next_word() -> None:
    watch = Watch()
    knowledge = Knowledge(lease_s=2, monotonic=watch)
    knowledge.replace(KNOWN)
    knowledge.heard()
    watch.now += 2
    assert reason(knowledge) is None
    watch.now += 0.001
    assert reason(knowledge) is Reason.CONTROL_PLANE_LOST
    knowledge.heard()
    assert reason(knowledge) is None


async def test_it_is_informed_when_it_has_a_snapshot_and_has_been_heard() -> None:
    knowledge = Knowledge(lease_s=2, monotonic=Watch())
    waiting = asyncio.ensure_future(knowledge.informed())
    knowledge.heard()
    await asyncio.sleep(0)
    assert not waiting.done()
    knowledge.replace(KNOWN)
    knowledge.heard()
    await asyncio.wait_for(waiting, 60)


def test_a_listener_has_a_snapshot_before_anything_is_decided_from_it() -> None:
    knowledge, seen = Knowledge(lease_s=2, monotonic=Watch()), list[tuple[Snapshot, str]]()
    knowledge.on_change(lambda fresh: seen.append((fresh, knowledge.snapshot.version)))
    knowledge.replace(KNOWN)
    assert seen == [(KNOWN, "")]
