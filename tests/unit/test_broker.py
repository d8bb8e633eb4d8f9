"""Secrets open for a permit, for the name and the key they were sealed for, and print nowhere."""

import copy
import io
import json
import logging
import pickle
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from permits import SEEN, asked, credential, permit

from remit.broker import sealed
from remit.broker.sealed import Opener
from remit.broker.secrets import Broker
from remit.core.credential import Injected
from remit.core.errors import Conflict, Invalid, Unavailable
from remit.core.injections.basic import BasicInjection
from remit.core.reason import Reason, Refusal
from remit.core.secret import Secret
from remit.core.snapshot import Revoked, Rules, Snapshot
from remit.core.source import MAX_KEPT_BYTES

CANARY = b"canary-8f3a-0-value"
PERMIT = permit(credential())
REVOKED = Revoked(credentials=frozenset({"github-token"}))


def value(opened: Secret | Refusal) -> bytes:
    assert isinstance(opened, Secret)
    return opened.reveal(PERMIT)


def holding(opener: Opener, secret: bytes = CANARY, **revoked: frozenset[str]) -> Snapshot:
    return Snapshot(sealed={"github": sealed.seal(opener.public, "github", secret)}, revoked=Revoked(**revoked))


@pytest.fixture
def opener(tmp_path: Path) -> Opener:
    return Opener(tmp_path / "sealed.key")


def test_a_sealed_secret_opens_on_its_node_only(tmp_path: Path) -> None:
    ours, theirs = Opener(tmp_path / "a.key"), Opener(tmp_path / "b.key")
    blob = sealed.seal(ours.public, "github", CANARY)
    assert CANARY not in blob
    assert value(Opener(tmp_path / "a.key").open("github", blob)) == CANARY
    with pytest.raises(Unavailable, match="not sealed for this node"):
        theirs.open("github", blob)


def test_a_blob_cannot_take_the_place_of_another(opener: Opener) -> None:
    blob = sealed.seal(opener.public, "github", CANARY)
    for other in ("slack", "git", "github2", ""):
        with pytest.raises(Unavailable, match="another name"):
            opener.open(other, blob)


def test_a_blob_that_was_changed_does_not_open(opener: Opener) -> None:
    blob = sealed.seal(opener.public, "github", CANARY)
    for at in range(len(blob)):
        with pytest.raises(Unavailable, match="not sealed"):
            opener.open("github", blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :])
    for bad in (b"", blob[:-1], blob + b"x", b"\0" * 200):
        with pytest.raises(Unavailable, match="not sealed"):
            opener.open("github", bad)


def test_binary_secrets_keep_every_byte(opener: Opener) -> None:
    every = bytes(range(256))
    assert value(opener.open("x", sealed.seal(opener.public, "x", every))) == every


@pytest.mark.parametrize("secret", [b"", b"x" * (MAX_KEPT_BYTES + 1)])
def test_a_secret_has_a_size(opener: Opener, secret: bytes) -> None:
    with pytest.raises(Invalid):
        sealed.seal(opener.public, "x", secret)


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 300])
def test_a_name_that_is_none_is_refused(opener: Opener, name: str) -> None:
    with pytest.raises(Invalid):
        sealed.seal(opener.public, name, b"v")
    with pytest.raises(Invalid):
        sealed.seal(b"short", "x", b"v")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o620])
def test_a_key_that_others_can_read_is_not_used(opener: Opener, tmp_path: Path, mode: int) -> None:
    (tmp_path / "sealed.key").chmod(mode)
    with pytest.raises(Unavailable, match="can be read by others"):
        Opener(tmp_path / "sealed.key")


