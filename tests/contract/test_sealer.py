"""What whoever seals secrets keeps to: with the node's public key, and in memory. The node's OpenBao is asked the same
in `integration/test_openbao_local.py`."""

from pathlib import Path

import pytest

from remit.app.sealing import NodeSealer
from remit.broker.sealed import Opener
from remit.control.ports_control import Sealer
from remit.core.errors import Unavailable
from remit.testing import PlainSealer


@pytest.fixture(params=["key", "plain"])
def sealer(request: pytest.FixtureRequest, tmp_path: Path) -> Sealer:
    if request.param == "plain":
        return PlainSealer()
    (tmp_path / "key.pub").write_bytes(Opener(tmp_path / "key").public)
    return NodeSealer(tmp_path / "key.pub")


async def test_what_is_sealed_does_not_show(sealer: Sealer) -> None:
    assert b"s3cret-long" not in await sealer.seal("github", b"s3cret-long")


async def test_what_left_nothing_elsewhere_is_forgotten(sealer: Sealer) -> None:
    await sealer.forget("github", await sealer.seal("github", b"s3cret-long"))


async def test_without_a_key_nothing_is_sealed(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no sealing key"):
        await NodeSealer(tmp_path / "none").seal("github", b"s3cret-long")
