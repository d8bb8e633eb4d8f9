"""The directories of an instance, who owns them, and who may enter.

State is 0700; the sockets that the forwarder connects to stand in directories that only its group can enter. The group
of a socket comes from its set-group-id directory, since Envoy cannot choose it.
"""

from __future__ import annotations

import os
from pathlib import Path

from remit.core.errors import Unavailable
from remit.settings import Settings, rootless

FORWARD_UID = 64101
"""Of the forwarder; numeric, so that set-up creates no user. Rootless, everything has the user's own."""
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
    forward = None if rootless() else FORWARD_UID
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
    for private in (settings.boundary_dir, settings.check_socket.parent, settings.envoy_admin.parent):
        _directory(private, 0o700)
    for shared in (settings.dns_socket.parent, settings.forward_socket.parent, settings.proxy_socket.parent):
        _directory(shared, 0o2750, group=forward)


def _directory(path: Path, mode: int, *, group: int | None = None) -> None:
    path.mkdir(parents=True, exist_ok=True)
    if group is not None:
        os.chown(path, -1, group)
    path.chmod(mode)
