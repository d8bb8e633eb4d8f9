"""A CA of the bench's own and one certificate for every upstream."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    ca: Path
    certificate: Path
    key: Path


def make(directory: Path, name: str, address: str) -> Files:
    """PEM files in `directory`: a CA, and a leaf for a DNS name and an address."""
    now, ca_key, key = datetime.now(UTC), *(ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def build(subject: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        issuer, own = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("bench", subject))
        builder = x509.CertificateBuilder().subject_name(own).issuer_name(issuer).public_key(public)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = build("bench", ca_key.public_key()).add_extension(x509.BasicConstraints(True, 0), True)
    signed = ca.add_extension(usage, True).sign(ca_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))])
    leaf = build("upstream", key.public_key()).add_extension(names, False).sign(ca_key, hashes.SHA256())
    files = Files(ca=directory / "ca.pem", certificate=directory / "up.pem", key=directory / "up.key")
    pem = serialization.Encoding.PEM
    files.ca.write_bytes(signed.public_bytes(pem))
    files.certificate.write_bytes(leaf.public_bytes(pem))
    files.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files
