"""What may pass of an answer: decided by its head, done to all of it."""

from __future__ import annotations

import pytest

from remit.core import spellings
from remit.core.answers import Answer, Changes, Lines
from remit.core.reason import Reason, Refusal
from remit.core.scrubber import Forms

SECRET, SEEN = b"real-secret", b"ph_0"
FORMS = [Forms(spellings.table([(SECRET, SEEN)], level=level)) for level in (False, True)]


def answer() -> Answer:
    return Answer(*FORMS)


def test_a_head_without_it_is_left_alone() -> None:
    assert answer().head([(b":status", b"200"), (b"x", b"1")], end=False) == Changes()


def test_every_value_of_a_name_is_given_where_one_tells_it() -> None:
    lines: Lines = [(b"set-cookie", b"a=1"), (b"x", b"1"), (b"set-cookie", b"s=" + SECRET), (b"y-" + SECRET, b"1")]
    made = answer()
    assert made.head(lines, end=False) == Changes(
        values=((b"set-cookie", (b"a=1", b"s=ph_0")),), removed=(b"y-" + SECRET,)
    )
    assert made.found


@pytest.mark.parametrize("value", [b"gzip", b"br", b"identity, gzip", b"x"])
def test_a_body_that_cannot_be_read_is_refused_and_a_head_alone_is_not(value: bytes) -> None:
    lines: Lines = [(b"content-encoding", b"identity"), (b"content-encoding", value)]
    refused = answer().head(lines, end=False)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.ANSWER_ENCODED
    assert answer().head(lines, end=True) == Changes()
    assert answer().head([(b"content-encoding", b" Identity ")], end=False) == Changes()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], SEEN),
        ([(b"content-length", b"11")], SEEN.ljust(len(SECRET), b"*")),
        ([(b"content-type", b"application/grpc+proto")], SEEN.ljust(len(SECRET), b"*")),
    ],
)
def test_what_says_its_length_keeps_it(lines: Lines, expected: bytes) -> None:
    made = answer()
    changes = made.head(lines, end=False)
    assert isinstance(changes, Changes)
    assert changes.length == dict(lines).get(b"content-length")
    assert made.body(SECRET[:4], end=False) + made.body(SECRET[4:], end=True) == expected
    assert made.found


def test_trailers_come_after_the_rest_of_the_body() -> None:
    made = answer()
    made.head([], end=False)
    assert made.body(b"x\n" + SECRET[:4], end=False) == b"x\n"
    assert made.holds
    assert made.trailers([(b"t", SECRET)]) == (SECRET[:4], Changes(values=((b"t", (SEEN,)),)))


def test_nothing_is_found_where_nothing_is() -> None:
    made = answer()
    made.head([(b"x", b"1")], end=False)
    made.body(b"nothing", end=True)
    assert not made.found
