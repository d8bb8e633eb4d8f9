"""Who owns what of an instance, at the first start and after an upgrade from the time when everything was root's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from remit.app import identities, layout
from remit.app.identities import Identities
from remit.core.errors import Unavailable
from remit.settings import Settings

WHO = Identities(forward=64801, decide=64802, control=64803, envoy=64804, openbao=64805)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", run_dir=tmp_path / "run")


def owner(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


@as_root
def test_state_that_was_all_roots_is_taken_over(tmp_path: Path) -> None:
    at = settings(tmp_path)
    files = {
        "version": "1",
        "control/remit.db": "db",
        "control/issuer/1-a.pem": "issuer",
        "control/ca/root.key": "root key",
        "decide/sealed.key": "sealed",
        "decide/ca/node-ca.key": "node key",
        "decide/audit/00000001.log": "record",
        "boundary/access.log": "line",
    }
    for name, text in files.items():
        file = at.state_dir / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o600)
    (at.state_dir / "decide/audit/00000001.log").chmod(0o640)
    layout.prepare(at, WHO)
    layout.prepare(at, WHO)
    assert owner(at.control_dir) == (WHO.control, WHO.control, 0o700)
    assert owner(at.control_dir / "remit.db") == (WHO.control, WHO.control, 0o600)
    assert owner(at.control_dir / "issuer/1-a.pem") == (WHO.control, WHO.control, 0o600)
    assert owner(at.decide_dir) == (WHO.decide, WHO.control, 0o2710)
    assert owner(at.sealing_key) == (WHO.decide, WHO.control, 0o600)
    assert owner(at.audit_dir / "00000001.log") == (WHO.decide, WHO.control, 0o640)
    assert (at.root_ca_dir / "root.key").read_text() == "root key"
    assert owner(at.root_ca_dir) == (0, 0, 0o700)
    assert (at.ca_dir / "node-ca.key").read_text() == "node key"
    assert owner(at.ca_dir) == (0, WHO.decide, 0o2750)
    assert (owner(at.spool)[0], at.spool.read_text()) == (WHO.envoy, "line")
    assert not (at.control_dir / "ca").exists()
    assert (at.state_dir / "version").read_text() == "2\n"


@as_root
def test_nothing_outside_is_given_away(tmp_path: Path) -> None:
    """What a process that was taken over may have left in its directory, when an instance moves to other uids."""
    at = settings(tmp_path)
    layout.prepare(at, WHO)
    theirs = tmp_path / "theirs"
    theirs.write_text("root's")
    (at.control_dir / "link").symlink_to(theirs)
    os.link(theirs, at.control_dir / "name")
    layout.prepare(at, Identities(forward=64811, decide=64812, control=64813, envoy=64814, openbao=64815))
    assert owner(at.control_dir)[0] == 64813
    assert (owner(theirs)[0], os.lstat(at.control_dir / "link").st_uid) == (0, 64813)


@as_root
def test_a_link_in_the_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    at = settings(tmp_path)
    at.state_dir.mkdir()
    at.control_dir.symlink_to(tmp_path)
    with pytest.raises(Unavailable, match="cannot prepare"):
        layout.prepare(at, WHO)
    assert owner(tmp_path)[0] == 0


def test_without_root_everything_is_the_users(tmp_path: Path) -> None:
    at = settings(tmp_path)
    layout.prepare(at, None)
    private = [at.control_dir, at.decide_dir, at.ca_dir, at.check_socket.parent, at.proxy_socket.parent]
    assert [owner(path) for path in private] == [(os.geteuid(), os.getegid(), 0o700)] * len(private)


def test_a_later_layout_is_refused(tmp_path: Path) -> None:
    at = settings(tmp_path)
    at.state_dir.mkdir()
    (at.state_dir / "version").write_text("3\n")
    with pytest.raises(Unavailable, match="another version of Remit \\(layout 3\\)"):
        layout.prepare(at, None)


@as_root
def test_an_instance_has_uids_of_its_own_and_keeps_them(tmp_path: Path) -> None:
    one, other = identities.of(settings(tmp_path)), identities.of(settings(tmp_path / "other"))
    default = identities.of(Settings(state_dir=identities.DEFAULT_STATE))
    assert one == identities.of(settings(tmp_path))
    assert one is not None and other is not None and default is not None
    uids = [uid for who in (one, other, default) for uid in (who.forward, who.decide, who.control, who.envoy)]
    assert len(set(uids)) == 12
    assert all(0x71000000 <= uid <= 0x71FFFFFF for uid in uids)
    assert default.forward == 0x71000000
