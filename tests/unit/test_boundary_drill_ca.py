"""The drill's certificate is good for the drill's name alone, and nobody can make another."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from remit.boundary import drill_ca
from remit.core import drill

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_certificate_vouches_for_one_name(tmp_path: Path) -> None:
    file = drill_ca.write(tmp_path, NOW)
    ca = x509.load_pem_x509_certificate(file.read_bytes())
    leaf = x509.load_pem_x509_certificate((tmp_path / drill.LEAF).read_bytes())
    leaf.verify_directly_issued_by(ca)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [drill.HOST]
    only = ca.extensions.get_extension_for_class(x509.NameConstraints)
    assert only.critical and only.value.permitted_subtrees == [x509.DNSName(drill.HOST)]
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_the_key_of_the_authority_is_nowhere_and_the_other_is_private(tmp_path: Path) -> None:
    drill_ca.write(tmp_path, NOW)
    first = (tmp_path / drill_ca.CA).read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {drill_ca.CA, drill.LEAF}
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    held = serialization.load_pem_private_key((tmp_path / drill.LEAF).read_bytes(), None)
    assert held.public_key() != x509.load_pem_x509_certificate(first).public_key()
    with pytest.raises(ValueError):
        serialization.load_pem_private_key(first, None)
    drill_ca.write(tmp_path, NOW)
    assert (tmp_path / drill_ca.CA).read_bytes() != first
