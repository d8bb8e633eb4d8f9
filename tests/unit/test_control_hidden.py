"""A reference stands for secrets as long as an answer may be on its way, and says nothing itself."""

from __future__ import annotations

import pytest

from remit.control import hidden
from remit.control.hidden import Hidden

ONE, OTHER = ((b"real-secret", b"ph"),), ((b"other-secret", b"ph"),)


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_same_secrets_have_one_reference_and_others_another() -> None:
    kept = Hidden(answer_max_s=60, monotonic=Time())
    assert kept.reference(ONE) == kept.reference(ONE) != kept.reference(OTHER)
    assert len(kept) == 2
    assert "secret" not in kept.reference(ONE)


def test_an_answer_is_searched_for_what_its_reference_stands_for() -> None:
    kept = Hidden(answer_max_s=60, monotonic=Time())
    answer = kept.answer(kept.reference(ONE))
    assert answer is not None
    assert answer.body(b"real-secret other-secret", end=True) == b"ph other-secret"


def test_what_is_not_known_has_no_answer() -> None:
    assert Hidden(answer_max_s=60, monotonic=Time()).answer("0" * 32) is None


def test_what_was_not_named_for_as_long_as_an_answer_may_take_is_forgotten() -> None:
    time = Time()
    kept = Hidden(answer_max_s=60, monotonic=time)
    old, used = kept.reference(ONE), kept.reference(OTHER)
    time.now += 100
    kept.reference(OTHER)
    time.now += 30
    kept.reference(((b"third-secret", b"ph"),))
    assert kept.answer(old) is None
    assert kept.answer(used) is not None


def test_whoever_guessed_does_not_begin_anew_by_waiting() -> None:
    time = Time()
    kept = Hidden(answer_max_s=60, monotonic=time)
    guessed = kept.reference(ONE)
    answer = kept.answer(guessed)
    assert answer is not None
    answer.body(b"real-sec", end=False)
    assert answer.holds and answer.idle() == b"r"
    time.now += 1000
    kept.reference(OTHER)
    assert kept.reference(ONE) == guessed


def test_there_is_a_most_and_the_one_not_used_for_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden, "MOST", 2)
    time = Time()
    kept = Hidden(answer_max_s=60, monotonic=time)
    first, second = kept.reference(ONE), kept.reference(OTHER)
    time.now += 1
    kept.reference(ONE)
    kept.reference(((b"third-secret", b"ph"),))
    assert (kept.answer(first) is None, kept.answer(second) is None) == (False, True)
