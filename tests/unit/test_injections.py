"""Each kind of injection as a transcript: the agent's request and a secret in, what the upstream gets out."""

from __future__ import annotations

import json

import pytest
from permits import SEEN, asked

from remit.core.credential import Credential, Injected, Injection
from remit.core.injections.cookie import CookieInjection
from remit.core.injections.headers import HeadersInjection, Line
from remit.core.request import Request

PAIR = json.dumps({"key": "k-secret-1", "app": "a-secret-2"}).encode()
TWO = HeadersInjection(
    lines=(Line(name="x-api-key", key="key"), Line(name="x-app-id", template="App {secret}", key="app"))
)
SESSION = CookieInjection(name="session")


def sent(injection: Injection, value: bytes, request: Request) -> dict[str, str]:
    """The headers that are set."""
    assert injection.unfit(value) is None
    found = injection.inject(value, request, SEEN)
    assert isinstance(found, Injected)
    return {name.decode(): text.decode("latin-1") for name, text in found.headers}


def test_two_headers_with_a_field_each() -> None:
    assert sent(TWO, PAIR, asked()) == {"x-api-key": "k-secret-1", "x-app-id": "App a-secret-2"}
    assert TWO.headers == {"x-api-key", "x-app-id"}
    assert [secret for secret, _ in TWO.secrets(PAIR, b"ph")] == [b"k-secret-1", b"a-secret-2"]


def test_a_header_with_the_whole_secret_beside_one_with_a_field() -> None:
    both = HeadersInjection(lines=(Line(name="x-one"), Line(name="x-two", template="v {secret}")))
    assert sent(both, b"whole", asked()) == {"x-one": "whole", "x-two": "v whole"}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"plain", "no JSON object with key and app"),
        (b'{"key": "k"}', "no JSON object with app"),
        (b'{"key": "k", "app": 3}', "no JSON object with app"),
        (b'{"key": "k", "app": "a\\r\\nx-admin: 1"}', "control characters"),
        (b'{"key": "k ", "app": "a"}', "begins or ends with a space"),
    ],
)
def test_what_two_headers_cannot_carry(value: bytes, why: str) -> None:
    said = TWO.unfit(value)
    assert said is not None
    assert why in said
    assert "admin" not in said


@pytest.mark.parametrize(
    ("agents", "upstream"),
    [
        (None, "session=s3cret"),
        ("a=1; b=2", "a=1; b=2; session=s3cret"),
        ("session=mine; a=1", "a=1; session=s3cret"),
        ("a=1;SESSION=mine", "a=1; session=s3cret"),
        ("a=1, session=mine", "a=1; session=s3cret"),
        ('"session"=mine; session = x;;', "session=s3cret"),
        ("sessions=1; xsession=2; session", "sessions=1; xsession=2; session=s3cret"),
    ],
)
def test_a_cookie_stands_once_beside_the_agents_own(agents: str | None, upstream: str) -> None:
    request = asked(**({"cookie": agents} if agents is not None else {}))
    assert sent(SESSION, b"s3cret", request) == {"cookie": upstream}


@pytest.mark.parametrize("value", [b"", b"a;b", b"a b", b"a,b", b"a\r\nb", b'a"b', b"a\\b", b"\xff"])
def test_what_a_cookie_cannot_carry(value: bytes) -> None:
    assert SESSION.unfit(value) is not None


def test_what_competes_goes_and_what_does_not_stays() -> None:
    request = asked(authorization="Bearer mine", x_api_key="mine", x_app_id="mine", x_trace="t", cookie="a=1")
    two = Credential(name="c", secret="c", injection=TWO, hosts=("h",))
    assert two.competing(request) == (b"authorization",)
    kept = Credential(name="c", secret="c", injection=TWO, hosts=("h",), keeps=frozenset({"authorization"}))
    assert kept.competing(request) == ()
    assert Credential(name="c", secret="c", injection=SESSION, hosts=("h",)).competing(request) == (
        b"authorization",
        b"x-api-key",
    )
