"""Where everything is, and every knob: `/etc/remit/config.toml` < environment < flags.

The only module that reads the environment. `docs/reference/settings.md` is made from `Settings`; a test keeps it so.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from remit.core.errors import Invalid

SYSTEM_CONFIG = Path("/etc/remit/config.toml")


def _described(default: Any, text: str) -> Any:
    meta = {"text": text}
    if callable(default):
        return field(default_factory=default, metadata=meta)
    return field(default=default, metadata=meta)


def rootless() -> bool:
    return os.geteuid() != 0


def _state_dir() -> Path:
    if rootless():
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "remit"
    return Path("/var/lib/remit")


def _run_dir() -> Path:
    if rootless():
        return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/remit-{os.geteuid()}") / "remit"
    return Path("/run/remit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Paths are absolute. Times in seconds, sizes in bytes, as each name says."""

    state_dir: Path = _described(
        _state_dir, "What survives a restart: database, audit log, CA, sealed secrets, workspaces."
    )
    run_dir: Path = _described(_run_dir, "Sockets and pid files; gone after a reboot.")
    trust_domain: str = _described("remit.local", "SPIFFE trust domain of the tokens this control plane issues.")
    api_port: int = _described(0, "Also serve the API on 127.0.0.1 at this port, with a bearer token; 0 does not.")
    resolver: str = _described(
        "", "DNS server (address or address:port) for upstream names; empty uses the system's resolver."
    )
    static_hosts: Mapping[str, str] = _described(dict, "Names that resolve to a fixed address: {name: address}.")
    upstream_ca_files: tuple[str, ...] = _described((), "PEM files of CAs that upstreams may use besides the system's.")
    system_ca_file: str = _described("/etc/ssl/certs/ca-certificates.crt", "The system's CA bundle.")
    openbao_file: str = _described(
        "", "TOML file (0600): how this node reaches its OpenBao or Vault, and how it logs in; empty: it has none."
    )
    secrets: str = _described(
        "sealed",
        "Where secrets of `remit secret put` are kept: `sealed` in the database, or `openbao`, a server of its own.",
    )
    search_domains: tuple[str, ...] = _described(
        (),
        "Domains that complete short names in cells, at most 6. A name under one that no capability of the role covers "
        "does not exist there, so that the next is tried.",
    )
    node_lease_s: float = _described(
        30.0, "How long a node that lost its control plane keeps deciding with what it knows."
    )
    token_ttl_s: float = _described(600.0, "Life of a task's token; it is renewed at half of it.")
    connection_max_s: float = _described(
        3600.0, "How long a connection of a cell takes new requests, and how long one stream or WebSocket may last."
    )
    connection_idle_s: float = _described(
        600.0, "How long a connection, stream or WebSocket of a cell may be silent in both directions before it is cut."
    )
    policy_timeout_s: float = _described(0.25, "Time one evaluation of the policies may take.")
    opa_url: str = _described(
        "",
        "Evaluate policies on the Open Policy Agent there (http://127.0.0.1:8181, unix:/path); empty: in process.",
    )
    check_pending_max: int = _described(
        2048, "Requests that may wait for a decision at once; more are refused, but for a few of each cell."
    )
    retention_s: float = _described(
        30 * 86400.0, "How long the output and workspace of an ended task are kept; unmerged changes are kept longer."
    )
    retention_bytes: int = _described(
        20 << 30, "Disk that ended tasks may take together; the oldest go first, those with unmerged changes never."
    )
    hold_s: float = _described(60.0, "How long a request waits for a human before it is denied.")
    approval_webhook: str = _described(
        "", "URL that is told of every approval, signed (Standard Webhooks) with the key in approval_webhook_key_file."
    )
    approval_webhook_key_file: str = _described(
        "", "File (0600) with the key of approval_webhook: `whsec_` and Base64, or 24 bytes and more as they are."
    )
    approval_slack_url_file: str = _described(
        "", "File (0600) with the URL of a Slack-compatible incoming webhook that is told of every approval."
    )
    audit_segment_bytes: int = _described(64 << 20, "Size of one audit segment.")
    audit_keep_s: float = _described(
        0.0, "Age at which audit records leave the log by themselves once an export was acknowledged; 0: none does."
    )
    audit_keep_bytes: int = _described(
        0, "Size of the audit log above which the oldest acknowledged records leave it by themselves; 0: none does."
    )

    @property
    def control_socket(self) -> Path:
        return self.run_dir / "control" / "control.sock"

    @property
    def node_socket(self) -> Path:
        """The control plane listens, the node connects."""
        return self.run_dir / "node" / "node.sock"

    @property
    def cells_socket(self) -> Path:
        return self.run_dir / "cells.sock"

    @property
    def forward_socket(self) -> Path:
        """`cells` listens, the forwarder connects and is handed listeners."""
        return self.run_dir / "forward" / "forward.sock"

    @property
    def proxy_socket(self) -> Path:
        """Envoy listens, the forwarder connects."""
        return self.run_dir / "boundary" / "proxy.sock"

    @property
    def check_socket(self) -> Path:
        return self.run_dir / "decide" / "check.sock"

    @property
    def hold_socket(self) -> Path:
        """Where Envoy sends held requests, to wait."""
        return self.run_dir / "decide" / "hold.sock"

    @property
    def sds_socket(self) -> Path:
        return self.run_dir / "decide" / "sds.sock"

    @property
    def tunnel_socket(self) -> Path:
        """The check of connections that are carried unread."""
        return self.run_dir / "decide" / "tunnel.sock"

    @property
    def tcp_socket(self) -> Path:
        """Beside `proxy_socket`: for connections that nothing is to be read of."""
        return self.proxy_socket.with_name("tcp.sock")

    @property
    def tls_socket(self) -> Path:
        """Beside `proxy_socket`: for TLS that is passed through."""
        return self.proxy_socket.with_name("tls.sock")

    @property
    def refuse_socket(self) -> Path:
        """Where Envoy sends connections that are carried unread and were refused: they are told why."""
        return self.run_dir / "decide" / "refuse.sock"

    @property
    def scrub_socket(self) -> Path:
        """Where Envoy sends the answers to requests that carried a credential."""
        return self.run_dir / "decide" / "scrub.sock"

    @property
    def delegate_socket(self) -> Path:
        """Where Envoy brings the control plane what tasks ask for that delegate (`core.doorway`)."""
        return self.run_dir / "delegate" / "delegate.sock"

    @property
    def store_file(self) -> Path:
        """The decision service's copy of `openbao_file`."""
        return self.run_dir / "store" / "openbao.toml"

    @property
    def openbao_dir(self) -> Path:
        """What the node's own OpenBao keeps, and the key that unseals it."""
        return self.state_dir / "openbao"

    @property
    def openbao_logins(self) -> Path:
        """How the node's processes log in to its own OpenBao."""
        return self.state_dir / "openbao-logins"

    @property
    def openbao_socket(self) -> Path:
        """OpenBao listens, the decision service reads."""
        return self.run_dir / "openbao" / "read.sock"

    @property
    def keeper_socket(self) -> Path:
        """OpenBao listens, the control plane writes."""
        return self.run_dir / "keeper" / "write.sock"

    @property
    def keeper_file(self) -> Path:
        """How the control plane reaches the node's own OpenBao."""
        return self.run_dir / "keeping" / "openbao.toml"

    @property
    def notify_dir(self) -> Path:
        """The control plane's copies of `approval_webhook_key_file` and `approval_slack_url_file`."""
        return self.run_dir / "notify"

    @property
    def supervisor_file(self) -> Path:
        """What the supervisor says of itself and its processes, as JSON."""
        return self.run_dir / "supervisor.json"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor while it lives."""
        return self.run_dir / "supervisor.lock"

    @property
    def log_dir(self) -> Path:
        return self.state_dir / "log"

    @property
    def envoy_bootstrap(self) -> Path:
        return self.boundary_dir / "envoy.json"

    @property
    def envoy_admin(self) -> Path:
        """Envoy's admin interface: only to ask whether it lives and to make it reopen its log."""
        return self.run_dir / "admin" / "envoy.sock"

    @property
    def spool(self) -> Path:
        """Envoy's access log: Envoy writes it, the decision service reads and rotates it."""
        return self.state_dir / "spool" / "access.log"

    @property
    def sealing_key(self) -> Path:
        """The node's private key for sealed secrets; its public half stands beside it."""
        return self.decide_dir / "sealed.key"

    @property
    def ca_dir(self) -> Path:
        """The node's intermediate: written by the supervisor, read by the decision service."""
        return self.ca_bundle.parent / "node"

    @property
    def node_trust_file(self) -> Path:
        """The CAs of upstreams, for what the decision service itself asks (token endpoints)."""
        return self.ca_dir / "upstreams.pem"

    @property
    def root_ca_dir(self) -> Path:
        """The root of the certificate authority; only the supervisor enters it."""
        return self.ca_bundle.parent / "root"

    @property
    def dns_socket(self) -> Path:
        return self.run_dir / "dns" / "dns.sock"

    @property
    def control_dir(self) -> Path:
        return self.state_dir / "control"

    @property
    def decide_dir(self) -> Path:
        return self.state_dir / "decide"

    @property
    def audit_dir(self) -> Path:
        return self.state_dir / "decide" / "audit"

    @property
    def boundary_dir(self) -> Path:
        """Envoy's bootstrap."""
        return self.state_dir / "boundary"

    @property
    def cells_dir(self) -> Path:
        return self.state_dir / "cells"

    @property
    def ca_bundle(self) -> Path:
        """Our CA and the system's, for cells."""
        return self.state_dir / "ca" / "bundle.pem"

    @property
    def ca_certificate(self) -> Path:
        return self.state_dir / "ca" / "remit-ca.pem"


