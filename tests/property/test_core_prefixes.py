"""Whatever somebody gives for an id: it finds ids that begin so, and is never a pattern of its own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.core.errors import Conflict, NotFound
from remit.core.prefixes import APPROVAL, GRANT, TASK, Noun

NOUNS = st.sampled_from([TASK, APPROVAL, GRANT])
LETTERS = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=10, max_size=10)


@given(NOUNS, st.text() | st.text("tag-%_\\a2"))
def test_what_an_id_must_begin_with_is_no_pattern(noun: Noun, given_: str) -> None:
    start = noun.start(given_)
    assert start is None or re.fullmatch(rf"{noun.letter}-[A-Za-z0-9]{{1,32}}", start)


@given(NOUNS, LETTERS, st.integers(1, 10), st.booleans())
def test_the_first_letters_of_an_id_are_what_it_begins_with(noun: Noun, rest: str, count: int, whole: bool) -> None:
    identity = f"{noun.letter}-{rest}"
    start = noun.start(f"{noun.letter}-{rest[:count]}" if whole else rest[:count])
    assert start is not None
    assert identity.startswith(start)


@given(NOUNS, st.lists(st.integers(), max_size=3))
def test_only_one_is_meant(noun: Noun, found: list[int]) -> None:
    if len(found) == 1:
        assert noun.only("a", found) == found[0]
        return
    with pytest.raises(Conflict if found else NotFound, match=noun.name) as raised:
        noun.only("a", found)
    assert noun.listing in str(raised.value.hint)
