"""What a revocation cuts, and which upstream connections are never used again."""

from __future__ import annotations

import dataclasses

import pytest
from permits import credential, permit

from remit.control import openings
from remit.control.openings import Openings
from remit.core.snapshot import Revoked, Snapshot
from remit.core.task import State

PERMIT = permit(credential(name="k"))
TASK = PERMIT.candidate.task
SNAPSHOT = Snapshot(version="1", tasks={TASK.id: TASK})


def flowing(flow: str) -> object:
    candidate = PERMIT.candidate
    return dataclasses.replace(
        PERMIT, candidate=dataclasses.replace(candidate, request=dataclasses.replace(candidate.request, flow=flow))
    )


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(*flows: str, clock: Clock | None = None) -> Openings:
    made = Openings(longest_s=3600, monotonic=clock or Clock())
    made.update(SNAPSHOT)
    for number, flow in enumerate(flows):
        made.opened(f"r-{number}", flowing(flow))
    return made


def test_what_is_open_is_found_by_its_capability_and_by_its_credential() -> None:
    found = opened("100.64.0.1:1024", "[fd00:201:2::1]:1025", "100.64.0.1:1024")
    name = PERMIT.candidate.capability.name
    assert found.using("capability", name) == {TASK.id: frozenset({1024, 1025})}
    assert found.using("credential", "k") == {TASK.id: frozenset({1024, 1025})}
    assert found.using("credential", "another") == {}


def test_what_is_open_under_a_grant_is_found_by_it_alone() -> None:
    found = opened("100.64.0.1:1024")
    found.opened("r-granted", flowing("100.64.0.1:1025"), "g-1")
    assert found.using("grant", "g-1") == {TASK.id: frozenset({1025})}
    assert found.using("grant", "g-2") == {}


def test_what_has_ended_is_not_cut() -> None:
    found = opened("100.64.0.1:1024", "100.64.0.1:1025")
    found.ended("r-0")
    found.ended("r-0")
    found.ended("r-unknown")
    assert found.using("credential", "k") == {TASK.id: frozenset({1025})}


def test_a_task_has_so_many_open_and_no_more_until_some_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openings, "AT_ONCE", 2)
    clock = Clock()
    found = opened("100.64.0.1:1024", clock=clock)
    assert not found.full(TASK.id)
    found.opened("r-8", flowing("100.64.0.1:1024"))
    assert found.full(TASK.id) and not found.full("t-another")
    found.ended("r-0")
    assert not found.full(TASK.id)
    clock.now = 100.0
    found.opened("r-9", flowing("100.64.0.1:1025"))
    assert found.full(TASK.id)
    clock.now = 3600.0 + openings.FORGET_MARGIN_S + 50  # Envoy died and never said how r-8 ended
    assert not found.full(TASK.id)
    assert found.using("credential", "k") == {TASK.id: frozenset({1025})}


def test_what_one_envoy_carried_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openings, "AT_ONCE", 1)
    found = opened()
    found.carried_by(100)
    found.opened("r-1", flowing("100.64.0.1:1024"))
    found.carried_by(100)  # one more connection of the same
    assert found.full(TASK.id)
    found.carried_by(101)
    assert not found.full(TASK.id) and found.using("credential", "k") == {}
    found.ended("r-1")  # read late from the log of the one before
    found.opened("r-2", flowing("100.64.0.1:1025"))
    assert found.full(TASK.id)


def test_the_end_of_a_task_is_the_end_of_what_it_had_open() -> None:
    found = opened("100.64.0.1:1024")
    over = dataclasses.replace(TASK, state=State.EXITED)
    found.update(dataclasses.replace(SNAPSHOT, tasks={TASK.id: over}))
    assert found.using("credential", "k") == {}
    found.opened("r-9", flowing("100.64.0.1:1030"))
    found.ended("r-9")


def test_pools_differ_by_task_by_credential_and_by_life_of_the_process() -> None:
    one, other = opened(), opened()
    keys = {one.pool("t-1", "k"), one.pool("t-2", "k"), one.pool("t-1", ""), other.pool("t-1", "k")}
    assert len(keys) == 4
    assert one.pool("t-1", "k") in keys


def test_no_upstream_connection_from_before_a_revocation_is_used_after_it() -> None:
    found = opened()
    keys = [found.pool("t-1", "k")]
    for changed in (
        dataclasses.replace(SNAPSHOT, revoked=Revoked(credentials=frozenset({"k"}))),
        SNAPSHOT,
        dataclasses.replace(SNAPSHOT, sealed={"k": b"new"}),
    ):
        found.update(changed)
        keys.append(found.pool("t-1", "k"))
    assert len(set(keys)) == 4
    found.update(dataclasses.replace(SNAPSHOT, sealed={"k": b"new"}, epoch=9))
    assert found.pool("t-1", "k") == keys[-1], "other changes leave them alone"
