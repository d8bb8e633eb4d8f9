"""Whatever an agent wrote, a terminal that is shown it obeys nothing in it."""

from __future__ import annotations

import io
import json
import unicodedata
from contextlib import redirect_stdout

from hypothesis import given
from hypothesis import strategies as st

from remit.cli import output

HOSTILE = "\x1b\x9b\x07\r\n\t\x7f\u202e\u2028\u200b\ufeff\U000e0041\u3164\u034f\ufe0f"
BLANK = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and a symbol that show nothing."""
anything = st.text(st.characters(codec=None) | st.sampled_from(HOSTILE))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=3),
    max_leaves=6,
)


def harmless(text: str, allowed: str = "\n") -> bool:
    return all(
        c in allowed or c == " " or (unicodedata.category(c)[0] not in "CZ" and c not in BLANK + "\u034f\ufe0f")
        for c in text
    )


def printed(show: object) -> str:
    stream = io.StringIO()
    with redirect_stdout(stream):
        show()  # type: ignore[operator]
    return stream.getvalue()


@given(anything)
def test_safe_text_has_nothing_that_a_terminal_obeys_or_hides(text: str) -> None:
    assert harmless(output.safe(text), allowed="")


@given(st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters=BLANK)))
def test_visible_text_stays_as_it_is(text: str) -> None:
    assert output.safe(text) == text


@given(st.lists(st.lists(anything, min_size=2, max_size=2), min_size=1, max_size=4))
def test_a_table_has_one_line_a_row_whatever_is_in_it(rows: list[list[str]]) -> None:
    text = printed(lambda: output.table(("a", "b"), rows))
    assert harmless(text)
    assert len(text.split("\n")) == len(rows) + 2


@given(st.dictionaries(anything, values, max_size=4))
def test_fields_of_a_record_are_harmless(record: dict[str, object]) -> None:
    assert harmless(printed(lambda: output.fields(record)))


@given(st.dictionaries(st.text(max_size=4), values, max_size=4))
def test_a_json_line_is_one_line_of_harmless_ascii_and_reads_back(record: dict[str, object]) -> None:
    text = printed(lambda: output.line(record))
    assert text.isascii()
    assert harmless(text)
    assert text.count("\n") == 1
    assert json.loads(text) == record


@given(anything)
def test_text_of_several_lines_keeps_line_ends_and_tabs_only(text: str) -> None:
    assert harmless(printed(lambda: output.text(text)), allowed="\n\t")
