"""What every signer keeps to: the key at hand, and the one that a real OpenBao keeps and never gives away."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from bao import Bao
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from remit.broker import signing
from remit.broker.openbao import transit
from remit.broker.openbao.source import OpenBao
from remit.broker.sealed import Opener
from remit.broker.signing import Signer
from remit.core.errors import Unavailable
from remit.core.exchange import Sign
from remit.core.exchanges import assertion

pytestmark = pytest.mark.xdist_group("openbao")

POLICY = """path "transit/sign/robot" { capabilities = ["update"] }
path "transit/sign/curve" { capabilities = ["update"] }
"""


@pytest.fixture(scope="module")
def bao() -> Iterator[Bao]:
    server = Bao()
    server.root("POST", "sys/mounts/transit", {"type": "transit"})
    for name, kind in (("robot", "rsa-2048"), ("closed", "rsa-2048"), ("curve", "ed25519")):
        server.root("POST", f"transit/keys/{name}", {"type": kind})
    server.root("PUT", "sys/policies/acl/signer", {"policy": POLICY})
    server.root("POST", "auth/approle/role/node", {"token_policies": ["node", "signer"], "token_ttl": "1h"})
    yield server
    server.stop()


@pytest.fixture
async def store(bao: Bao, tmp_path: Path) -> AsyncIterator[OpenBao]:
    made = OpenBao(
        file=bao.file(tmp_path), ledger=tmp_path / "leases.jsonl", opener=Opener(tmp_path / "sealed.key"),
        monotonic=time.monotonic, renewed=lambda *_: None,
    )  # fmt: skip
    yield made
    await made.close()


@pytest.fixture(params=["at hand", "kept", "at hand beside the store"])
def signer(request: pytest.FixtureRequest, bao: Bao, store: OpenBao) -> tuple[Signer, bytes, rsa.RSAPublicKey]:
    if request.param == "kept":
        found = bao.root("GET", "transit/keys/robot")["data"]["keys"]["1"]["public_key"]
        public = serialization.load_pem_public_key(found.encode())
        assert isinstance(public, rsa.RSAPublicKey)
        return store.sign, b"openbao:transit/robot\n", public
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return (store.sign if "store" in request.param else signing.local), pem, key.public_key()


async def test_what_is_signed_verifies(signer: tuple[Signer, bytes, rsa.RSAPublicKey]) -> None:
    sign, key, public = signer
    assert assertion.unfit_key(key) is None
    made = await sign(Sign(key=key, message=b"header.claims"))
    public.verify(made, b"header.claims", padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(InvalidSignature):
        public.verify(made, b"header.other", padding.PKCS1v15(), hashes.SHA256())


async def test_another_algorithm_is_refused(signer: tuple[Signer, bytes, rsa.RSAPublicKey]) -> None:
    sign, key, _ = signer
    with pytest.raises(Unavailable, match="of kind none"):
        await sign(Sign(key=key, message=b"x", algorithm="none"))


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (b"openbao:transit/closed", "does not let this node use transit/sign/closed"),
        (b"openbao:transit/missing", "does not let this node use transit/sign/missing"),
        (b"openbao:sys/seal", "does not let this node use sys/sign/seal"),
        (b"openbao:transit/../../sys/seal", "no private key"),
        (b"openbao:transit/robot?x=1", "no private key"),
    ],
)
async def test_only_keys_that_the_node_may_use_sign(store: OpenBao, key: bytes, why: str) -> None:
    with pytest.raises(Unavailable, match=why):
        await store.sign(Sign(key=key, message=b"x"))


async def test_a_key_of_another_kind_and_a_sealed_store_are_unavailable(store: OpenBao, bao: Bao) -> None:
    with pytest.raises(Unavailable):
        transit.signature({"data": {"signature": "vault:v1:%%%"}})
    bao.seal()
    try:
        with pytest.raises(Unavailable, match="is sealed"):
            await store.sign(Sign(key=b"openbao:transit/robot", message=b"x"))
    finally:
        bao.unseal()


async def test_a_node_without_a_store_says_so() -> None:
    with pytest.raises(Unavailable, match="this node has none"):
        await signing.local(Sign(key=b"openbao:transit/robot", message=b"x"))
