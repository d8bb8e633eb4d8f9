"""Lines: equivalent to plain JSON, bounded, and safe to show whatever an agent put into them."""

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.audit import record
from remit.core.errors import Invalid
from remit.core.secret import Secret

STAMP = "2026-11-22T10:00:00.000000Z"
NUMBER = st.integers(-(1 << 62), 1 << 62) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def written(fields: dict[str, Any], seq: int = 7) -> bytes:
    return record.line(seq, record.body("r-abc", STAMP, "decision", fields), record.GENESIS)


@given(fields=st.dictionaries(st.text(max_size=20), JSON, max_size=8))
def test_a_line_is_the_json_of_its_fields(fields: dict[str, Any]) -> None:
    kept = {name: value for name, value in fields.items() if name not in record.OWN}
    own = {"seq": 7, "id": "r-abc", "time": STAMP, "kind": "decision"}
    assert json.loads(written(fields)) == {**own, **kept, "prev": record.GENESIS}


@given(text=st.text(alphabet=st.characters(), max_size=200))
def test_no_control_character_stands_raw_in_a_line(text: str) -> None:
    line = written({"path": text, text: 1})
    assert all(0x20 <= byte < 0x7F for byte in line)


@pytest.mark.parametrize("name", sorted(record.OWN))
def test_a_field_cannot_take_the_place_of_what_a_record_says_of_itself(name: str) -> None:
    line = written({name: "forged", "task": "t-1"})
    assert b"forged" not in line
    assert json.loads(line, object_pairs_hook=lambda pairs: [key for key, _ in pairs]) == [
        "seq", "id", "time", "kind", "task", "prev",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "x" * 10_000_000},
        {"detail": "\x00" * 100_000, "host": "\U0001f600" * 100_000},
        {str(n): "y" * 3000 for n in range(5000)},
        {"notes": {str(n) * 500: ["z" * 5000] * 100 for n in range(200)}},
    ],
)
def test_a_line_is_bounded_and_says_where_it_was_cut(fields: dict[str, Any]) -> None:
    line = written(fields)
    assert len(line) <= record.MAX_LINE
    json.loads(line)
    assert b"[cut]" in line or len(json.loads(line)) < len(fields)


def test_the_short_fields_of_a_cut_record_are_kept() -> None:
    found = json.loads(written({"task": "t-1", "reason": "no_capability", "path": "/" * 100_000}))
    assert (found["task"], found["reason"]) == ("t-1", "no_capability")
    assert found["path"] == "/" * 2048 + record.CUT


def test_what_has_no_json_form_is_written_as_text_and_never_raises() -> None:
    deep: list[Any] = []
    deep.append(deep)
    fields = {
        "nan": math.nan,
        "inf": -math.inf,
        "big": 1 << 90000,
        "deep": deep,
        "bytes": b"\xff",
        "s": Secret(b"canary"),
    }
    found = json.loads(written(fields))
    assert found["nan"] == "nan"
    assert "canary" not in json.dumps(found)
    for name, value in fields.items():
        json.loads(written({name: value}))


@pytest.mark.parametrize("bad", ["", "x", 'r-"', "r-\n", "r-" + "a" * 100, "r-A"])
def test_an_id_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(Invalid):
        record.body(bad, STAMP, "decision", {})


@given(st.lists(st.tuples(st.integers(0, (1 << 55) - 1), st.integers(0, (1 << 55) - 1)), min_size=2, max_size=20))
def test_ids_sort_by_time(moments: list[tuple[int, int]]) -> None:
    ids = [record.record_id(*moment) for moment in sorted(moments)]
    assert ids == sorted(ids)
    assert len({len(one) for one in ids}) == 1
    assert len(ids[0]) == 24


def test_a_stamp_is_rfc_3339_with_microseconds_in_utc() -> None:
    assert record.stamp(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02T03:04:05.000000Z"
    assert record.stamp(datetime(2026, 1, 2, tzinfo=UTC) + timedelta(microseconds=7))[-8:] == ".000007Z"


def test_seq_of_believes_only_lines_of_ours() -> None:
    assert record.seq_of(written({}, seq=12)) == 12
    for bad in (b"", b"{}", b"[1]", b'{"seq":"1"}', b'{"x":1,"seq":2}', b'{"seq":true}', b"\xff", b"[" * 100_000):
        assert record.seq_of(bad) is None
