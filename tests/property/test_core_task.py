"""The table of states is closed: what is not in it cannot happen, and what has ended stays so."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.core import claims, task
from remit.core.errors import Conflict
from remit.core.task import ALIVE, TRANSITIONS, Event, State, Task

START = datetime(2026, 1, 1, tzinfo=UTC)


def made(state: State = State.PENDING) -> Task:
    return Task(id="t-aaaaaaaaaa", role="r", state=state, cell=1, created=START)


def test_every_state_has_its_row_and_leads_to_states_only() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {target for row in TRANSITIONS.values() for target in row.values()} <= set(State)
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)


def test_every_state_can_be_reached_and_every_state_can_end() -> None:
    reached, waiting = {State.PENDING}, [State.PENDING]
    while waiting:
        for target in TRANSITIONS[waiting.pop()].values():
            if target not in reached:
                reached.add(target)
                waiting.append(target)
    assert reached == set(State)
    final = {state for state in State if not TRANSITIONS[state]}
    ending = set(final)
    for _ in State:
        ending |= {state for state in State if set(TRANSITIONS[state].values()) & ending}
    assert ending == set(State)
    assert not final & ALIVE


def test_what_lives_can_be_revoked_and_nothing_gets_authority_back() -> None:
    for state in State:
        for target in TRANSITIONS[state].values():
            assert target not in ALIVE or state in ALIVE
    assert all(TRANSITIONS[state][Event.REVOKE] is State.REVOKED for state in ALIVE)


@given(st.lists(st.sampled_from(Event), max_size=8))
def test_any_sequence_of_events_moves_along_the_table(events: list[Event]) -> None:
    current = made()
    for number, event in enumerate(events, 1):
        now = START + timedelta(seconds=number)
        target = TRANSITIONS[current.state].get(event)
        if target is None:
            with pytest.raises(Conflict, match=f"it cannot {event}"):
                task.advance(current, event, now)
            continue
        moved = task.advance(current, event, now)
        assert moved.state is target
        assert moved.ended == (now if not TRANSITIONS[target] else None)
        assert (moved.id, moved.role, moved.cell, moved.created) == (
            current.id,
            current.role,
            current.cell,
            current.created,
        )
        current = moved


NAME = st.from_regex(r"\A[a-z0-9](?:[a-z0-9-]{0,10}[a-z0-9])?\Z")


@given(st.from_regex(r"\A[a-z0-9.-]{1,20}\Z"), NAME, st.from_regex(r"\At-[a-z2-7]{10}\Z"))
def test_a_subject_is_read_as_it_was_written(domain: str, role: str, id_: str) -> None:
    made_ = claims.Claims(trust_domain=domain, role=role, task=id_, jti="j", issued=0, expires=1)
    assert claims.parse_subject(made_.subject) == (domain, role, id_)


@pytest.mark.parametrize(
    "subject",
    ["", "spiffe://d/role/r/task/t-aaaaaaaaaa/", "spiffe://d/role/r/task/t-aaaaaaaaaa\n", "spiffe://d/role/r/task/t-AAAAAAAAAA", "spiffe://d/role/r/task/t-aaaaaaaaa1",
     "spiffe://d/role/-r/task/t-aaaaaaaaaa", "spiffe://d/role/r/x/task/t-aaaaaaaaaa", "spiffe://D/role/r/task/t-aaaaaaaaaa", "http://d/role/r/task/t-aaaaaaaaaa",
     "spiffe://d/role/r/task/t-aaaaaaaaaa?x", "spiffe:///role/r/task/t-aaaaaaaaaa", "spiffe://d/role//task/t-aaaaaaaaaa"],
)  # fmt: skip
def test_a_subject_of_another_shape_is_none(subject: str) -> None:
    assert claims.parse_subject(subject) is None
