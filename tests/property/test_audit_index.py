"""What the index answers is what a walk through the whole log would: any filters, any bounds, over several blocks."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remit.audit import lines, postings, record, segments
from remit.audit.index import Index

COUNT = 2 * postings.BLOCK + 5000
FIRST = datetime(2026, 11, 1, tzinfo=UTC)
TASKS = [f"t-aaaaaaaa{high}{low}" for high in "abcde" for low in "abcdefgh"]
ABOVE = {task: TASKS[(at - 1) // 3] for at, task in enumerate(TASKS) if at % 7}
"""The parent of each that has one."""
VALUES: dict[str, list[str | None]] = {
    "task": [*TASKS],
    "role": ["devops", "finops"],
    "decision": ["permit", "permit", "permit", "deny"],
    "capability": [None, "a", "b", "c"],
    "host": [f"h{number}.example" for number in range(7)],
    "kind": ["decision", "decision", "dns", "completion"],
}


def above(task: str) -> list[str]:
    """The tasks above one, its parent first."""
    found = []
    while task := ABOVE.get(task, ""):
        found.append(task)
    return found


def kin(task: str, kind: str, *, denied: bool) -> dict[str, Any]:
    """What a record of this kind says of them: a denial may only know the parent."""
    if kind != "decision" or task not in ABOVE:
        return {}
    return {"parent": ABOVE[task], **({} if denied else {"chain": above(task)[::-1]})}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every record of a log in segments of 2 MiB, whose clock once was set back."""
    directory = tmp_path_factory.mktemp("log") / "audit"
    directory.mkdir()
    records: list[dict[str, Any]] = []
    prev, number, room, stream = record.GENESIS, 0, 0, None
    for seq in range(1, COUNT + 1):
        moment = FIRST + timedelta(seconds=seq if seq < COUNT // 2 else seq - 9000)
        drawn = {
            name: of[seq * step % 9973 % len(of)]
            for (name, of), step in zip(VALUES.items(), (1, 7, 11, 13, 17, 19), strict=True)
        }
        kind = str(drawn.pop("kind"))
        drawn |= kin(str(drawn["task"]), kind, denied=drawn["decision"] == "deny")
        middle = record.body(record.record_id(seq << 20, seq), record.stamp(moment), kind, drawn)
        line = record.line(seq, middle, prev)
        if room < len(line):
            if stream:
                stream.close()
            number, room = number + 1, 2 << 20
            stream = segments.path(directory, number).open("wb")
        stream.write(line + b"\n")
        room -= len(line) + 1
        prev = record.digest(line)
        records.append(json.loads(line))
    stream.close()
    records[0]["directory"] = directory
    return records


@pytest.fixture(scope="module", params=["as it was taken in", "opened again"])
def index(
    request: pytest.FixtureRequest, log: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Index]:
    file = tmp_path_factory.mktemp("index") / "index.db"
    opened = Index(file, log[0]["directory"])
    assert opened.ingest() == COUNT
    if request.param == "opened again":
        opened.close()
        opened = Index(file, log[0]["directory"])
        assert 0 < opened.ingest() < postings.BLOCK
    yield opened
    opened.close()


filters = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.sampled_from([v for v in of if v] + ["none"]) for name, of in VALUES.items()},
        "tree": st.sampled_from([*TASKS[:12], TASKS[-1], "none"]),
    },
)
seqs = (
    st.none() | st.integers(0, COUNT + 10) | st.sampled_from([postings.BLOCK - 1, postings.BLOCK, postings.BLOCK + 1])
)
moments = st.none() | st.integers(-10, COUNT + 10).map(lambda second: FIRST + timedelta(seconds=second))


@settings(max_examples=120, deadline=None)
@given(wanted=filters, since=moments, until=moments, before=seqs, after=seqs, limit=st.integers(1, 1000))
def test_an_answer_is_what_a_walk_through_the_log_finds(
    log: list[dict[str, Any]], index: Index, wanted: dict[str, str], since: datetime | None, until: datetime | None,
    before: int | None, after: int | None, limit: int,
) -> None:  # fmt: skip
    found = index.query(filters=wanted, since=since, until=until, before=before, after=after, limit=limit)
    early, late = (None if at is None else record.stamp(at) for at in (since, until))
    expected = [
        one["id"]
        for one in log
        if all(one.get(name) == value for name, value in wanted.items() if name != "tree")
        and ("tree" not in wanted or wanted["tree"] in (one["task"], *above(one["task"])))
        and ("kind" in wanted or one["kind"] not in lines.UNLISTED)
        and (early is None or one["time"] >= early)
        and (late is None or one["time"] < late)
        and (before is None or one["seq"] < before)
        and (after is None or one["seq"] > after)
    ]
    assert [one["id"] for one in found] == (expected if after is not None else expected[::-1])[:limit]


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, COUNT - 1))
def test_every_record_is_found_by_its_id(log: list[dict[str, Any]], index: Index, at: int) -> None:
    assert index.get(log[at]["id"])["seq"] == at + 1


@given(st.sets(st.integers(0, postings.BLOCK - 1), max_size=600))
def test_a_set_of_positions_survives_the_disk(positions: set[int]) -> None:
    bits = postings.unpacked(postings.packed(sorted(positions)))
    assert list(postings.upwards(bits)) == sorted(positions)
    assert list(postings.downwards(bits)) == sorted(positions, reverse=True)
