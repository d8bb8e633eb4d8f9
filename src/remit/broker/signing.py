"""Signatures with a key that is at hand. One that never leaves its store signs in `openbao.transit`."""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from remit.core.errors import Unavailable
from remit.core.exchange import KEPT_KEY, Sign

LEAST_BITS = 2048
"""RFC 7518 §3.3."""


class Signer(Protocol):
    async def __call__(self, wanted: Sign) -> bytes:
        """The signature. `Unavailable` where the key cannot make it."""
        ...


async def local(wanted: Sign) -> bytes:
    """`Signer` with the key in `wanted` itself (about 1 ms)."""
    if KEPT_KEY.fullmatch(wanted.key.strip()):
        raise Unavailable("the key is kept in OpenBao, and this node has none (setting openbao_file)")
    if wanted.algorithm != "RS256":
        raise Unavailable(f"signatures of kind {wanted.algorithm} are not made here")
    try:
        key = serialization.load_pem_private_key(wanted.key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Unavailable("the secret holds no private key that can be read (PEM, without a password)") from None
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < LEAST_BITS:
        raise Unavailable(f"the secret's private key is no RSA key of at least {LEAST_BITS} bits")
    return key.sign(wanted.message, padding.PKCS1v15(), hashes.SHA256())
