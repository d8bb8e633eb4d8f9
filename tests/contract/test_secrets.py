"""What every source of secrets keeps to: the broker over sealed blobs and the table in memory."""

import time
from pathlib import Path

import pytest
from permits import credential, permit

from remit.broker import sealed
from remit.broker.sealed import Opener
from remit.broker.secrets import Broker
from remit.control.ports import Secrets
from remit.core.reason import Reason, Refusal
from remit.core.secret import Secret
from remit.core.snapshot import Snapshot
from remit.testing import MemorySecrets


@pytest.fixture(params=["broker", "memory"])
def secrets(request: pytest.FixtureRequest, tmp_path: Path) -> Secrets:
    if request.param == "memory":
        return MemorySecrets({"github": b"s3cret-long"})
    opener = Opener(tmp_path / "sealed.key")
    broker = Broker(opener, time.monotonic)
    broker.update(Snapshot(sealed={"github": sealed.seal(opener.public, "github", b"s3cret-long")}))
    return broker


def test_a_permit_opens_the_secret_of_its_credential(secrets: Secrets) -> None:
    asked = permit(credential())
    found = secrets.lease(asked)
    assert isinstance(found, Secret)
    assert found.reveal(asked) == b"s3cret-long"


@pytest.mark.parametrize("asked", [permit(None), permit(credential(secret="unknown"))])
def test_what_is_not_stored_is_refused_with_its_reason(secrets: Secrets, asked: object) -> None:
    found = secrets.lease(asked)  # type: ignore[arg-type]
    assert isinstance(found, Refusal)
    assert found.reason is Reason.CREDENTIAL_UNAVAILABLE
