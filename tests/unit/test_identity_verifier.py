"""What the node believes about a token, case by case."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from remit.core.claims import Claims
from remit.core.reason import Reason, Refusal
from remit.identity import verifier as module
from remit.identity.verifier import Verifier
from remit.testing import ManualClock

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
START = 1767225600


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def verifier(clock: ManualClock) -> Verifier:
    made = Verifier(trust_domain="remit.local", clock=clock, connection_max_s=3600)
    made.replace_keys({"kid": KEY.public_key().public_bytes_raw()})
    return made


def payload(**changes: Any) -> dict[str, Any]:
    whole = {
        "sub": "spiffe://remit.local/role/devops/task/t-abcdefghij",
        "jti": "j",
        "exp": START + 600,
        "iat": START,
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not ...}


def signed(claims: Any, *, key: Any = KEY, header: dict[str, Any] | None = None, alg: str = "EdDSA") -> bytes:
    return jwt.encode(claims, key, algorithm=alg, headers={"kid": "kid", "typ": None, **(header or {})}).encode()


def part(value: Any) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def reason(result: Claims | Refusal) -> Reason:
    assert isinstance(result, Refusal), result
    return result.reason


def test_a_fresh_token_admits_its_task(verifier: Verifier) -> None:
    assert verifier.verify(signed(payload())) == Claims(
        trust_domain="remit.local", role="devops", task="t-abcdefghij", jti="j", issued=START, expires=START + 600
    )


def test_no_token_is_missing_rather_than_invalid(verifier: Verifier) -> None:
    assert reason(verifier.verify(b"")) is Reason.TOKEN_MISSING


def test_a_token_known_while_fresh_outlives_its_expiry_for_as_long_as_a_connection(
    verifier: Verifier, clock: ManualClock
) -> None:
    token = signed(payload())
    assert isinstance(verifier.verify(token), Claims)
    clock.advance(600 + 3599)
    assert isinstance(verifier.verify(token), Claims)
    clock.advance(1)
    assert reason(verifier.verify(token)) is Reason.TOKEN_EXPIRED
    assert reason(verifier.verify(token)) is Reason.TOKEN_EXPIRED, "and it does not come back"


def test_a_token_first_seen_after_its_expiry_admits_nobody(verifier: Verifier, clock: ManualClock) -> None:
    clock.advance(600)
    assert reason(verifier.verify(signed(payload()))) is Reason.TOKEN_EXPIRED


def test_a_token_of_a_dropped_key_is_forgotten_although_it_was_known(verifier: Verifier) -> None:
    token = signed(payload())
    assert isinstance(verifier.verify(token), Claims)
    verifier.replace_keys({"next": OTHER.public_key().public_bytes_raw()})
    assert reason(verifier.verify(token)) is Reason.TOKEN_INVALID


def test_a_key_id_that_now_means_another_key_forgets_what_the_first_signed(verifier: Verifier) -> None:
    token = signed(payload())
    assert isinstance(verifier.verify(token), Claims)
    verifier.replace_keys({"kid": OTHER.public_key().public_bytes_raw()})
    assert reason(verifier.verify(token)) is Reason.TOKEN_INVALID


def test_without_keys_nobody_is_admitted(clock: ManualClock) -> None:
    empty = Verifier(trust_domain="remit.local", clock=clock, connection_max_s=3600)
    assert reason(empty.verify(signed(payload()))) is Reason.TOKEN_INVALID


def test_a_malformed_key_in_a_snapshot_leaves_the_others_in_use(verifier: Verifier) -> None:
    verifier.replace_keys({"bad": b"short", "kid": KEY.public_key().public_bytes_raw()})
    assert isinstance(verifier.verify(signed(payload())), Claims)


def test_the_cache_is_bounded(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_MAX", 4)
    tokens = [signed(payload(jti=f"j{n}")) for n in range(8)]
    for token in tokens:
        assert isinstance(verifier.verify(token), Claims)
    assert len(verifier._known) == 4


FORGED = {
    "alg none without a signature": part({"alg": "none", "kid": "kid"}) + b"." + part(payload()) + b".",
    "alg none with some signature": part({"alg": "none", "kid": "kid"}) + b"." + part(payload()) + b"." + b"A" * 86,
    "alg HS256 with the public key as its secret": jwt.encode(
        payload(), KEY.public_key().public_bytes_raw().ljust(32), algorithm="HS256", headers={"kid": "kid", "typ": None}
    ).encode(),
    "another key": signed(payload(), key=OTHER),
    "another key id": signed(payload(), header={"kid": "kid2"}),
    "a key in the header": signed(payload(), header={"jwk": {"kty": "OKP"}}),
    "a key URL in the header": signed(payload(), header={"jku": "https://x"}),
    "a critical extension": signed(payload(), header={"crit": ["b64"], "b64": True}),
    "a type": signed(payload(), header={"typ": "JWT"}),
    "no key id": part({"alg": "EdDSA"}) + b"." + part(payload()) + b"." + b"A" * 86,
    "a key id that is a number": part({"alg": "EdDSA", "kid": 1}) + b"." + part(payload()) + b"." + b"A" * 86,
    "another trust domain": signed(payload(sub="spiffe://evil.local/role/devops/task/t-abcdefghij")),
    "a subject with more behind it": signed(payload(sub="spiffe://remit.local/role/devops/task/t-abcdefghij/x")),
    "a subject with a line break": signed(payload(sub="spiffe://remit.local/role/devops/task/t-abcdefghij\n")),
    "a role that is a path": signed(payload(sub="spiffe://remit.local/role/../task/t-abcdefghij")),
    "no subject": signed(payload(sub=...)),
    "no expiry": signed(payload(exp=...)),
    "an expiry that is text": signed(payload(exp=str(START + 600))),
    "an expiry that is true": signed(payload(exp=True)),
    "an expiry that is a fraction": signed(payload(exp=START + 0.5)),
    "an expiry before its issue": signed(payload(exp=START - 1)),
    "a life of ten years": signed(payload(exp=START + 315360000)),
    "an issue in the future": signed(payload(iat=START + 3600, exp=START + 4000)),
    "an unknown claim": signed(payload(admin=True)),
    "an actor that is no task": signed(payload(act="root")),
    "an actor that is null": signed(payload(act=None)),
    "claims that are a list": part({"alg": "EdDSA", "kid": "kid"}) + b"." + part([1]) + b"." + b"A" * 86,
    "padding": signed(payload()) + b"=",
    "white space": b" " + signed(payload()),
    "a NUL": signed(payload()) + b"\x00",
    "a fourth part": signed(payload()) + b".x",
    "8 KB": b"A" * 8192,
    "not UTF-8": b"\xff" * 64,
    "a truncated signature": signed(payload())[:-1],
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_token_is_invalid(verifier: Verifier, what: str) -> None:
    assert reason(verifier.verify(FORGED[what])) is Reason.TOKEN_INVALID


def test_a_token_from_a_real_issuer_of_another_installation_is_invalid(verifier: Verifier, tmp_path: Path) -> None:
    from remit.identity.issuer import Issuer

    stranger = Issuer(directory=tmp_path, clock=ManualClock(), retain_s=1)
    token = stranger.mint(
        Claims(trust_domain="remit.local", role="devops", task="t-abcdefghij", jti="j", issued=START, expires=START + 9)
    )
    assert reason(verifier.verify(token.encode())) is Reason.TOKEN_INVALID
