"""Whatever happens in whatever order: no budget of requests is overdrawn, and the log adds up to what the ledger says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remit.core import budget, ledger_log
from remit.core.budget import Budget, Line, Quantity, Window
from remit.core.ledger import Charge, Ledger

HOUR_S = 3600
START_MS = 1_764_000_000_000


def line(quantity: Quantity, limit: int, per_s: int | None = None, window: Window = Window.SLIDING) -> Line:
    one = Budget(quantity=quantity, limit=limit, per_s=per_s, window=window)
    return Line(account=one.account("role/r", "t-aaaaaaaaaa"), budget=one)


LINES = (
    line(Quantity.REQUESTS, 20),
    line(Quantity.REQUESTS, 5, HOUR_S),
    line(Quantity.REQUESTS, 7, HOUR_S, Window.CALENDAR),
    line(Quantity.BYTES_OUT, 10_000),
    line(Quantity.BYTES_IN, 3 * budget.RESERVE_BYTES, HOUR_S),
)
STEPS = st.one_of(
    st.tuples(st.just("ask"), st.one_of(st.none(), st.integers(0, 4000))),
    st.tuples(st.just("end"), st.integers(0, 30), st.integers(0, 6000), st.integers(0, 2 << 20)),
    st.tuples(st.just("count"), st.integers(0, 30), st.integers(0, 6000), st.integers(0, 2 << 20)),
    st.tuples(st.just("return"), st.integers(0, 30)),
    st.tuples(st.just("lost")),
    st.tuples(st.just("wait"), st.integers(-7200, 7200)),
    st.tuples(st.just("crash")),
    st.tuples(st.just("checkpoint")),
)


class World:
    """A ledger, the log beside it, and every request that was permitted: (time, taken back)."""

    def __init__(self) -> None:
        self.ledger, self.log = Ledger(), list[str]()
        self.clock, self.seen = START_MS, START_MS
        self.permitted: dict[str, tuple[int, Charge]] = {}
        self.ids = 0

    def write(self, record: str, kind: str = "decision", /, **fields: Any) -> None:
        self.log.append(json.dumps({"id": record, "kind": kind, **fields}, separators=(",", ":")))

    def fold(self) -> Ledger:
        fresh = Ledger()
        for text in self.log:
            assert any(mark in text.encode() for mark in ledger_log.MARKS)
            ledger_log.add(fresh, json.loads(text))
        return fresh

    def ask(self, length: int | None) -> None:
        self.ids += 1
        record = f"r-{self.ids}"
        now = self.ledger.now(self.clock)
        got = self.ledger.reserve(record, LINES, length, self.clock)
        if isinstance(got, Charge):
            assert got.at_ms == now
            self.write(record, charges=dict(got.amounts), charged_at=got.at_ms)
            self.ledger.confirm(record)
            self.permitted[record] = (now, got)

    def do(self, step: tuple[Any, ...]) -> None:
        ids = list(self.permitted)
        match step:
            case ("ask", length):
                self.ask(length)
            case ("end", which, out, into) if ids:
                record = ids[which % len(ids)]
                self.ledger.count(record, out, into, ended=True, clock_ms=self.clock)
                moved = {"bytes_out": out, "bytes_in": into}
                self.write("r-end", "completion", record=record, **moved, charged_at=self.ledger.now(self.clock))
            case ("count", which, out, into) if ids:
                record = ids[which % len(ids)]
                if self.ledger.outgrown(record, out, into):
                    self.ledger.count(record, out, into, ended=False, clock_ms=self.clock)
                    totals = dict(self.ledger.reserved(record))
                    more = {"reserved": totals, "charged_at": self.ledger.now(self.clock)}
                    self.write("r-more", ledger_log.RESERVATION, record=record, **more)
            case ("return", which) if ids:
                record = ids[which % len(ids)]
                _, charge = self.permitted.pop(record)
                self.ledger.give_back(record, charge.amounts, charge.at_ms)
                back = {"record": record, "charges": dict(charge.amounts), "charged_at": charge.at_ms}
                self.write("r-back", returned=back)
            case ("wait", seconds):
                self.clock += seconds * 1000
            case ("crash",):
                self.ledger = self.fold()
            case ("checkpoint",):
                self.log.clear()
                for part in ledger_log.checkpoint(self.ledger):
                    self.write("r-part", ledger_log.CHECKPOINT, **part)
        self.check()

    def check(self) -> None:
        times = [at for at, _ in self.permitted.values()]
        assert len(times) <= 20
        for at in times:
            assert sum(at - HOUR_S * 1000 < other <= at for other in times) <= 5, "in some hour too many"
            assert sum(other // (HOUR_S * 1000) == at // (HOUR_S * 1000) for other in times) <= 7


def settled(ledger: Ledger, now: int) -> Any:
    """What a ledger says, without what no longer counts."""
    return [(one.account, ledger.used(one.account, now)) for one in LINES], ledger.dump()["open"]


@given(st.lists(STEPS, max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_order_of_events_overdraws_and_the_log_adds_up_to_the_ledger(steps: list[tuple[Any, ...]]) -> None:
    world = World()
    for step in steps:
        world.do(step)
    now = world.ledger.now(world.clock)
    assert settled(world.fold(), now) == settled(world.ledger, now)


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=60), st.integers(1, 5000))
def test_bytes_that_a_request_states_are_never_overdrawn(lengths: list[int], limit: int) -> None:
    ledger, lines, sent = Ledger(), (line(Quantity.BYTES_OUT, limit),), 0
    for number, length in enumerate(lengths):
        if isinstance(ledger.reserve(f"r-{number}", lines, length, START_MS), Charge):
            sent += length
    assert sent <= limit


@given(st.integers(1, 100), st.integers(1, 200))
def test_the_last_units_go_to_exactly_as_many(limit: int, asked: int) -> None:
    ledger, lines = Ledger(), (line(Quantity.REQUESTS, limit),)
    got = [isinstance(ledger.reserve(f"r-{n}", lines, None, START_MS), Charge) for n in range(asked)]
    assert sum(got) == min(limit, asked)


@given(st.integers(1, 86400 * 30), st.sampled_from(Window))
def test_the_name_of_an_account_says_how_it_is_kept(per_s: int, window: Window) -> None:
    one = Budget(quantity=Quantity.REQUESTS, limit=1, per_s=per_s, window=window)
    kind = budget.kind(one.account("capability/c", "t-a"))
    step = kind.step(START_MS)
    gone = kind.gone_ms(step)
    assert gone is not None
    if window is Window.SLIDING:
        assert START_MS + per_s * 1000 <= gone <= START_MS + per_s * 1000 + max(1, per_s * 1000 // budget.SLICES) + 1
    else:
        assert START_MS < gone <= START_MS + per_s * 1000


@pytest.mark.parametrize(
    "name", ["", "role/r", "role/r/requests/1y", "role/R/requests", "x/r/requests", "role/r/bytes"]
)
def test_what_is_no_name_of_an_account_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        budget.kind(name)


def test_a_shortage_says_when_room_returns() -> None:
    ledger, lines = Ledger(), (line(Quantity.REQUESTS, 2, HOUR_S),)
    ledger.reserve("r-1", lines, None, START_MS)
    ledger.reserve("r-2", lines, None, START_MS + 1_800_000)
    short = ledger.shortage(lines, None, START_MS + 1_900_000)
    assert short is not None
    assert (short.left, short.used, short.limit) == (0, 2, 2)
    assert short.returns_ms is not None
    assert START_MS + 3_600_000 <= short.returns_ms <= START_MS + 3_660_000
    assert ledger.shortage(lines, None, short.returns_ms) is None
    assert ledger.shortage(lines, None, START_MS) is None, "a clock that steps back changes nothing"


def test_a_raise_makes_room_and_passes_with_its_window() -> None:
    ledger, lines = Ledger(), (line(Quantity.REQUESTS, 1, HOUR_S),)
    ledger.reserve("r-1", lines, None, START_MS)
    ledger.raise_("r-2", lines[0].account, 1, START_MS)
    assert isinstance(ledger.reserve("r-3", lines, None, START_MS), Charge)
    assert not isinstance(ledger.reserve("r-4", lines, None, START_MS), Charge)
    later = START_MS + 2 * 3_600_000
    assert ledger.raised(lines[0].account, later) == 0
    assert isinstance(ledger.reserve("r-5", lines, None, later), Charge)
    assert not isinstance(ledger.reserve("r-6", lines, None, later), Charge)
