"""One cell cannot fill the audit log, and what is not recorded one by one is counted."""

import deciding
import pytest

from remit.control.observing import Observer
from remit.control.ports import Entry
from remit.control.rationing import CELLS_MAX, ORDINARY, TOLD_EVERY_S, Exceeded, Rationed
from remit.testing.deciding import MemoryJournal

FLOW = "100.64.0.1:40000"
NEXT = "100.64.0.2:40000"


def observing(journal: Rationed) -> Observer:
    made = deciding.World()
    return Observer(
        knowledge=made.knowledge,
        journal=journal,
        openings=made.openings,
        budgets=made.budgets,
        secrets=made.secrets,
    )


class Log:
    """Room for `burst` records of ordinary size, and one more a second."""

    def __init__(self, burst: int = 3) -> None:
        self.now = 100.0
        self.written = MemoryJournal()
        self.rationed = Rationed(self.written, lambda: self.now, per_second=ORDINARY, burst=burst * ORDINARY)

    async def append(self, flow: str = FLOW, path: str = "") -> str:
        record = self.rationed.new_id()
        fields = {"task": "t-a", "role": "a", "flow": flow, "path": path, "detail": "", "reason": "no_capability"}
        await self.rationed.append(record, Entry(kind="decision", fields=fields))
        return record

    def reasons(self) -> list[str]:
        return [str(entry.fields["reason"]) for _, entry in self.written.entries]


async def test_a_cell_that_asks_too_fast_is_refused_and_the_next_one_is_not() -> None:
    log = Log()
    for _ in range(3):
        await log.append()
    with pytest.raises(Exceeded):
        await log.append()
    await log.append(NEXT)
    assert log.reasons() == ["no_capability"] * 3 + ["records_exceeded", "no_capability"]


async def test_a_cell_has_one_share_whichever_family_it_asks_over() -> None:
    log = Log(burst=2)
    await log.append(FLOW)
    await log.append("[fd00:201:2::1]:40001")
    for peer in (FLOW, "[fd00:201:2::1]:40002"):
        with pytest.raises(Exceeded):
            await log.append(peer)


async def test_the_share_comes_back_with_time_and_never_exceeds_a_burst() -> None:
    log = Log()
    for _ in range(3):
        await log.append()
    log.now += 1
    await log.append()
    with pytest.raises(Exceeded):
        await log.append()
    log.now += 1000
    for _ in range(3):
        await log.append()
    with pytest.raises(Exceeded):
        await log.append()


async def test_what_was_not_recorded_is_counted_once_a_minute_and_when_the_cell_may_go_on() -> None:
    log = Log()
    for _ in range(3):
        await log.append()
    for _ in range(5):
        with pytest.raises(Exceeded):
            await log.append()
    told = [entry.fields for _, entry in log.written.entries if entry.fields["reason"] == "records_exceeded"]
    assert [(one["count"], one["task"], one["flow"]) for one in told] == [(1, "t-a", FLOW)]
    log.now += TOLD_EVERY_S
    await log.append()
    told = [entry.fields for _, entry in log.written.entries if entry.fields["reason"] == "records_exceeded"]
    assert [one["count"] for one in told] == [1, 4]
    assert log.reasons()[-1] == "no_capability"


async def test_what_envoy_refuses_by_itself_is_of_the_same_share(caplog: pytest.LogCaptureFixture) -> None:
    """Malformed requests are records as well, and cost an agent less than any other."""
    log = Log()
    observer = observing(log.rationed)
    ended = {"flow": FLOW, "host": "api.a.com", "path": "/x", "detail": "http1.codec_error", "status": 400}
    for _ in range(50):
        await observer.ended(None, ended)
    assert log.reasons() == ["refused_by_boundary"] * 3 + ["records_exceeded"]
    assert not caplog.records, "nor does it fill the log of the process"
    with pytest.raises(Exceeded):
        await log.append()
    await log.append(NEXT)


@pytest.mark.parametrize("field", ["path", "detail", "host", "sni"])
async def test_whatever_an_agent_makes_long_costs_what_it_takes(field: str) -> None:
    log = Log(burst=10)
    await observing(log.rationed).ended(None, {"flow": FLOW, field: "x" * 10 * ORDINARY})
    with pytest.raises(Exceeded):
        await log.append()


async def test_a_long_path_costs_what_it_takes() -> None:
    log = Log(burst=10)
    await log.append(path="/" * (10 * ORDINARY))
    with pytest.raises(Exceeded):
        await log.append()


async def test_a_record_that_is_told_of_too_many_is_the_one_that_the_problem_names() -> None:
    log = Log(burst=1)
    await log.append()
    with pytest.raises(Exceeded):
        await log.append()
    assert log.written.entries[-1][0] == f"r-{2:010d}"


async def test_cells_that_are_long_silent_are_forgotten_first() -> None:
    log = Log(burst=1)
    for n in range(CELLS_MAX + 1):
        await log.append(f"100.64.{n >> 8}.{n & 255}:1")
    with pytest.raises(Exceeded):
        await log.append(f"100.64.{CELLS_MAX >> 8}.{CELLS_MAX & 255}:1")
    await log.append("100.64.0.0:1")


async def test_a_record_of_no_cell_is_always_taken() -> None:
    log = Log(burst=1)
    for _ in range(5):
        await log.append("")
    assert len(log.written.entries) == 5
