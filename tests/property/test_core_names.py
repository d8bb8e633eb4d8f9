"""One spelling a host: what is canonical is a fixed point, and no parser reads it as another host."""

import ipaddress
import socket
from urllib.parse import urlsplit

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from remit.core import names

LABEL = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?\Z")
NAME = st.lists(LABEL, min_size=1, max_size=5).map(".".join).filter(lambda name: names.canonical(name) == name)
ADDRESS = st.ip_addresses()
HOSTILE = st.text("aAzZ0129xX.-_:[]%@/\\#? \t\n\x00,;*éK", max_size=24) | st.text(max_size=12)
SPELLED = st.one_of(
    HOSTILE,
    NAME,
    NAME.map(str.upper),
    NAME.map(lambda n: n + "."),
    ADDRESS.map(str),
    ADDRESS.map(lambda a: f"[{a}]"),
    ADDRESS.map(lambda a: f"[{a}]."),
    ADDRESS.map(lambda a: a.exploded),
    st.ip_addresses(v=4).map(lambda a: hex(int(a))),
    st.ip_addresses(v=4).map(lambda a: str(int(a))),
    st.ip_addresses(v=4).map(lambda a: ".".join(f"0{int(p):o}" for p in str(a).split("."))),
    st.ip_addresses(v=4).map(lambda a: str(a).rpartition(".")[0]),
)


@given(SPELLED)
@example("[1.2.3.4]")
@example("[::1].")
@example("[fe80::1%25lo]")
@example("0x7f.0.0.1")
@example("K.com")  # KELVIN SIGN, which lower() turns into k
def test_canonical_is_a_fixed_point_and_only_folds_case_a_dot_and_brackets(text: str) -> None:
    found = names.canonical(text)
    if found is None:
        return
    assert names.canonical(found) == found
    assert found.isascii()
    bracketed = text.startswith("[")
    assert text.lower() in ({f"[{found}]"} if bracketed else {found, found + "."})
    if bracketed:
        assert ":" in found, "brackets are for IPv6 (RFC 3986 §3.2.2)"


@given(SPELLED)
def test_what_the_system_reads_as_an_address_is_canonical_only_as_that_address(text: str) -> None:
    """inet_aton reads `127.1`, `0x7f000001`, `0177.0.0.1`; none of them may pass as a name."""
    found = names.canonical(text)
    assume(found is not None and "\x00" not in text)
    assert found is not None
    try:
        read = ipaddress.IPv4Address(socket.inet_aton(found))
    except OSError:
        return
    assert str(read) == found


@given(
    SPELLED,
    st.sampled_from(
        ["", ":", ":443", ":0443", ":8443", ":0", ":65536", ":99999", ":-1", ":+1", ": 1", ":1 ", ":٣", ":443:443"]
    ),
)
def test_an_authority_is_read_as_url_parsers_read_it_or_not_at_all(host: str, port: str) -> None:
    authority = host + port
    found = names.split_authority(authority, 443)
    if found is None:
        return
    name, number = found
    assert names.canonical(name) == name
    assert 0 < number < 65536
    parts = urlsplit(f"https://{authority}/")
    assert parts.username is None
    assert (parts.hostname or "").removesuffix(".") == name
    assert (parts.port or 443) == number
    shown = f"[{name}]" if ":" in name else name
    assert names.split_authority(f"{shown}:{number}", 1) == found
    assert authority.lower() in {f"{shown}{dot}{suffix}" for dot in ("", ".") for suffix in ("", f":{number}")}, (
        "one spelling"
    )


@given(NAME, NAME)
def test_a_wildcard_covers_exactly_what_ends_in_a_dot_and_its_rest(name: str, rest: str) -> None:
    labels, wanted = name.split("."), rest.split(".")
    below = len(labels) > len(wanted) and labels[-len(wanted) :] == wanted
    assert names.covers(f"*.{rest}", name) is below
    assert names.covers(rest, name) is (rest == name)


@given(NAME, NAME)
def test_every_name_below_is_covered_and_the_rest_itself_is_not(name: str, rest: str) -> None:
    assert names.covers(f"*.{rest}", f"{name}.{rest}")
    assert not names.covers(f"*.{rest}", rest)
    assert not names.covers(f"*.{rest}", f"{name}{rest}") or "." in name


@given(ADDRESS)
def test_every_address_has_one_literal(address: names.Address) -> None:
    assert names.address_literal(str(address)) == address
    assert names.canonical(str(address)) == str(address)
    others = {address.exploded, str(address).upper(), f"{address}%1", f" {address}", f"{address}\n"} - {str(address)}
    assert all(names.address_literal(other) is None for other in others)
    bracketed = names.address_literal(f"[{address}]")
    assert bracketed == (address if address.version == 6 else None)


@pytest.mark.parametrize(
    "authority",
    ["[1.2.3.4]", "[1.2.3.4]:443", "a.com:0443", "a.com:00443", "[::1].", "[::1].:443", "[[::1]]", "[]", "[a.com]"],
)
def test_a_second_spelling_of_an_authority_is_refused(authority: str) -> None:
    assert names.split_authority(authority, 443) is None
