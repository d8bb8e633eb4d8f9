"""The certificate authority of a node, and the leaves it signs for the names that agents connect to.

To govern a TLS connection its inside must be read, so a cell trusts a CA of ours. Whoever holds that CA's key can
impersonate every site to every cell: the root is therefore kept apart (the decision service never reads it), signs
only one short-lived intermediate per node, and the intermediate can sign leaves but no further CA (RFC 5280 §4.2.1.9).
Guaranteed: a leaf names exactly one canonical name or address. Keys are P-256; the root's key file is 0600, a node's
0640 in a directory that only the node enters.
"""

from __future__ import annotations

import ipaddress
import os
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from remit.core import names
from remit.core.errors import Invalid, Unavailable

ROOT_LIFE = timedelta(days=3650)
NODE_LIFE = timedelta(days=90)
NODE_RENEW = timedelta(days=30)
"""`ensure` signs a new intermediate when the old one has less than this to live."""
LEAF_LIFE = timedelta(hours=48)
LEAF_RENEW = timedelta(hours=24)
"""A leaf with less than this to live is minted anew."""
BACKDATE = timedelta(hours=1)
"""Clocks of clients in cells may differ a little."""
LEAVES_MAX = 10_000

ROOT_KEY, ROOT_CERTIFICATE = "root.key", "remit-ca.pem"
NODE_KEY, NODE_CERTIFICATE = "node-ca.key", "node-ca.pem"

_CA_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
_LEAF_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """PEM of the chain (leaf, then intermediate) and of the key. `serial` tells two leaves of one name apart."""

    name: str
    chain: bytes
    key: bytes
    serial: int
    begins: datetime
    expires: datetime

    def good(self, now: datetime) -> bool:
        """Whether it needs not be minted anew. One from a time to come was minted by a clock that was wrong."""
        return self.begins <= now < self.expires - LEAF_RENEW


class Authority:
    """A node's intermediate. `leaf` keeps what it minted, the least recently asked for goes first."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self._chain = certificate.public_bytes(serialization.Encoding.PEM)
        self._issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        self._leaves: OrderedDict[str, Leaf] = OrderedDict()

    def knows(self, name: str) -> bool:
        """Whether a leaf for `name` is kept already."""
        return name in self._leaves

    def leaf(self, name: str, now: datetime) -> Leaf:
        """The leaf for a canonical `name` or address literal. Raises `Invalid` for any other spelling, `Unavailable`
        where the intermediate is not good at that time."""
        kept = self._leaves.get(name)
        if kept is not None and kept.good(now):
            self._leaves.move_to_end(name)
            return kept
        if names.canonical(name) != name:
            raise Invalid("a leaf is minted for a canonical name only")
        begins, ends = self._certificate.not_valid_before_utc, self._certificate.not_valid_after_utc
        if not begins <= now < ends:
            said = f"the node's certificate authority is good from {begins} to {ends}, and the clock says {now}"
            raise Unavailable(said, hint="set the clock right")
        minted = self._mint(name, now)
        self._leaves[name] = minted
        self._leaves.move_to_end(name)
        while len(self._leaves) > LEAVES_MAX:
            self._leaves.popitem(last=False)
        return minted

    def _mint(self, name: str, now: datetime) -> Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        literal = names.address_literal(name)
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name)) if literal else x509.DNSName(name)
        expires = min(now + LEAF_LIFE, self._certificate.not_valid_after_utc)
        begins, serial = now - BACKDATE, x509.random_serial_number()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_subject(name if len(name) <= 64 else "governed by remit"))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(begins)
            .not_valid_after(expires)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_LEAF_USAGE, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(self._issuer_id, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Leaf(
            name=name,
            chain=certificate.public_bytes(serialization.Encoding.PEM) + self._chain,
            key=_private_pem(key),
            serial=serial,
            begins=begins,
            expires=expires,
        )


def ensure(root_directory: Path, node_directory: Path, now: datetime) -> bool:
    """Create what is missing: the root in one directory, a node's intermediate in another. Idempotent.

    Whether a new intermediate was signed.

    The root's certificate is `remit-ca.pem` (0644); keys are 0600. Raises `Unavailable` where files cannot be written.
    """
    try:
        _make_private(root_directory)
        _make_private(node_directory)
        root_key, root = _root(root_directory, now)
        if not _node_is_good(node_directory, root, now):
            _make_node(node_directory, root_key, root, now)
            return True
    except OSError as error:
        raise Unavailable(f"the certificate authority cannot be set up: {error}", hint="remit doctor") from error
    return False


def load(node_directory: Path) -> Authority:
    """The node's intermediate. Raises `Unavailable` where it is missing or damaged."""
    try:
        key = _read_key(node_directory / NODE_KEY)
        certificate = x509.load_pem_x509_certificate((node_directory / NODE_CERTIFICATE).read_bytes())
        if certificate.public_key() != key.public_key():
            raise ValueError("its key and its certificate do not belong together")
    except (OSError, ValueError) as error:
        raise Unavailable(f"the node's certificate authority cannot be read: {error}", hint="remit doctor") from error
    return Authority(key, certificate)


def write_bundle(path: Path, root_directory: Path, system_bundle: Path) -> None:
    """What cells trust: our root, then the system's own CAs (`system_bundle` may be absent). Mode 0644."""
    system = system_bundle.read_bytes() if system_bundle.exists() else b""
    _write(path, (root_directory / ROOT_CERTIFICATE).read_bytes() + system, 0o644)


def _root(directory: Path, now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_path, certificate_path = directory / ROOT_KEY, directory / ROOT_CERTIFICATE
    if key_path.exists() and certificate_path.exists():
        again = f"move {directory} away and start again; cells started before must be restarted"
        try:
            key, certificate = _read_key(key_path), x509.load_pem_x509_certificate(certificate_path.read_bytes())
        except ValueError as error:
            raise Unavailable(
                f"the root of the certificate authority in {directory} is damaged: {error}", hint=again
            ) from error
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not begins <= now < ends:
            said = f"the root of the certificate authority is good from {begins} to {ends}, and the clock says {now}"
            raise Unavailable(said, hint=f"set the clock right; where it is, {again}")
        return key, certificate
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject("Remit root CA")
    certificate = _authority_certificate(subject, subject, key, key, None, now, ROOT_LIFE)
    _write(key_path, _private_pem(key), 0o600)
    _write(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return key, certificate


def _node_is_good(directory: Path, root: x509.Certificate, now: datetime) -> bool:
    try:
        key = _read_key(directory / NODE_KEY)
        certificate = x509.load_pem_x509_certificate((directory / NODE_CERTIFICATE).read_bytes())
        certificate.verify_directly_issued_by(root)
    except Exception:  # whatever is wrong with it, a new one is signed
        return False
    lives = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - NODE_RENEW
    return lives and certificate.public_key() == key.public_key()


def _make_node(directory: Path, root_key: ec.EllipticCurvePrivateKey, root: x509.Certificate, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _authority_certificate(_subject("Remit node CA"), root.subject, key, root_key, 0, now, NODE_LIFE)
    _write(directory / NODE_KEY, _private_pem(key), 0o640)  # its directory says who reads it
    _write(directory / NODE_CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _authority_certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    path_length: int | None,
    now: datetime,
    life: timedelta,
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} holds no elliptic-curve key")
    return key


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Durable: cells trust the root for ten years, and a key that is lost cannot be had again."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
