"""Keys on disk and the tokens they sign."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
from synced import Synced, names

from remit.core.claims import MAX_TOKEN_BYTES, Claims
from remit.core.errors import Invalid, Unavailable
from remit.core.reason import Reason, Refusal
from remit.identity.issuer import Issuer
from remit.identity.verifier import Verifier
from remit.testing import ManualClock

RETAIN_S = 4200.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def issuer(tmp_path: Path, clock: ManualClock) -> Issuer:
    return Issuer(directory=tmp_path / "issuer", clock=clock, retain_s=RETAIN_S)


def claims(clock: ManualClock, *, role: str = "devops", life_s: int = 600, parent: str | None = None) -> Claims:
    now = int(clock.now().timestamp())
    return Claims(
        trust_domain="remit.local",
        role=role,
        task="t-abcdefghij",
        jti="A-_123456789",
        issued=now,
        expires=now + life_s,
        parent=parent,
    )


def verifier(issuer: Issuer, clock: ManualClock) -> Verifier:
    made = Verifier(trust_domain="remit.local", clock=clock, connection_max_s=3600)
    made.replace_keys(issuer.public_keys())
    return made


def test_keys_can_be_read_by_their_owner_alone(issuer: Issuer, tmp_path: Path) -> None:
    directory = tmp_path / "issuer"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()] == [0o600]


def test_a_token_says_what_its_claims_say_and_nothing_else(issuer: Issuer, clock: ManualClock) -> None:
    token = issuer.mint(claims(clock, parent="t-bbbbbbbbbb"))
    header, payload = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    assert header == {"alg": "EdDSA", "kid": next(iter(issuer.public_keys()))}
    assert payload == {
        "sub": "spiffe://remit.local/role/devops/task/t-abcdefghij",
        "jti": "A-_123456789",
        "exp": 1767225600 + 600,
        "iat": 1767225600,
        "act": "t-bbbbbbbbbb",
    }
    assert verifier(issuer, clock).verify(token.encode()) == claims(clock, parent="t-bbbbbbbbbb")


def test_the_longest_role_of_a_child_task_still_fits(issuer: Issuer, clock: ManualClock) -> None:
    token = issuer.mint(claims(clock, role="a" * 63, parent="t-bbbbbbbbbb"))
    assert len(token) <= MAX_TOKEN_BYTES


def test_a_token_that_would_not_fit_is_not_made(issuer: Issuer, clock: ManualClock) -> None:
    import dataclasses

    wide = dataclasses.replace(claims(clock, role="a" * 63), trust_domain="d" * 100)
    with pytest.raises(Invalid, match="at most 400") as caught:
        issuer.mint(wide)
    assert "trust_domain" in caught.value.hint


def test_keys_survive_a_restart(issuer: Issuer, clock: ManualClock, tmp_path: Path) -> None:
    token = issuer.mint(claims(clock))
    again = Issuer(directory=tmp_path / "issuer", clock=clock, retain_s=RETAIN_S)
    assert again.public_keys() == issuer.public_keys()
    assert isinstance(verifier(again, clock).verify(token.encode()), Claims)


def test_a_prepared_key_is_published_before_it_signs(issuer: Issuer, clock: ManualClock) -> None:
    old = verifier(issuer, clock)
    kid = issuer.prepare()
    assert isinstance(old.verify(issuer.mint(claims(clock)).encode()), Claims), "the old key still signs"
    assert kid in issuer.public_keys()
    issuer.activate(compromised=False)
    fresh = issuer.mint(claims(clock)).encode()
    assert old.verify(fresh) == Refusal(
        Reason.TOKEN_INVALID, "the token is signed by a key that this node does not know"
    )
    assert isinstance(verifier(issuer, clock).verify(fresh), Claims)


def test_an_old_key_verifies_until_nothing_can_carry_its_tokens(
    issuer: Issuer, clock: ManualClock, tmp_path: Path
) -> None:
    (old,) = issuer.public_keys()
    new = issuer.prepare()
    issuer.activate(compromised=False)
    clock.advance(RETAIN_S - 1)
    assert set(issuer.public_keys()) == {old, new}
    clock.advance(2)
    assert set(issuer.public_keys()) == {new}
    assert len(list((tmp_path / "issuer").iterdir())) == 1, "its file is gone"


def test_a_compromised_key_is_worth_nothing_at_once(issuer: Issuer, clock: ManualClock, tmp_path: Path) -> None:
    token = issuer.mint(claims(clock)).encode()
    node = verifier(issuer, clock)
    assert isinstance(node.verify(token), Claims)
    issuer.prepare()
    issuer.activate(compromised=True)
    node.replace_keys(issuer.public_keys())
    refused = node.verify(token)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.TOKEN_INVALID
    assert len(list((tmp_path / "issuer").iterdir())) == 1


def test_which_keys_there_are_is_on_the_disk_before_it_counts(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, synced = tmp_path / "issuer", Synced(monkeypatch)
    issuer.prepare()
    assert synced.seen[-1] == names(directory)
    assert len(names(directory)) == 2
    issuer.prepare()
    assert synced.seen[-1] == names(directory), "the name that says since when it signs"
    issuer.activate(compromised=True)
    assert synced.seen[-1] == names(directory)
    assert len(names(directory)) == 1


def test_preparing_twice_makes_one_key(issuer: Issuer) -> None:
    assert issuer.prepare() == issuer.prepare()
    assert len(issuer.public_keys()) == 2


def test_a_rotation_that_nodes_never_heard_of_takes_no_key_away(issuer: Issuer, clock: ManualClock) -> None:
    issuer.prepare()
    clock.advance(2 * RETAIN_S)
    token = issuer.mint(claims(clock)).encode()
    assert isinstance(verifier(issuer, clock).verify(token), Claims), "what signs is among the public keys"
    issuer.prepare()
    issuer.activate(compromised=False)
    assert isinstance(verifier(issuer, clock).verify(token), Claims), "it has been in use until a moment ago"
    clock.advance(RETAIN_S + 1)
    assert len(issuer.public_keys()) == 1


def test_a_key_that_cannot_be_read_stops_the_issuer_with_a_hint(
    issuer: Issuer, clock: ManualClock, tmp_path: Path
) -> None:
    next((tmp_path / "issuer").iterdir()).write_bytes(b"garbage")
    with pytest.raises(Unavailable, match="cannot be read") as caught:
        Issuer(directory=tmp_path / "issuer", clock=clock, retain_s=RETAIN_S)
    assert "rotate" in caught.value.hint
