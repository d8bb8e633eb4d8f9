"""Whatever bytes arrive as a token, the verifier answers, and believes only what the issuer signed, unchanged."""

from __future__ import annotations

import base64
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from remit.core.claims import Claims
from remit.core.reason import Reason, Refusal
from remit.identity.verifier import Verifier
from remit.testing import ManualClock

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
START = 1767225600
GOOD = {"sub": "spiffe://remit.local/role/devops/task/t-abcdefghij", "jti": "j", "exp": START + 600, "iat": START}


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(header: bytes, payload: bytes) -> bytes:
    """Signed with the real key, whatever it says."""
    signed = b64(header) + b"." + b64(payload)
    return signed + b"." + b64(KEY.sign(signed))


REAL = token(b'{"alg":"EdDSA","kid":"kid"}', json.dumps(GOOD).encode())


def verifier() -> Verifier:
    made = Verifier(trust_domain="remit.local", clock=ManualClock(), connection_max_s=3600)
    made.replace_keys({"kid": KEY.public_key().public_bytes_raw()})
    return made


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.binary(max_size=600))
def test_arbitrary_bytes_never_raise_and_never_admit(data: bytes) -> None:
    refused = verifier().verify(data)
    assert isinstance(refused, Refusal)
    assert refused.reason in (Reason.TOKEN_INVALID, Reason.TOKEN_MISSING)
    assert refused.detail.isprintable()


@given(st.integers(min_value=0, max_value=len(REAL) - 1), st.integers(min_value=1, max_value=255))
def test_one_changed_byte_never_makes_other_claims(position: int, change: int) -> None:
    changed = bytearray(REAL)
    changed[position] ^= change
    result = verifier().verify(bytes(changed))
    # The last character of the signature has two unused bits, so a few spellings are the same signature.
    assert isinstance(result, Refusal) or result == verifier().verify(REAL)


@given(json_values, st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "jku", "b64"]), json_values))
def test_even_signed_nonsense_never_raises(payload: object, header: dict[str, object]) -> None:
    for head in (json.dumps(header).encode(), b'{"alg":"EdDSA","kid":"kid"}'):
        assert isinstance(verifier().verify(token(head, json.dumps(payload).encode())), Refusal)


@given(st.dictionaries(st.sampled_from(["sub", "jti", "exp", "iat", "act"]), json_values, min_size=1))
def test_signed_claims_of_wrong_shape_are_refused_or_read_exactly(changes: dict[str, object]) -> None:
    result = verifier().verify(token(b'{"alg":"EdDSA","kid":"kid"}', json.dumps({**GOOD, **changes}).encode()))
    if isinstance(result, Claims):
        assert result.subject == {**GOOD, **changes}["sub"]
        assert result.jti == {**GOOD, **changes}["jti"]


@given(st.binary(max_size=200), st.binary(max_size=120))
def test_bytes_that_are_no_json_under_a_real_signature_never_raise(payload: bytes, header: bytes) -> None:
    assert isinstance(verifier().verify(token(header, payload)), Refusal)
    assert isinstance(verifier().verify(token(b'{"alg":"EdDSA","kid":"kid"}', payload)), Refusal)


def test_deep_nesting_is_refused() -> None:
    deep = b"[" * 180 + b"]" * 20
    assert isinstance(verifier().verify(token(b'{"alg":"EdDSA","kid":"kid"}', deep)), Refusal)
