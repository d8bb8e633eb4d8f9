import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from synced import Synced

from remit.boundary import ca
from remit.core.errors import Invalid, Unavailable

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path]:
    root, node = tmp_path / "root", tmp_path / "node"
    ca.ensure(root, node, NOW)
    return root, node


def parsed(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


def test_keys_are_readable_by_their_owner_only(directories: tuple[Path, Path]) -> None:
    root, node = directories
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (root / ca.ROOT_KEY, node / ca.NODE_KEY)]
    assert modes == [0o600, 0o640], "the node's is read by its group, which alone enters its directory"
    for directory in directories:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_every_key_is_on_the_disk_before_its_certificate_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = Synced(monkeypatch)
    ca.ensure(tmp_path / "root", tmp_path / "node", NOW)
    directories = [found for found in synced.seen if isinstance(found, set)]
    assert directories == [
        {ca.ROOT_KEY},
        {ca.ROOT_KEY, ca.ROOT_CERTIFICATE},
        {ca.NODE_KEY},
        {ca.NODE_KEY, ca.NODE_CERTIFICATE},
    ]
    assert all(synced.seen[::2]), "each with what is in it"


def test_the_root_key_is_not_where_the_node_reads(directories: tuple[Path, Path]) -> None:
    root, node = directories
    assert {path.name for path in node.iterdir()} == {ca.NODE_KEY, ca.NODE_CERTIFICATE}
    (root / ca.ROOT_KEY).unlink()
    ca.load(node).leaf("api.test", NOW)


def test_ensure_changes_nothing_the_second_time(directories: tuple[Path, Path]) -> None:
    before = {path: path.read_bytes() for directory in directories for path in directory.iterdir()}
    ca.ensure(*directories, NOW + timedelta(days=1))
    assert {path: path.read_bytes() for directory in directories for path in directory.iterdir()} == before


def test_an_intermediate_near_its_end_is_signed_anew_under_the_same_root(directories: tuple[Path, Path]) -> None:
    root, node = directories
    root_before, node_before = (root / ca.ROOT_CERTIFICATE).read_bytes(), (node / ca.NODE_CERTIFICATE).read_bytes()
    ca.ensure(root, node, NOW + ca.NODE_LIFE - ca.NODE_RENEW + timedelta(seconds=1))
    assert (root / ca.ROOT_CERTIFICATE).read_bytes() == root_before
    assert (node / ca.NODE_CERTIFICATE).read_bytes() != node_before


def test_a_damaged_intermediate_is_replaced_and_a_damaged_root_is_an_error(directories: tuple[Path, Path]) -> None:
    root, node = directories
    (node / ca.NODE_KEY).write_bytes(b"rubbish")
    with pytest.raises(Unavailable):
        ca.load(node)
    ca.ensure(root, node, NOW)
    ca.load(node)
    (root / ca.ROOT_KEY).write_bytes(b"rubbish")
    with pytest.raises(Unavailable, match="damaged"):
        ca.ensure(root, node, NOW)


@pytest.mark.parametrize("away", [-timedelta(days=1), ca.ROOT_LIFE])
def test_a_root_that_is_not_good_now_is_an_error_that_names_the_clock(
    directories: tuple[Path, Path], away: timedelta
) -> None:
    """A machine without a clock of its own may have made it in 1970: no client says more than that it has expired."""
    with pytest.raises(Unavailable) as caught:
        ca.ensure(*directories, NOW + away)
    assert "the clock says" in caught.value.detail and "set the clock right" in caught.value.hint


def test_an_intermediate_of_another_root_is_replaced(directories: tuple[Path, Path], tmp_path: Path) -> None:
    _, node = directories
    ca.ensure(tmp_path / "other", node, NOW)
    intermediate = parsed((node / ca.NODE_CERTIFICATE).read_bytes())[0]
    intermediate.verify_directly_issued_by(parsed((tmp_path / "other" / ca.ROOT_CERTIFICATE).read_bytes())[0])


def test_a_leaf_names_one_host_and_chains_to_the_root(directories: tuple[Path, Path]) -> None:
    root, node = directories
    leaf, intermediate = parsed(ca.load(node).leaf("api.test", NOW).chain)
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(parsed((root / ca.ROOT_CERTIFICATE).read_bytes())[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("api.test")]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.not_valid_after_utc - NOW == ca.LEAF_LIFE


def test_the_intermediate_may_sign_no_further_authority(directories: tuple[Path, Path]) -> None:
    _, intermediate = parsed(ca.load(directories[1]).leaf("api.test", NOW).chain)
    assert intermediate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_an_address_gets_an_address_name(directories: tuple[Path, Path]) -> None:
    leaf = parsed(ca.load(directories[1]).leaf("192.0.2.7", NOW).chain)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]


def test_the_longest_name_fits(directories: tuple[Path, Path]) -> None:
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert len(name) == 253
    ca.load(directories[1]).leaf(name, NOW)


@pytest.mark.parametrize("name", ["API.test", "api.test.", "", "a b", "*.test", "a\0b", "[::1]", "ü.test", "127.1"])
def test_other_spellings_get_no_leaf(directories: tuple[Path, Path], name: str) -> None:
    with pytest.raises(Invalid):
        ca.load(directories[1]).leaf(name, NOW)


def test_a_leaf_is_kept_until_half_its_life_and_then_minted_anew(directories: tuple[Path, Path]) -> None:
    authority = ca.load(directories[1])
    first = authority.leaf("api.test", NOW)
    assert authority.leaf("api.test", NOW + timedelta(hours=23)) is first
    assert authority.leaf("api.test", NOW + timedelta(hours=24)).serial != first.serial


def test_a_leaf_never_outlives_its_issuer(directories: tuple[Path, Path]) -> None:
    late = NOW + ca.NODE_LIFE - timedelta(hours=1)
    leaf, intermediate = parsed(ca.load(directories[1]).leaf("api.test", late).chain)
    assert leaf.not_valid_after_utc == intermediate.not_valid_after_utc


def test_only_so_many_leaves_are_kept(directories: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ca, "LEAVES_MAX", 2)
    authority = ca.load(directories[1])
    for name in ("a.test", "b.test", "a.test", "c.test"):
        authority.leaf(name, NOW)
    assert [authority.knows(name) for name in ("a.test", "b.test", "c.test")] == [True, False, True]


def test_the_bundle_holds_our_root_and_the_systems(directories: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "system.pem"
    ca.ensure(tmp_path / "r2", tmp_path / "n2", NOW)
    other.write_bytes((tmp_path / "r2" / ca.ROOT_CERTIFICATE).read_bytes())
    bundle = tmp_path / "bundle.pem"
    ca.write_bundle(bundle, directories[0], other)
    assert len(parsed(bundle.read_bytes())) == 2
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o644
    ssl.create_default_context(cafile=str(bundle))
