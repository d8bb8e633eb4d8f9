"""How a node reaches its OpenBao and proves who it is: one TOML file (0600), read by the decision service alone.

It never travels: not in a snapshot, not in the environment of a process, not into a cell. Secrets that it names by
file (`secret_id_file`, `jwt_file`) are read anew at every login, so that they can be rotated in place.
"""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remit.core.errors import Unavailable

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"
CA_BESIDE = "openbao-ca.pem"
"""Where a file of this name lies beside the configuration, it is the CA: `ca_file` may be closed to this user."""
MAX_BYTES = 64 << 10
_TOP = frozenset({"address", "ca_file", "namespace", "auth"})
_AUTH = {
    "approle": frozenset({"method", "mount", "role_id", "secret_id", "secret_id_file"}),
    "jwt": frozenset({"method", "mount", "role", "jwt_file"}),
    "kubernetes": frozenset({"method", "mount", "role", "jwt_file"}),
}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Auth:
    """`role`: the role id of an AppRole, else the role's name. `secret`: the secret id, unless `file` holds it."""

    method: str
    mount: str
    role: str
    secret: str = ""
    file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`address`: https://host:port, or unix:/path of a socket that only this node's user can reach."""

    address: str
    auth: Auth
    ca_file: Path | None = None
    namespace: str = ""


def read(path: Path) -> Config:
    """The configuration in `path`. `Unavailable` where it cannot be read, others could read it, or it is not sound."""
    try:
        document = tomllib.loads(private(path).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        # Not `from error`: its text may quote a secret.
        raise Unavailable(f"{path} is not TOML", hint=_HINT) from None
    unknown = sorted(set(document) - _TOP)
    if unknown:
        raise Unavailable(f"{path}: unknown field {unknown[0]}", hint=f"fields: {', '.join(sorted(_TOP))}")
    address = _text(path, document, "address")
    beside = path.with_name(CA_BESIDE)
    ca_file = beside if beside.exists() else document.get("ca_file")
    if not address.startswith(("https://", "unix:/")):
        raise Unavailable(f"{path}: address is neither https://… nor unix:/…: secrets never travel in the clear")
    return Config(
        address=address.rstrip("/"),
        auth=_auth(path, document.get("auth")),
        ca_file=Path(str(ca_file)) if ca_file else None,
        namespace=str(document.get("namespace", "")).strip("/"),
    )


def private(path: Path) -> bytes:
    """The content of a file that only this user (or root) can read. `Unavailable` for any other."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            if status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
                mode = stat.S_IMODE(status.st_mode)
                raise Unavailable(f"{path} can be read by others (mode {mode:o})", hint=f"chmod 600 {path}")
            return opened.read(MAX_BYTES)
    except PermissionError as error:
        raise Unavailable(
            f"{path} cannot be read by uid {os.geteuid()}", hint=f"chown {os.geteuid()} {path}"
        ) from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error


_HINT = "docs/guide, OpenBao, shows this file"


def _auth(path: Path, table: Any) -> Auth:
    method = table.get("method") if isinstance(table, dict) else None
    if method not in _AUTH:
        raise Unavailable(f"{path}: auth.method is none of {', '.join(_AUTH)}", hint=_HINT)
    unknown = sorted(set(table) - _AUTH[method])
    if unknown:
        known = ", ".join(sorted(_AUTH[method]))
        raise Unavailable(f"{path}: unknown field auth.{unknown[0]}", hint=f"fields: {known}")
    mount = str(table.get("mount", method)).strip("/")
    if method == "approle":
        file = table.get("secret_id_file")
        return Auth(
            method=method,
            mount=mount,
            role=_text(path, table, "role_id"),
            secret="" if file else _text(path, table, "secret_id"),
            file=Path(str(file)) if file else None,
        )
    default = SERVICE_ACCOUNT if method == "kubernetes" else None
    file = table.get("jwt_file", default)
    if not file:
        raise Unavailable(f"{path}: auth.jwt_file is missing", hint=_HINT)
    return Auth(method=method, mount=mount, role=_text(path, table, "role"), file=Path(str(file)))


def _text(path: Path, table: dict[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value:
        raise Unavailable(f"{path}: {name} is missing", hint=_HINT)
    return value
