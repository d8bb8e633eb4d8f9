"""The files Envoy and the cells need before anything starts: certificate authority, trust bundles, bootstrap."""

from __future__ import annotations

import shutil
from pathlib import Path

from cryptography import x509

from remit.app.clock import SystemClock
from remit.boundary import ca, drill_ca, envoy, resources
from remit.core.errors import Unavailable
from remit.settings import Settings


def _usable(file: Path) -> None:
    """Envoy would leave out what is no certificate, or not start."""
    hint = "set upstream_ca_files to PEM files of certificates"
    try:
        x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        raise Unavailable(f"the CA file {file} cannot be read: {error.strerror}", hint=hint) from error
    except ValueError as error:
        raise Unavailable(f"the CA file {file} holds no certificate that can be read", hint=hint) from error


def write(settings: Settings) -> None:
    """Make or renew them. `Unavailable` where a configured CA file cannot be read."""
    root = settings.root_ca_dir
    ca.ensure(root, settings.ca_dir, SystemClock().now())
    shutil.copyfile(root / ca.ROOT_CERTIFICATE, settings.ca_certificate)
    ca.write_bundle(settings.ca_bundle, root, Path(settings.system_ca_file))
    upstream = settings.boundary_dir / "upstream-ca.pem"
    drill = drill_ca.write(root, SystemClock().now())
    files = [Path(file) for file in settings.upstream_ca_files]
    for file in files:
        _usable(file)
    for bundle in (upstream, settings.node_trust_file):
        envoy.write_upstream_cas(bundle, [Path(settings.system_ca_file), *files, drill])
    layout = resources.Layout(
        proxy_socket=str(settings.proxy_socket),
        check_socket=str(settings.check_socket),
        tunnel_socket=str(settings.tunnel_socket),
        tcp_socket=str(settings.tcp_socket),
        tls_socket=str(settings.tls_socket),
        hold_socket=str(settings.hold_socket),
        hold_s=settings.hold_s,
        sds_socket=str(settings.sds_socket),
        refuse_socket=str(settings.refuse_socket),
        scrub_socket=str(settings.scrub_socket),
        delegate_socket=str(settings.delegate_socket),
        admin_socket=str(settings.envoy_admin),
        spool=str(settings.spool),
        upstream_ca_file=str(upstream),
        connection_max_s=settings.connection_max_s,
        idle_s=settings.connection_idle_s,
    )
    envoy.write_bootstrap(settings.envoy_bootstrap, layout)
