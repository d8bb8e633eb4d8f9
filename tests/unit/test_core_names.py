import pytest

from remit.core import names


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("api.github.com", "api.github.com"),
        ("API.GitHub.com", "api.github.com"),
        ("api.github.com.", "api.github.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("localhost", "localhost"),
    ],
)
def test_one_spelling_is_canonical(written: str, canonical: str) -> None:
    assert names.canonical(written) == canonical


@pytest.mark.parametrize(
    "hostile",
    ["", ".", "..", "a..b", "-a.com", "a-.com", "a_b.com", "a b.com", "a\x00.com", "bücher.example", "a" * 64 + ".com",
     "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.01", "1.2.3.4.5", "[::1", "::1]", "[fe80::1%eth0]",
     "2001:db8:0::1", "[::ffff:127.0.0.1]]", "a.com/", "a.com:80", "a@b.com", "*.a.com", "a.com#", "a." * 130 + "com"],
)  # fmt: skip
def test_whatever_has_no_canonical_form_is_refused(hostile: str) -> None:
    assert names.canonical(hostile) is None


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("a.com", ("a.com", 443)),
        ("a.com:8443", ("a.com", 8443)),
        ("[2001:db8::1]:8443", ("2001:db8::1", 8443)),
        ("[2001:db8::1]", ("2001:db8::1", 443)),
        ("a.com:", None),
        ("a.com:0", None),
        ("a.com:65536", None),
        ("a.com:٨٠", None),
        ("a.com:+80", None),
        ("a.com: 80", None),
        ("user@a.com", None),
        ("a.com,b.com", None),
        ("[::1]x", None),
        ("2001:db8::1", None),
        ("a.com:80:80", None),
    ],
)
def test_an_authority_is_a_host_and_a_port_or_nothing(authority: str, expected: tuple[str, int] | None) -> None:
    assert names.split_authority(authority, 443) == expected


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("a.com", "a.com", True),
        ("a.com", "b.a.com", False),
        ("*.a.com", "b.a.com", True),
        ("*.a.com", "c.b.a.com", True),
        ("*.a.com", "a.com", False),
        ("*.a.com", "ba.com", False),
        ("*.a.com", "xa.com", False),
        ("*.a.com", ".a.com", False),
    ],
)
def test_a_wildcard_covers_names_below_it_and_nothing_else(pattern: str, name: str, covered: bool) -> None:
    assert names.covers(pattern, name) is covered
