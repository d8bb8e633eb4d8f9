"""Each kind of exchange as a transcript: what the node asks, what it is told, what it then has."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import pytest

from remit.core.errors import Unavailable
from remit.core.exchange import Answer, Call, Endpoint, Exchange, Granted, Sign, endpoint
from remit.core.exchanges.github_app import GitHubApp
from remit.core.exchanges.jwt_bearer import JwtBearer
from remit.core.exchanges.oauth2 import Authentication, Client, ClientCredentials, RefreshToken
from remit.core.exchanges.registry import RegistryToken

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TOKENS = Endpoint(host="auth.example.com", port=443, target="/oauth/token")
SECRET = "s3cret/with+odd:chars"


def told(status: int = 200, **content: Any) -> Answer:
    return Answer(status=status, body=json.dumps(content).encode())


def run(exchange: Exchange, value: bytes, *answers: Answer | bytes) -> tuple[list[Call | Sign], Granted]:
    """What was asked, and what was granted in the end."""
    assert exchange.unfit(value) is None
    steps, asked = exchange.steps(value, NOW), []
    try:
        asked.append(next(steps))
        for answer in answers:
            asked.append(steps.send(answer))
    except StopIteration as end:
        return asked, end.value
    raise AssertionError(f"asks for more: {asked[-1]}")


def form(call: Call | Sign) -> dict[str, str]:
    assert isinstance(call, Call)
    return {name: value for name, (value,) in parse_qs(call.body.decode(), strict_parsing=True).items()}


def client(authentication: Authentication = Authentication.BASIC, **more: Any) -> Client:
    return Client(endpoint=TOKENS, client_id="agent:1", authentication=authentication, **more)


def test_client_credentials_with_basic() -> None:
    exchange = ClientCredentials(client=client(scopes=("read", "write"), more=(("audience", "api"),)))
    (call,), granted = run(exchange, SECRET.encode(), told(access_token="at-1", expires_in=600, token_type="Bearer"))
    assert isinstance(call, Call)
    assert (call.method, call.endpoint) == ("POST", TOKENS)
    assert form(call) == {"grant_type": "client_credentials", "scope": "read write", "audience": "api"}
    pair = base64.b64decode(call.headers["authorization"].removeprefix("Basic ")).decode()
    assert pair == "agent%3A1:s3cret%2Fwith%2Bodd%3Achars"  # RFC 6749 §2.3.1: each form-encoded first
    assert granted == Granted(value=b"at-1", lasts_s=600)


def test_client_credentials_in_the_body() -> None:
    (call,), _ = run(ClientCredentials(client=client(Authentication.POST)), SECRET.encode(), told(access_token="a"))
    assert form(call) == {"grant_type": "client_credentials", "client_id": "agent:1", "client_secret": SECRET}
    assert isinstance(call, Call)
    assert "authorization" not in call.headers


STORED = json.dumps({"refresh_token": "rt-1", "client_secret": "cs", "note": "kept"}).encode()


def test_a_refresh_token_that_stays() -> None:
    for again in ({}, {"refresh_token": "rt-1"}):
        (call,), granted = run(
            RefreshToken(client=client()), STORED, told(access_token="at-1", expires_in="60", **again)
        )
        assert form(call) == {"grant_type": "refresh_token", "refresh_token": "rt-1"}
        assert granted == Granted(value=b"at-1", lasts_s=60)


def test_a_refresh_token_that_is_rotated() -> None:
    _, granted = run(RefreshToken(client=client()), STORED, told(access_token="at-1", refresh_token="rt-2"))
    assert granted.stored is not None
    assert json.loads(granted.stored) == {"refresh_token": "rt-2", "client_secret": "cs", "note": "kept"}


def test_a_public_client_has_only_its_refresh_token() -> None:
    exchange = RefreshToken(client=client(Authentication.NONE))
    (call,), granted = run(exchange, b"rt-1", told(access_token="at-1", refresh_token="rt-2"))
    assert form(call) == {"grant_type": "refresh_token", "refresh_token": "rt-1", "client_id": "agent:1"}
    assert granted.stored is not None
    (call,), _ = run(exchange, granted.stored, told(access_token="at-2"))
    assert form(call)["refresh_token"] == "rt-2"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (told(400, error="invalid_grant", error_description=f"bad {SECRET}"), "refuses a token: invalid_grant"),
        (told(401, error=SECRET), "refuses a token with status 401"),
        (told(200, error="invalid_client"), "refuses a token: invalid_client"),
        (told(302, access_token="at"), "redirects (302); a token endpoint is never followed"),
        (told(500), "refuses a token with status 500"),
        (told(200), "what is no token"),
        (told(200, access_token=""), "what is no token"),
        (told(200, access_token=["at"]), "what is no token"),
        (told(200, access_token="at\u00e9"), "what is no token"),
        (told(200, access_token="a" * 40_000), "what is no token"),
        (told(200, access_token="at", token_type="mac"), "of a type that is not presented here"),
        (Answer(status=200, body=b"access_token=at"), "what is no token"),
        (Answer(status=200, body=b"[" * 20_000), "what is no token"),
        (Answer(status=200, body=b""), "what is no token"),
    ],
)
def test_what_a_token_endpoint_says_in_words_is_not_shown(answer: Answer, said: str) -> None:
    with pytest.raises(Unavailable) as caught:
        run(ClientCredentials(client=client()), SECRET.encode(), answer)
    assert said in caught.value.detail
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("told_s", "seconds"),
    [
        (60, 60),
        ("60", 60),
        (0, 0),
        (-5, 0),
        (10**9, 86_400),
        ("soon", 300),
        (None, 300),
        (float("nan"), 300),
        ([], 300),
    ],
)
def test_how_long_a_token_lasts_is_bounded(told_s: object, seconds: float) -> None:
    _, granted = run(ClientCredentials(client=client()), b"s", told(access_token="at", expires_in=told_s))
    assert granted.lasts_s == seconds


@pytest.mark.parametrize(
    ("exchange", "value"),
    [
        (ClientCredentials(client=client()), b""),
        (ClientCredentials(client=client()), b"\xff"),
        (RefreshToken(client=client()), b"rt-1"),
        (RefreshToken(client=client()), b'{"refresh_token": "rt-1"}'),
    ],
)
def test_what_cannot_be_exchanged(exchange: Exchange, value: bytes) -> None:
    assert exchange.unfit(value) is not None


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://auth.example.com/oauth/token", TOKENS),
        ("https://auth.example.com:443/oauth/token", TOKENS),
        ("https://auth.example.com:8443", Endpoint(host="auth.example.com", port=8443, target="/")),
        ("http://auth.example.com/", None),
        ("https://user@auth.example.com/", None),
        ("https://auth.example.com/#x", None),
        ("https://auth.example.com/a b", None),
        ("https://auth.example.com/\r\nx: y", None),
        ("https://AUTH.example.com./", Endpoint(host="auth.example.com", port=443, target="/")),
        ("https:///token", None),
        ("auth.example.com", None),
    ],
)
def test_a_token_endpoint_is_a_plain_https_url(url: str, found: Endpoint | None) -> None:
    assert endpoint(url) == found


def test_nothing_of_an_exchange_prints_what_it_carries() -> None:
    (call,), granted = run(ClientCredentials(client=client()), SECRET.encode(), told(access_token="at-secret"))
    shown = f"{call!r} {granted!r} {told(access_token='at-secret')!r} {Sign(key=b'KEY', message=b'm')!r}"
    assert SECRET not in shown
    assert "at-secret" not in shown
    assert "KEY" not in shown


PEM = b"-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n"
ACCOUNT = json.dumps({"private_key": PEM.decode(), "client_email": "a@b.example", "private_key_id": "k1"}).encode()


def claims(call: Call | Sign) -> tuple[dict[str, Any], dict[str, Any]]:
    """(header, claims) of what is to be signed."""
    assert isinstance(call, Sign)
    assert call.algorithm == "RS256"
    header, body = (json.loads(base64.urlsafe_b64decode(part + b"==")) for part in call.message.split(b"."))
    return header, body


def test_a_service_account_signs_who_it_is() -> None:
    exchange = JwtBearer(endpoint=TOKENS, subject="user@b.example", scopes=("s1", "s2"))
    (sign, call), granted = run(exchange, ACCOUNT, b"signature", told(access_token="at-1", expires_in=3599))
    header, said = claims(sign)
    assert header == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    assert said == {
        "iss": "a@b.example", "sub": "user@b.example", "aud": "https://auth.example.com/oauth/token",
        "scope": "s1 s2", "iat": 1795521600, "exp": 1795521900,
    }  # fmt: skip
    assert isinstance(sign, Sign)
    assert sign.key == PEM
    sent = form(call)
    assert sent["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    assert sent["assertion"] == sign.message.decode() + "." + "c2lnbmF0dXJl"
    assert granted == Granted(value=b"at-1", lasts_s=3599)


def test_a_bare_key_needs_an_issuer() -> None:
    assert JwtBearer(endpoint=TOKENS).unfit(PEM) is not None
    assert JwtBearer(endpoint=TOKENS, issuer="me").unfit(PEM) is None
    (sign, _), _ = run(JwtBearer(endpoint=TOKENS, issuer="me", audience="them"), PEM, b"s", told(access_token="at"))
    header, said = claims(sign)
    assert (header.get("kid"), said["iss"], said["aud"]) == (None, "me", "them")
    assert JwtBearer(endpoint=TOKENS, issuer="me").unfit(b"no key") == "the secret holds no private key in PEM form"


def test_an_installation_of_a_github_app() -> None:
    api = Endpoint(host="api.github.com", port=443, target="/app/installations/7/access_tokens")
    exchange = GitHubApp(endpoint=api, app="Iv1.x", repositories=("tool",), permissions=(("contents", "read"),))
    ends = "2026-11-24T13:00:00Z"
    (sign, call), granted = run(exchange, PEM, b"signature", told(201, token="ghs_1", expires_at=ends))
    assert claims(sign)[1] == {"iat": 1795521540, "exp": 1795522080, "iss": "Iv1.x"}
    assert isinstance(call, Call)
    assert isinstance(sign, Sign)
    assert (call.method, call.endpoint) == ("POST", api)
    assert call.headers["authorization"] == f"Bearer {sign.message.decode()}.c2lnbmF0dXJl"
    assert json.loads(call.body) == {"repositories": ["tool"], "permissions": {"contents": "read"}}
    assert granted == Granted(value=b"ghs_1", lasts_s=3600)


@pytest.mark.parametrize("ends", [None, "soon", 5, "2026-11-24T13:00:00"])
def test_an_installation_token_without_an_end_is_refused(ends: object) -> None:
    with pytest.raises(Unavailable, match="does not say when"):
        run(GitHubApp(endpoint=TOKENS, app="1"), PEM, b"s", told(201, token="ghs_1", expires_at=ends))


def test_a_registry_is_asked_for_a_token_of_what_is_pulled() -> None:
    exchange = RegistryToken(
        endpoint=TOKENS,
        service="registry.example.com",
        scopes=("repository:a/b:pull", "repository:c:pull"),
        username="u",
    )
    (call,), granted = run(exchange, b"pw", told(token="rt-1", access_token="other"))
    assert isinstance(call, Call)
    assert call.method == "GET"
    assert call.endpoint.target == (
        "/oauth/token?service=registry.example.com&scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull"
    )
    assert base64.b64decode(call.headers["authorization"].removeprefix("Basic ")) == b"u:pw"
    assert granted == Granted(value=b"rt-1", lasts_s=60)
