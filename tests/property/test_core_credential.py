"""Injection puts the secret where it belongs, once, and nothing that an agent wrote beside it competes with it."""

import base64
from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from permits import SEEN, asked

from remit.core import credential
from remit.core.credential import Credential, Injected, Injection, Placeholder, Seen
from remit.core.injections.basic import BasicInjection
from remit.core.injections.header import HeaderInjection
from remit.core.injections.query import QueryInjection

KEY = st.sampled_from(
    ["key", "k%65y", "KEY", "k+y", "key[]", "ke", "keyy", "", "a", "%6bey", "key%00", "k%C3%A9y", " key"]
)
ITEM = st.one_of(
    st.tuples(KEY, st.text("ab%2=+/é", max_size=4).filter(str.isascii)).map("=".join),
    KEY,
    st.text("a;=%&?", max_size=5),
)
QUERY = st.lists(ITEM, max_size=6).map("&".join)
SECRET = st.binary(min_size=1, max_size=24)


@given(QUERY, SECRET)
@example("a=1;key=evil", b"s")
@example("key=evil;a=1", b"s")
@example("a;key", b"s")
@example("KEY=evil", b"s")
def test_a_query_parameter_stands_once_however_the_server_splits(query: str, value: bytes) -> None:
    target = QueryInjection(parameter="key").inject(value, asked(f"/p?{query}"), SEEN).target
    assert target is not None
    path, _, new = target.decode().partition("?")
    assert path == "/p"
    for separator in ("&", ";"):
        pairs = parse_qsl(new, keep_blank_values=True, separator=separator, encoding="latin-1")
        values = [found.encode("latin-1") for key, found in pairs if key.strip().casefold() == "key"]
        assert values == [value] or (separator == ";" and values == [])
    assert new.rpartition("&")[2].startswith("key=")


@given(QUERY, SECRET)
def test_every_other_item_stays_as_it_was_written_and_in_order(query: str, value: bytes) -> None:
    target = QueryInjection(parameter="other").inject(value, asked(f"/p?{query}"), SEEN).target
    assert target is not None
    kept = target.decode().partition("?")[2].split("&")[:-1]
    assert kept == [item for item in query.split("&") if item]


@pytest.mark.parametrize(
    ("target", "expected"),
    [("/p", b"/p?key=s"), ("/p?", b"/p?key=s"), ("/p?a", b"/p?a&key=s"), ("/p?a=?b", b"/p?a=?b&key=s")],
)
def test_a_target_without_a_query_gets_one(target: str, expected: bytes) -> None:
    assert QueryInjection(parameter="key").inject(b"s", asked(target), SEEN).target == expected


@given(SECRET, st.sampled_from(["{secret}", "Bearer {secret}", "a {secret} b", "{x} {secret}"]))
def test_a_header_is_its_format_with_the_secret_in_place(value: bytes, template: str) -> None:
    made = HeaderInjection(header="x-key", template=template).inject(value, asked("/p?q=1"), SEEN)
    assert made.target is None
    assert made.headers == ((b"x-key", template.encode().replace(b"{secret}", value)),)


@given(SECRET)
def test_basic_is_rfc_7617(value: bytes) -> None:
    ((name, header),) = BasicInjection(username="bob").inject(value, asked("/"), SEEN).headers
    scheme, _, encoded = header.partition(b" ")
    assert (name, scheme) == (b"authorization", b"Basic")
    assert base64.b64decode(encoded, validate=True) == b"bob:" + value


@given(st.binary(max_size=20))
def test_a_secret_that_would_split_a_header_is_unfit_for_one(value: bytes) -> None:
    why = HeaderInjection(header="x").unfit(value)
    assert (why is not None) is (not value or any(b < 0x20 or b == 0x7F for b in value) or value != value.strip(b" "))
    assert (QueryInjection(parameter="k").unfit(value) is None) is bool(value)
    assert (BasicInjection(username="u").unfit(value) is None) is bool(value)


INJECTION = st.sampled_from(
    [
        HeaderInjection(header="x-key", template="Bearer {secret}"),
        BasicInjection(username="bob"),
        QueryInjection(parameter="key"),
    ]
)


def _injected(found: object) -> Injected:
    assert isinstance(found, Injected)
    return found


@given(INJECTION, st.binary(min_size=1, max_size=12), st.booleans())
def test_what_must_not_come_back_is_told_with_what_was_injected(
    injection: Injection, value: bytes, scrub: bool
) -> None:
    wanted = Credential(
        name="c",
        secret="c",
        injection=injection,
        hosts=("h",),
        placeholders=(Placeholder(variable="V", value="ph_1"),),
        scrub=scrub,
    )
    secrets = _injected(injection.inject(value, asked(), Seen(now=SEEN.now, stand_in=wanted.stand_in))).secrets
    assert (value, b"ph_1") in secrets
    assert (credential.unhideable(wanted, value) is None) is (not scrub or len(value) >= 8)


def test_of_a_pair_the_password_and_the_pair_are_hidden() -> None:
    lease = b'{"username": "u-1", "password": "p-long-enough"}'
    assert BasicInjection(username=None).inject(lease, asked(), SEEN).secrets == (
        (b"p-long-enough", b"remit-hidden"),
        (b"u-1:p-long-enough", b"u-1:remit-hidden"),
    )
