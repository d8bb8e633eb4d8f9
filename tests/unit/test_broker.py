"""Secrets open for a permit, for the name and the key they were sealed for, and print nowhere."""

import json
import logging
import pickle
import traceback
from pathlib import Path

import pytest

from remit.broker import sealed
from remit.broker.sealed import Opener
from remit.core.errors import Invalid, Unavailable
from remit.core.secret import Secret

CANARY = b"canary-8f3a-0-value"


def test_a_sealed_secret_opens_on_its_node_only(tmp_path: Path) -> None:
    ours, theirs = Opener(tmp_path / "a.key"), Opener(tmp_path / "b.key")
    blob = sealed.seal(ours.public, "github", CANARY)
    assert CANARY not in blob
    assert Opener(tmp_path / "a.key").open("github", blob) == CANARY
    with pytest.raises(Unavailable, match="not sealed for this node"):
        theirs.open("github", blob)
    with pytest.raises(Unavailable, match="another name"):
        ours.open("slack", blob)
    with pytest.raises(Unavailable, match="not sealed"):
        ours.open("github", blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(Unavailable, match="not sealed"):
        ours.open("github", b"")


def test_binary_secrets_keep_every_byte(tmp_path: Path) -> None:
    opener = Opener(tmp_path / "a.key")
    value = bytes(range(256))
    assert opener.open("x", sealed.seal(opener.public, "x", value)) == value


@pytest.mark.parametrize("value", [b"", b"x" * (sealed.MAX_SECRET + 1)])
def test_a_secret_has_a_size(tmp_path: Path, value: bytes) -> None:
    with pytest.raises(Invalid):
        sealed.seal(Opener(tmp_path / "a.key").public, "x", value)


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    Opener(tmp_path / "a.key")
    (tmp_path / "a.key").chmod(0o644)
    with pytest.raises(Unavailable, match="can be read by others"):
        Opener(tmp_path / "a.key")


def test_a_secret_shows_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(CANARY)
    logging.getLogger("x").warning("%s %r", secret, secret)
    shown = f"{secret} {secret!r} {secret:>20} {vars(type(secret))} {caplog.text}"
    try:
        raise ValueError(secret)
    except ValueError:
        shown += traceback.format_exc()
    for leak in (json.dumps, pickle.dumps):
        with pytest.raises(TypeError) as caught:
            leak(secret)  # type: ignore[operator]
        shown += str(caught.value)
    assert "canary" not in shown
    assert secret != Secret(CANARY)
