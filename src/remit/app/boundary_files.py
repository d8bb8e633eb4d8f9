"""The files Envoy and the cells need before anything starts: certificate authority, trust bundles, bootstrap."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from remit.app.clock import SystemClock
from remit.app.layout import ENVOY_UID
from remit.boundary import ca, resources
from remit.core.errors import Unavailable
from remit.settings import Settings, rootless


def write(settings: Settings) -> None:
    """Make or renew them. `Unavailable` where a configured CA file cannot be read."""
    root = settings.control_dir / "ca"
    ca.ensure(root, settings.ca_dir, SystemClock().now())
    shutil.copyfile(root / ca.ROOT_CERTIFICATE, settings.ca_certificate)
    ca.write_bundle(settings.ca_bundle, root, Path(settings.system_ca_file))
    upstream = settings.boundary_dir / "upstream-ca.pem"
    _private(upstream, b"\n".join(_read(Path(file)) for file in (settings.system_ca_file, *settings.upstream_ca_files)))
    bootstrap = resources.bootstrap(
        resources.Layout(
            proxy_socket=str(settings.proxy_socket),
            check_socket=str(settings.check_socket),
            sds_socket=str(settings.sds_socket),
            refuse_socket=str(settings.refuse_socket),
            admin_socket=str(settings.boundary_dir / "admin.sock"),
            spool=str(settings.spool),
            upstream_ca_file=str(upstream),
            connection_max_s=settings.connection_max_s,
        )
    )
    _private(settings.envoy_bootstrap, json.dumps(bootstrap, indent=1).encode())


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        hint = "set system_ca_file and upstream_ca_files to PEM files that exist"
        raise Unavailable(f"cannot read the CA file {file}: {error.strerror}", hint=hint) from error


def _private(file: Path, data: bytes) -> None:
    """Readable by Envoy alone."""
    temporary = file.with_name(file.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
    if not rootless():
        os.chown(temporary, ENVOY_UID, ENVOY_UID)
    temporary.replace(file)