def load(flags: Mapping[str, object] | None = None) -> Settings:
    """Settings from file (`REMIT_CONFIG` or the system's), then `REMIT_<NAME>`, then `flags` that are not None.

    Raises `Invalid` for a file that does not parse, an unknown name, or a value of the wrong type.
    """
    values: dict[str, object] = {}
    explicit = os.environ.get("REMIT_CONFIG")
    path = Path(explicit) if explicit else SYSTEM_CONFIG
    try:
        if explicit or path.exists():
            values.update(tomllib.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise Invalid(f"configuration {path}: {error}", hint="fix the file, or unset REMIT_CONFIG") from error
    known = {item.name for item in fields(Settings)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise Invalid(f"configuration {path}: unknown setting {unknown[0]}", hint=f"known: {', '.join(sorted(known))}")
    for name in known:
        text = os.environ.get(f"REMIT_{name.upper()}")
        if text is not None:
            values[name] = text
    values.update({name: value for name, value in (flags or {}).items() if value is not None})
    return _in_range(Settings(**{name: _typed(name, value) for name, value in values.items()}))


_ZERO_IS_NONE = frozenset({"api_port", "audit_keep_s", "audit_keep_bytes"})


def _in_range(settings: Settings) -> Settings:
    if not 0 <= settings.api_port <= 65535:
        raise Invalid(f"setting api_port: {settings.api_port} is no port", hint="0 (none) to 65535")
    if settings.opa_url and not _BESIDE.fullmatch(settings.opa_url):
        hint = "http://127.0.0.1:8181 or unix:/run/opa/opa.sock: what decides must not come over a network"
        raise Invalid(f"setting opa_url: {settings.opa_url[:200]!a} is not beside the node", hint=hint)
    if settings.secrets not in ("sealed", "openbao"):
        raise Invalid(f"setting secrets: {settings.secrets[:80]!a} is no place for secrets", hint="sealed or openbao")
    if settings.secrets == "openbao" and settings.openbao_file:
        hint = "secrets=sealed goes with an OpenBao of your own, and its secrets with spec.source.openbao"
        raise Invalid("settings secrets=openbao and openbao_file: a node has one OpenBao", hint=hint)
    for domain in settings.search_domains:
        if not _DOMAIN.fullmatch(domain) or len(settings.search_domains) > 6:
            hint = "at most 6 domains in lower case, without a final dot: corp.example"
            raise Invalid(f"setting search_domains: {domain[:80]!a} cannot be searched", hint=hint)
    for item in fields(Settings):
        value = getattr(settings, item.name)
        if not isinstance(value, int | float) or 0 < value < float("inf"):
            continue
        if value != 0 or item.name not in _ZERO_IS_NONE:
            raise Invalid(f"setting {item.name}: {value} is not more than 0", hint="docs/reference/settings.md")
    return settings


_BESIDE = re.compile(r"http://(?:127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?/?|unix:/[\x21-\x7e]{1,100}")
_DOMAIN = re.compile(r"(?=.{1,180}$)[a-z][a-z0-9-]{0,62}(?:\.[a-z][a-z0-9-]{0,62})*")
_DEFAULTS = Settings()
_SHAPES: Mapping[type, str] = {
    float: "a number",
    int: "a whole number",
    tuple: "a list",
    Mapping: "a table (name=value,name=value)",
    object: "text",
}


def exported(settings: Settings) -> dict[str, str]:
    """`settings` as environment variables that `load` reads back; for the processes that the supervisor starts."""
    return {f"REMIT_{item.name.upper()}": _text(getattr(settings, item.name)) for item in fields(Settings)}


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, Mapping):
        return ",".join(f"{key}={item}" for key, item in value.items())
    return str(value)


def _typed(name: str, value: object) -> Any:
    default = getattr(_DEFAULTS, name)
    try:
        if isinstance(default, Path):
            return Path(str(value)).absolute()
        if isinstance(default, float):
            return float(str(value))
        if isinstance(default, int):
            return int(str(value))
        if isinstance(default, tuple):
            return tuple(filter(None, value.split(","))) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]
        if isinstance(default, Mapping):
            if isinstance(value, str):
                return dict(item.split("=", 1) for item in value.split(",") if item)
            return dict(value)  # type: ignore[call-overload]
        return str(value)
    except (TypeError, ValueError):
        shape = next(text for kind, text in _SHAPES.items() if isinstance(default, kind))
        raise Invalid(
            f"setting {name}: {value!r} is not {shape}", hint=f"correct REMIT_{name.upper()} or the configuration file"
        ) from None


def environment() -> dict[str, str]:
    """The environment of this process, for the one command that passes some of it on (`remit run --env`)."""
    return dict(os.environ)