def test_the_key_is_private_and_its_public_half_is_not(opener: Opener, tmp_path: Path) -> None:
    assert (tmp_path / "sealed.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "sealed.pub").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "sealed.pub").read_bytes() == opener.public


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    short, link = tmp_path / "short.key", tmp_path / "link.key"
    short.write_bytes(b"x" * 31)
    short.chmod(0o600)
    link.symlink_to(short)
    for file in (short, link, tmp_path / "none" / "x.key"):
        with pytest.raises(Unavailable):
            Opener(file)


def test_a_rotated_key_opens_the_old_blobs_until_it_is_retired(opener: Opener, tmp_path: Path) -> None:
    before, blob = opener.public, sealed.seal(opener.public, "github", CANARY)
    opener.rotate()
    assert opener.public != before
    assert (tmp_path / "sealed.pub").read_bytes() == opener.public
    with pytest.raises(Conflict):
        opener.rotate()
    again = Opener(tmp_path / "sealed.key")
    anew = again.reseal("github", blob)
    assert value(again.open("github", blob)) == value(again.open("github", anew)) == CANARY
    again.retire()
    assert value(again.open("github", anew)) == CANARY
    with pytest.raises(Unavailable, match="not sealed for this node"):
        again.open("github", blob)
    with pytest.raises(Unavailable):
        again.reseal("slack", anew)


def test_a_permit_gets_the_secret_of_its_credential(opener: Opener) -> None:
    broker = Broker(opener, time.monotonic)
    broker.update(holding(opener))
    found = broker.lease(PERMIT)
    assert value(found) == CANARY
    assert broker.lease(PERMIT) is found


def test_a_secret_that_was_replaced_or_removed_is_forgotten(opener: Opener) -> None:
    broker = Broker(opener, time.monotonic)
    broker.update(holding(opener))
    assert value(broker.lease(PERMIT)) == CANARY
    broker.update(holding(opener, b"second-one"))
    assert value(broker.lease(PERMIT)) == b"second-one"
    broker.update(Snapshot())
    found = broker.lease(PERMIT)
    assert isinstance(found, Refusal)
    assert (found.reason, found.detail) == (Reason.CREDENTIAL_UNAVAILABLE, "no secret github is stored")
    assert "second" not in repr(vars(broker))


@pytest.mark.parametrize(
    ("wanted", "change", "reason"),
    [
        (permit(None), lambda s: s, Reason.CREDENTIAL_UNAVAILABLE),
        (permit(credential(), "evil.com"), lambda s: s, Reason.CREDENTIAL_NOT_PINNED),
        (PERMIT, lambda s: replace(s, revoked=REVOKED), Reason.CREDENTIAL_REVOKED),
        (PERMIT, lambda s: replace(s, sealed={"github": b"garbage"}), Reason.CREDENTIAL_UNAVAILABLE),
        (PERMIT, lambda s: replace(s, sealed={"slack": s.sealed["github"]}), Reason.CREDENTIAL_UNAVAILABLE),
        (permit(credential(secret="slack")), lambda s: replace(s, sealed={"slack": s.sealed["github"]}),
         Reason.CREDENTIAL_UNAVAILABLE),
    ],
)  # fmt: skip
def test_nothing_is_leased_without_every_condition(
    opener: Opener, wanted: object, change: Callable[[Snapshot], Snapshot], reason: Reason
) -> None:
    broker = Broker(opener, time.monotonic)
    broker.update(change(holding(opener)))
    found = broker.lease(wanted)  # type: ignore[arg-type]
    assert isinstance(found, Refusal)
    assert found.reason is reason


def test_a_secret_that_would_split_a_header_is_not_leased_for_one(opener: Opener) -> None:
    broker = Broker(opener, time.monotonic)
    broker.update(holding(opener, b"a\r\nx-admin: 1"))
    for _ in range(2):
        found = broker.lease(PERMIT)
        assert isinstance(found, Refusal)
        assert found.reason is Reason.CREDENTIAL_UNAVAILABLE
        assert "control characters" in found.detail
        assert "x-admin" not in found.detail
    assert isinstance(broker.lease(permit(credential(BasicInjection(username="u")))), Secret)


def test_a_leased_secret_is_what_gets_injected(opener: Opener) -> None:
    broker = Broker(opener, time.monotonic)
    broker.update(holding(opener))
    found = credential().injection.inject(value(broker.lease(PERMIT)), asked(), SEEN)
    assert isinstance(found, Injected)
    assert found.headers == ((b"authorization", b"Bearer " + CANARY),)


def test_a_secret_shows_nowhere(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker(opener, time.monotonic)
    broker.update(holding(opener))
    secret = broker.lease(PERMIT)
    logging.getLogger("x").warning("%s %r %s", secret, secret, {"s": secret})
    shown = f"{secret} {secret!r} {secret:>20} {vars(type(secret))} {vars(broker)} {vars(opener)} {caplog.text}"
    try:
        raise ValueError(secret)
    except ValueError:
        shown += traceback.format_exc()
    for leak in (json.dumps, pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError) as caught:
            leak(secret)
        shown += str(caught.value)
    assert "canary" not in shown
    assert secret != Secret(CANARY)
    assert json.dumps({"s": secret}, default=str) == '{"s": "Secret(\\u2026)"}'


def test_no_traceback_with_its_local_variables_shows_a_secret(opener: Opener) -> None:
    blob = sealed.seal(opener.public, "github", CANARY)
    out = io.StringIO()
    for failing in (lambda: opener.open("slack", blob), lambda: opener.reseal("slack", blob)):
        try:
            failing()
        except Unavailable as error:
            out.write("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
    assert "slack" in out.getvalue()
    assert "canary" not in out.getvalue()


def test_an_expired_secret_denies_with_its_reason_and_a_new_one_serves(opener: Opener) -> None:
    now = 1_700_000_000.0
    broker = Broker(opener, time.monotonic, lambda: now)
    ends = {"github": datetime.fromtimestamp(now + 10, UTC)}
    broker.update(replace(holding(opener), expires=ends))
    assert value(broker.lease(PERMIT)) == CANARY
    now += 10
    found = broker.lease(PERMIT)
    assert isinstance(found, Refusal)
    assert (found.reason, found.detail) == (
        Reason.CREDENTIAL_EXPIRED,
        "secret github expired at 2023-11-14T22:13:30+00:00",
    )
    assert "canary" not in repr(vars(broker))
    broker.update(holding(opener, b"second-value"))
    assert value(broker.lease(PERMIT)) == b"second-value"


async def test_a_probe_tells_whether_and_never_what(opener: Opener) -> None:
    broker = Broker(opener, time.monotonic)
    known = credential()
    for secret, ok, detail in (
        (CANARY, True, ""),
        (b"short", False, "shorter than 8 bytes"),
        (b"canary\r\nx-admin: 1", False, "control characters"),
    ):
        broker.update(replace(holding(opener, secret), rules=Rules(credentials={known.name: known})))
        found = await broker.probe(known.name)
        assert (found["ok"], detail in found["detail"]) == (ok, True)
        assert "canary" not in str(found) and "x-admin" not in str(found)
        assert found["hosts"] == list(known.hosts)
    broker.update(replace(holding(opener), rules=Rules(credentials={known.name: known}), revoked=REVOKED))
    assert "was revoked" in (await broker.probe(known.name))["detail"]
    assert (await broker.probe("../x"))["ok"] is False


def test_a_clock_that_is_set_back_revives_no_secret(opener: Opener) -> None:
    wall, elapsed = 1_700_000_000.0, 50.0
    broker = Broker(opener, lambda: elapsed, lambda: wall)
    known = replace(holding(opener), expires={"github": datetime.fromtimestamp(wall + 10, UTC)})
    broker.update(known)
    wall -= 3600
    elapsed += 9
    broker.update(replace(known, epoch=2))
    assert value(broker.lease(PERMIT)) == CANARY
    elapsed += 1
    found = broker.lease(PERMIT)
    assert isinstance(found, Refusal) and found.reason is Reason.CREDENTIAL_EXPIRED
    wall += 7200
    assert isinstance(broker.lease(PERMIT), Refusal)
