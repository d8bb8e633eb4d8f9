"""Signatures verify with the public key, and what is no fit key is a reason that shows nothing of it."""

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from remit.broker import signing
from remit.core.errors import Unavailable
from remit.core.exchange import Sign


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    closed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, closed)


async def test_a_signature_verifies_with_the_public_key() -> None:
    key = rsa.generate_private_key(65537, 2048)
    signature = await signing.local(Sign(key=pem(key), message=b"said"))
    key.public_key().verify(signature, b"said", padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize(
    ("key", "algorithm", "why"),
    [
        (b"-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----\n", "RS256", "no private key that can be read"),
        (pem(rsa.generate_private_key(65537, 2048), b"password"), "RS256", "no private key that can be read"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "RS256", "no RSA key of at least 2048 bits"),
        (pem(rsa.generate_private_key(65537, 1024)), "RS256", "no RSA key of at least 2048 bits"),
        (b"", "none", "signatures of kind none"),
    ],
    ids=["garbage", "closed", "elliptic", "short", "none"],
)
async def test_a_key_that_does_not_fit_is_a_reason(key: bytes, algorithm: str, why: str) -> None:
    with pytest.raises(Unavailable) as caught:
        await signing.local(Sign(key=key, message=b"m", algorithm=algorithm))
    assert why in caught.value.detail
    assert "hush" not in repr(caught.value)
    assert caught.value.__cause__ is None
