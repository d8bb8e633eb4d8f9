"""The directories of an instance, who owns them, and who may enter.

State is 0700 per process; the sockets between processes stand in directories that only the two ends can enter. The
group of a socket comes from its set-group-id directory, since Envoy cannot choose it.
"""

from __future__ import annotations

import os
from pathlib import Path

from remit.core.errors import Unavailable
from remit.settings import Settings, rootless

FORWARD_UID = 64101
"""Of the forwarder; numeric, so that set-up creates no user. Rootless, everything has the user's own."""
ENVOY_UID = 64102
VERSION = "1"
"""Of the layout. A state directory of a later one is refused."""


def prepare(settings: Settings) -> None:
    """Make what is missing. `Unavailable` where the state was written by a later version or cannot be written."""
    try:
        _prepare(settings)
    except OSError as error:
        hint = "choose another with REMIT_STATE_DIR and REMIT_RUN_DIR, or run as root"
        raise Unavailable(f"cannot prepare {error.filename}: {error.strerror}", hint=hint) from error


def _prepare(settings: Settings) -> None:
    root = not rootless()
    forward, envoy = (FORWARD_UID, ENVOY_UID) if root else (os.geteuid(), os.geteuid())
    for base in (settings.state_dir, settings.run_dir):
        base.mkdir(parents=True, exist_ok=True)
        base.chmod(0o711)
    version = settings.state_dir / "version"
    if version.exists() and version.read_text().strip() != VERSION:
        raise Unavailable(
            f"{settings.state_dir} was written by another version of Remit (layout {version.read_text().strip()})",
            hint="use that version, or another REMIT_STATE_DIR",
        )
    version.write_text(VERSION + "\n")
    _directory(settings.ca_bundle.parent, 0o755)
    for private in (settings.control_dir, settings.decide_dir, settings.ca_dir, settings.cells_dir, settings.log_dir):
        _directory(private, 0o700)
    settings.cells_dir.chmod(0o711)
    _directory(settings.boundary_dir, 0o700, owner=envoy if root else None)
    _directory(settings.check_socket.parent, 0o2750, group=envoy if root else None)
    _directory(settings.dns_socket.parent, 0o2750, group=forward if root else None)
    _directory(settings.forward_socket.parent, 0o2750, group=forward if root else None)
    _directory(settings.proxy_socket.parent, 0o2750, owner=envoy if root else None, group=forward if root else None)


def _directory(path: Path, mode: int, *, owner: int | None = None, group: int | None = None) -> None:
    path.mkdir(parents=True, exist_ok=True)
    if owner is not None or group is not None:
        os.chown(path, -1 if owner is None else owner, -1 if group is None else group)
    path.chmod(mode)
