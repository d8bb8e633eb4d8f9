"""A Java key store with the certificates of a PEM bundle, written without a JDK.

Java reads neither PEM nor the system's bundle. The old JKS format, which every JDK still opens, is a plain list with a
keyed SHA-1 at its end (sun.security.provider.JavaKeyStore, engineStore); it holds public certificates only.
"""

from __future__ import annotations

import base64
import hashlib
import re

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_MAGIC, _VERSION, _TRUSTED = 0xFEEDFEED, 2, 2
_WHITENER = b"Mighty Aphrodite"


def _text(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(2, "big") + data


def from_pem(bundle: bytes, password: str) -> bytes:
    """The key store; entries are named remit-0, remit-1, … in the order of `bundle`."""
    certificates = [base64.b64decode(b"".join(block.split())) for block in _BLOCK.findall(bundle)]
    store = b"".join(number.to_bytes(4, "big") for number in (_MAGIC, _VERSION, len(certificates)))
    for index, certificate in enumerate(certificates):
        store += _TRUSTED.to_bytes(4, "big") + _text(f"remit-{index}") + bytes(8) + _text("X.509")
        store += len(certificate).to_bytes(4, "big") + certificate
    keyed = password.encode("utf-16-be") + _WHITENER + store
    return store + hashlib.sha1(keyed, usedforsecurity=False).digest()
