"""What whoever mints and whoever verifies tokens keeps to: the real ones and those in memory."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from remit.control.ports import Verifier
from remit.control.ports_control import Issuer
from remit.core.claims import MAX_TOKEN_BYTES, Claims
from remit.core.errors import Invalid
from remit.core.reason import Reason, Refusal
from remit.identity import issuer as minting
from remit.identity import verifier as verifying
from remit.testing import ManualClock, MemoryIssuer, StaticVerifier

NOW = int(ManualClock().now().timestamp())
CLAIMS = Claims(
    trust_domain="remit.local", role="devops", task="t-abcdefghij", jti="j", issued=NOW, expires=NOW + 600, parent=None
)
CHILD = replace(CLAIMS, task="t-bcdefghijk", parent="t-abcdefghij")


def real(directory: Path) -> minting.Issuer:
    return minting.Issuer(directory=directory / "issuer", clock=ManualClock(), retain_s=4200.0)


@pytest.fixture(params=["keys", "memory"])
def issuer(request: pytest.FixtureRequest, tmp_path: Path) -> Issuer:
    return MemoryIssuer() if request.param == "memory" else real(tmp_path)


@dataclass
class Gate:
    """A verifier and a token for claims that it believes."""

    verifier: Verifier
    token: Callable[[Claims], bytes]


@pytest.fixture(params=["keys", "static"])
def gate(request: pytest.FixtureRequest, tmp_path: Path) -> Gate:
    if request.param == "static":
        static = StaticVerifier({b"one": CLAIMS, b"two": CHILD})
        return Gate(static, lambda claims: b"one" if claims == CLAIMS else b"two")
    issuer = real(tmp_path)
    verifier = verifying.Verifier(trust_domain="remit.local", clock=ManualClock(), connection_max_s=3600)
    verifier.replace_keys(issuer.public_keys())
    return Gate(verifier, lambda claims: issuer.mint(claims).encode())


@pytest.mark.parametrize("claims", [CLAIMS, CHILD], ids=["task", "child"])
def test_a_token_gives_the_claims_that_it_was_made_of(gate: Gate, claims: Claims) -> None:
    assert gate.verifier.verify(gate.token(claims)) == claims


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (b"", Reason.TOKEN_MISSING),
        (b"x", Reason.TOKEN_INVALID),
        (b"\xff\x00", Reason.TOKEN_INVALID),
        (b"a" * 9000, Reason.TOKEN_INVALID),
        (b"a.b.c", Reason.TOKEN_INVALID),
    ],
)
def test_anything_else_admits_nobody_and_says_why(gate: Gate, token: bytes, reason: Reason) -> None:
    found = gate.verifier.verify(token)
    assert isinstance(found, Refusal)
    assert found.reason is reason


def test_a_token_fits_where_it_has_to_go_or_is_not_made(issuer: Issuer) -> None:
    assert 0 < len(issuer.mint(CLAIMS)) <= MAX_TOKEN_BYTES
    with pytest.raises(Invalid):
        issuer.mint(replace(CLAIMS, role="r" * 400))


def test_a_prepared_key_is_known_before_it_signs_and_the_old_one_until_it_is_worth_nothing(issuer: Issuer) -> None:
    old = set(issuer.public_keys())
    assert len(old) == 1
    prepared = issuer.prepare()
    assert set(issuer.public_keys()) == {*old, prepared}
    issuer.activate(compromised=False)
    assert set(issuer.public_keys()) == {*old, prepared}
    last = issuer.prepare()
    issuer.activate(compromised=True)
    assert set(issuer.public_keys()) == {last}
