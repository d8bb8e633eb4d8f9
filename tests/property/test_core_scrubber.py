"""However a stream is cut, what comes out is the same, and no form of a secret is in it."""

from __future__ import annotations

import base64
import itertools
import json
import urllib.parse

from hypothesis import given
from hypothesis import strategies as st

from remit.core import spellings
from remit.core.scrubber import GUESSES, Forms, Scrubber

ALPHABET = b"ab"
FORM = st.lists(st.sampled_from(list(ALPHABET)), min_size=1, max_size=6).map(bytes)
TABLE = st.dictionaries(FORM, st.sampled_from([b"", b"#", b"##", b"#######"]), min_size=1, max_size=5)
TEXT = st.lists(st.sampled_from(list(b"abc")), max_size=40).map(bytes)
CUTS = st.lists(st.integers(0, 40), max_size=12)
SECRET = st.binary(min_size=8, max_size=40)


def pieces(text: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def streamed(forms: Forms, parts: list[bytes], idle: bool = False) -> bytes:
    scrubber = Scrubber(forms)
    out = b""
    for part in parts:
        out += scrubber.feed(part)
        if idle:
            out += scrubber.idle()
    return out + scrubber.finish()


@given(TABLE, TEXT, CUTS)
def test_any_cut_gives_what_the_whole_gives(table: dict[bytes, bytes], text: bytes, cuts: list[int]) -> None:
    forms = Forms(table)
    assert streamed(forms, pieces(text, cuts)) == forms.replaced(text)


@given(TABLE, TEXT, CUTS)
def test_no_form_survives_and_text_without_one_is_unchanged(
    table: dict[bytes, bytes], text: bytes, cuts: list[int]
) -> None:
    forms = Forms(dict.fromkeys(table, b"#"))
    out = streamed(forms, pieces(text, cuts))
    assert not any(form in out for form in table)
    if not any(form in text for form in table):
        assert out == text


@given(TABLE, TABLE, TEXT, CUTS)
def test_what_is_held_back_says_nothing_of_the_forms(
    one: dict[bytes, bytes], other: dict[bytes, bytes], text: bytes, cuts: list[int]
) -> None:
    longest = max(map(len, (*one, *other)))
    tables = ({b"z" * longest: b"#", **dict.fromkeys(table, b"#")} for table in (one, other))
    scrubbers = [Scrubber(Forms(table)) for table in tables]
    if not any(form in text for form in (*one, *other)):
        for part in pieces(text, cuts):
            first, second = (scrubber.feed(part) for scrubber in scrubbers)
            assert first == second


@given(TABLE, TEXT, CUTS)
def test_a_line_passes_when_it_ends(table: dict[bytes, bytes], text: bytes, cuts: list[int]) -> None:
    forms = Forms(table)
    scrubber = Scrubber(forms)
    for part in pieces(text, cuts):
        assert b"".join((scrubber.feed(part), scrubber.feed(b"\n"))) == forms.replaced(part) + b"\n"


def test_a_pause_answers_few_guesses() -> None:
    """Whoever chooses the text and sees what is held back in a pause could find the secret letter by letter."""
    secret, letters, told = b"real-secret-9", b"-0123456789acerlstx", []
    forms = Forms({secret: b"ph"})
    guess = b""
    for _ in secret:
        for letter in letters:
            scrubber = Scrubber(forms)
            given = guess + bytes((letter,))
            scrubber.feed(b"\n" + given)
            if scrubber.holds and scrubber.idle() != given:
                told.append(given)
                guess = given
                break
    assert len(told) <= GUESSES
    assert Scrubber(forms).feed(secret + b"\n") == b"ph\n"


@given(SECRET, st.binary(max_size=30), st.binary(max_size=30), CUTS)
def test_a_pause_lets_the_first_bytes_of_a_form_pass_at_most(
    secret: bytes, before: bytes, after: bytes, cuts: list[int]
) -> None:
    table = spellings.table([(secret, b"placeholder-1")], level=True)
    forms = Forms(table)
    text = before + secret + after
    out = streamed(forms, pieces(text, cuts), idle=True)
    whole = forms.replaced(text)
    assert len(out) == len(text)
    differ = [n for n in range(len(text)) if out[n] != whole[n]]
    assert len(differ) <= forms.early * sum(text.count(form) for form in table)
    assert all(out[n] == text[n] for n in differ)


@given(SECRET, st.binary(max_size=9), st.binary(max_size=9))
def test_every_spelling_that_libraries_make_is_known(secret: bytes, before: bytes, after: bytes) -> None:
    forms = Forms(spellings.table([(secret, b"ph")], level=False))
    text = secret.decode("latin-1")
    said = [
        secret,
        text.encode(),
        secret.hex().encode(),
        secret.hex().upper().encode(),
        urllib.parse.quote(secret).encode(),
        urllib.parse.quote_plus(secret).encode(),
        urllib.parse.quote(secret, safe="").encode(),
        "".join(f"%{byte:02x}" for byte in secret).encode(),
        "".join(f"%{byte:02X}" for byte in secret).encode(),
        json.dumps(text).encode(),
        json.dumps(text, ensure_ascii=False).encode(),
        json.dumps(text).replace("/", "\\/").encode(),
    ]
    for spelled in said:
        assert forms.found(b"<" + spelled + b">")
        assert forms.replaced(b"<" + spelled + b">") != b"<" + spelled + b">"
    for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
        assert forms.found(alphabet(before + secret + after))


@given(SECRET, st.binary(min_size=1, max_size=60))
def test_a_level_mark_is_as_long_as_what_it_replaces(secret: bytes, placeholder: bytes) -> None:
    table = spellings.table([(secret, placeholder)], level=True)
    assert all(len(form) == len(mark) for form, mark in table.items())


def test_the_placeholder_comes_back_in_the_spelling_of_the_secret() -> None:
    forms = Forms(spellings.table([(b"real+secret/1", b"ph?0")], level=False))
    assert forms.replaced(b"x real+secret/1 y") == b"x ph?0 y"
    assert forms.replaced(b"real%2Bsecret%2F1") == b"ph%3F0"
    assert forms.replaced(b"real+secret/1".hex().encode()) == b"ph?0".hex().encode()
    decoded = base64.b64decode(forms.replaced(base64.b64encode(b"ab:real+secret/1")))
    assert decoded[:-1] == b"ab:ph?0********"  # the last character holds bits of what would follow
