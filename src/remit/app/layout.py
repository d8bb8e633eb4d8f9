"""The directories of an instance, who owns them, and who may enter.

Each process owns what it alone writes; what two of them share is a directory of the one that makes the files, which
the group of the other may enter (set-group-id, since neither Envoy nor gRPC can choose the group of a socket). What
root writes stands in directories that only root can change: a process that was taken over could otherwise put a link
in the way.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from remit.app.identities import Identities
from remit.core.errors import Unavailable
from remit.settings import Settings

VERSION = "2"
"""Of the layout. 1 is taken over; a state directory of a later one is refused."""
_TAKEN_OVER = (VERSION, "1")


def prepare(settings: Settings, who: Identities | None) -> None:
    """Make what is missing, take over what an earlier version left, and give everything to its process.

    `Unavailable` where the state was written by a later version or cannot be written.
    """
    try:
        _prepare(settings, who)
    except OSError as error:
        hint = "choose another with REMIT_STATE_DIR and REMIT_RUN_DIR, or run as root"
        raise Unavailable(f"cannot prepare {error.filename}: {error.strerror}", hint=hint) from error


def _prepare(settings: Settings, who: Identities | None) -> None:
    for base in (settings.state_dir, settings.run_dir):
        base.mkdir(parents=True, exist_ok=True)
        base.chmod(0o711)
    found = _version(settings)
    if found not in (None, *_TAKEN_OVER):
        raise Unavailable(
            f"{settings.state_dir} was written by another version of Remit (layout {found})",
            hint="use that version, or another REMIT_STATE_DIR",
        )
    root = 0 if who else os.geteuid()
    _directory(settings.ca_bundle.parent, 0o755)
    _directory(settings.spool.parent, 0o700)
    _moved(settings, root)
    for private in (settings.cells_dir, settings.log_dir, settings.root_ca_dir):
        _directory(private, 0o700)
    settings.cells_dir.chmod(0o711)
    modes = {settings.spool.parent: 0o2770, settings.decide_dir: 0o2710, settings.ca_dir: 0o2750}
    for path, (owner, group) in _owners(settings, who, root).items():
        _directory(path, 0o700)
        if who is not None:
            _given(path, owner, group, modes.get(path, 0o2750 if owner != group else 0o700))
    if found != VERSION:
        fresh = settings.state_dir / f".version.{os.getpid()}"  # several `up` may come here at once
        fresh.write_text(VERSION + "\n")
        fresh.replace(settings.state_dir / "version")


def _version(settings: Settings) -> str | None:
    try:
        return (settings.state_dir / "version").read_text().strip()
    except FileNotFoundError:
        return None


def _owners(settings: Settings, who: Identities | None, root: int) -> dict[Path, tuple[int, int]]:
    """Owner and group of each directory that is not root's alone."""
    ours = os.getegid()
    forward, decide, control, envoy = (who.forward, who.decide, who.control, who.envoy) if who else [ours] * 4
    shared = {
        # what root writes and one process reads
        settings.ca_dir: (root, decide),
        settings.boundary_dir: (root, envoy),
        settings.store_file.parent: (root, decide),
        settings.notify_dir: (root, control),
        # what one process writes and another reads, or connects to
        settings.decide_dir: (decide, control),
        settings.spool.parent: (envoy, decide),
        settings.node_socket.parent: (control, decide),
        settings.delegate_socket.parent: (control, envoy),
        settings.check_socket.parent: (decide, envoy),
        settings.dns_socket.parent: (decide, forward),
        settings.proxy_socket.parent: (envoy, forward),
        settings.envoy_admin.parent: (envoy, decide),
        settings.forward_socket.parent: (root, forward),
        # what is nobody else's
        settings.control_dir: (control, control),
        settings.control_socket.parent: (control, control),
    }
    if settings.secrets == "openbao":
        openbao = who.openbao if who else ours
        shared |= {
            settings.openbao_dir: (openbao, openbao),
            settings.openbao_logins: (root, openbao),
            settings.openbao_socket.parent: (openbao, decide),
            settings.keeper_socket.parent: (openbao, control),
            settings.keeper_file.parent: (root, control),
        }
    return shared


def _directory(path: Path, mode: int) -> None:
    if not path.exists():
        path.mkdir(parents=True)
        path.chmod(mode)


def _moved(settings: Settings, root: int) -> None:
    """Layout 1 kept what root writes inside what is now another's, and everything was root's."""
    old = settings.control_dir / "ca", settings.decide_dir / "ca"
    for source, target in zip(old, (settings.root_ca_dir, settings.ca_dir), strict=True):
        if source.parent.exists() and source.parent.stat().st_uid == root and source.is_dir() and not target.exists():
            source.rename(target)
            target.chmod(0o700)
    for source in settings.boundary_dir.glob(f"{settings.spool.name}*"):
        source.rename(settings.spool.parent / source.name)


def _given(path: Path, owner: int, group: int, mode: int) -> None:
    """Make `path` the owner's, with everything in it where it was another's before. No link is followed."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        now = os.fstat(directory)
        if (now.st_uid, now.st_gid) != (owner, group):
            _contents(directory, owner, group)
            os.fchown(directory, owner, group)  # last: whoever is interrupted begins again
        os.fchmod(directory, mode)
    finally:
        os.close(directory)


def _contents(directory: int, owner: int, group: int) -> None:
    for _, directories, files, here in os.fwalk(".", dir_fd=directory, follow_symlinks=False):
        for name in (*directories, *files):
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                continue  # a second name of somebody else's file
            os.chown(name, owner, group, dir_fd=here, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                os.chmod(name, stat.S_IMODE(found.st_mode) | stat.S_ISGID, dir_fd=here)
