"""A certificate for the leak drill's own upstream, which Envoy has to trust as it trusts any other.

Its CA is made anew at every start, signs this one certificate, and its key is forgotten: nobody can sign with it again.
It may vouch only for a name that exists nowhere but on this node (name constraints, RFC 5280 §4.2.1.10). Only who runs
the node can read the certificate's key.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from remit.core.drill import HOST, LEAF

CA = "drill-ca.pem"
_LIFE = timedelta(days=3 * 365)
_PEM = serialization.Encoding.PEM


def write(directory: Path, now: datetime) -> Path:
    """A new CA and a leaf of it (with its key, 0600) in `directory`; the CA's file."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = dict.fromkeys(_USAGES, False)
    ca = _begun("Remit drill", "Remit drill", ca_key, now)
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca = ca.add_extension(x509.KeyUsage(**{**usage, "key_cert_sign": True}), critical=True)
    only = x509.NameConstraints(permitted_subtrees=[x509.DNSName(HOST)], excluded_subtrees=None)
    made = ca.add_extension(only, critical=True).sign(ca_key, hashes.SHA256())
    leaf = _begun(HOST, "Remit drill", key, now)
    leaf = leaf.add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
    signed = leaf.sign(ca_key, hashes.SHA256())
    private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _fresh(directory / LEAF, private + signed.public_bytes(_PEM))
    _fresh(directory / CA, made.public_bytes(_PEM))
    return directory / CA


_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def _begun(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.CertificateBuilder:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + _LIFE)


def _fresh(file: Path, data: bytes) -> None:
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
