"""Whatever tree of tasks there is: a request is bounded by everything above it, and charged once to what is shared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from remit.core import bounds, budget, delegation
from remit.core.budget import Budget, Quantity
from remit.core.capability import Capability, Protocol
from remit.core.claims import Claims
from remit.core.decision import Candidate
from remit.core.delegation import Above
from remit.core.request import Request
from remit.core.snapshot import Role, Rules, Snapshot
from remit.core.task import State, Task

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
IDS = [f"t-{letter * 10}" for letter in "abcdefghij"]
BUDGETS = st.lists(
    st.builds(
        Budget,
        quantity=st.sampled_from(Quantity),
        limit=st.integers(0, 9),
        per_s=st.sampled_from([None, 3600]),
        each_task=st.booleans(),
    ),
    max_size=2,
    unique_by=lambda one: (one.quantity, one.per_s, one.each_task),
).map(tuple)


def capability(name: str, budgets: tuple[Budget, ...]) -> Capability:
    return Capability(name=name, hosts=("a.com",), budgets=budgets)


@st.composite
def trees(draw: st.DrawFn) -> Snapshot:
    """Tasks each of which may stand below any other, itself included: a snapshot may say anything."""
    capabilities = [capability(name, draw(BUDGETS)) for name in ("c", "d")]
    roles = {
        name: Role(name=name, budgets=draw(BUDGETS), capabilities=tuple(draw(st.permutations(capabilities))[:count]))
        for name, count in (("r", 2), ("s", 1))
    }
    tasks = {
        one: Task(
            id=one,
            role=draw(st.sampled_from(["r", "s", "gone"])),
            state=State.RUNNING,
            cell=number,
            created=NOW - timedelta(seconds=draw(st.integers(-5, 5000))),
            parent=draw(st.none() | st.sampled_from(IDS)),
            budgets=tuple(one for one in draw(BUDGETS) if not one.each_task),
        )
        for number, one in enumerate(IDS, start=1)
    }
    named = {one.name: one for one in capabilities}
    return Snapshot(version="1", epoch=1, rules=Rules(roles=roles, capabilities=named), tasks=tasks)


def above(snapshot: Snapshot, task: Task) -> list[Task]:
    found, one = list[Task](), snapshot.tasks.get(task.parent or "")
    while one is not None and len(found) < delegation.MAX_DEPTH:
        found.append(one)
        one = snapshot.tasks.get(one.parent or "")
    return found


def candidate(snapshot: Snapshot, task: Task) -> Candidate:
    def first(one: Task) -> Capability | None:
        return next(iter(role(snapshot, one).capabilities), None)

    request = Request(
        method="GET", protocol=Protocol.HTTPS, host="a.com", port=443, path="/", target="/", query="", headers={},
        cell=1, flow="100.64.0.1:1024", websocket=False,
    )  # fmt: skip
    claims = Claims(trust_domain="remit.local", role=task.role, task=task.id, jti="j", issued=0, expires=9)
    return Candidate(
        claims=claims,
        task=task,
        role=role(snapshot, task),
        request=request,
        capability=first(task) or capability("c", ()),
        credential=None,
        above=tuple(Above(task=one, role=role(snapshot, one), capability=first(one)) for one in above(snapshot, task)),
    )


def role(snapshot: Snapshot, task: Task) -> Role:
    return snapshot.rules.roles.get(task.role) or Role(name=task.role)


@given(trees(), st.sampled_from(IDS))
def test_a_request_is_bounded_by_its_task_and_by_all_above_it(snapshot: Snapshot, name: str) -> None:
    task = snapshot.tasks[name]
    asked = candidate(snapshot, task)
    lines = bounds.of_request(asked)
    accounts = [line.account for line in lines]
    assert len(set(accounts)) == len(accounts), "what is shared is charged once"
    for one in (task, *above(snapshot, task)):
        owned = ((f"task/{one.id}", one.budgets), (f"role/{one.role}", role(snapshot, one).budgets))
        for owner, budgets in owned:
            assert {each.account(owner, one.id) for each in budgets} <= set(accounts)
    assert {each.account(f"capability/{asked.capability.name}", name) for each in asked.capability.budgets} <= set(
        accounts
    )


@given(trees(), st.sampled_from(IDS))
def test_nothing_bounds_a_request_that_does_not_bound_its_task(snapshot: Snapshot, name: str) -> None:
    task = snapshot.tasks[name]
    if not role(snapshot, task).capabilities:
        return
    every = {line.account for line in bounds.of_task(snapshot, task)}
    assert {line.account for line in bounds.of_request(candidate(snapshot, task))} <= every


@given(trees())
def test_what_belongs_to_no_task_is_named_so(snapshot: Snapshot) -> None:
    assert all(budget.owner_task(line.account) is None for line in bounds.of_no_task(snapshot))


@given(trees(), st.sampled_from(IDS), st.integers(-9_000_000, 9_000_000))
def test_time_that_is_used_is_the_age_of_the_task_whose_own_it_is(snapshot: Snapshot, name: str, later: int) -> None:
    task = snapshot.tasks[name]
    now_ms = int(NOW.timestamp() * 1000) + later
    for line in bounds.of_task(snapshot, task):
        whose = snapshot.tasks[budget.owner_task(line.account) or name]
        age = bounds.age_s(snapshot, line, task, now_ms)
        assert age == max(0, now_ms // 1000 - int(whose.created.timestamp()))
