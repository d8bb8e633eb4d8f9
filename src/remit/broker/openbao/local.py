"""An OpenBao of the node's own, on one machine: its configuration, and what is done to it once.

It listens on a Unix socket alone (no port, so no other machine and no TLS), keeps its data in PebbleDB (of the storages
that its binary has, the one that is durable on one server without a port for a cluster), and unseals itself with a key
file. Whoever reads that file and the data reads everything: both are 0600 of a user of their own, as the sealing key of
the embedded store is.

The first token, which may do anything, is used for the set-up and revoked before the first secret is stored; the
recovery key makes another (`bao operator generate-root`). A set-up that was interrupted has stored nothing yet: it is
begun anew.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remit.broker.openbao.client import Client, Refused
from remit.broker.openbao.reference import BELOW, MOUNT
from remit.core.errors import Unavailable

KEY_BYTES = 32
"""AES-256 (OpenBao's seal "static")."""
READER, WRITER = "decide", "control"
"""Who injects secrets reads them, and who is given them writes them; neither can do what the other does."""
POLICIES = {
    READER: f'path "{MOUNT}/data/{BELOW}/+" {{ capabilities = ["read"] }}',
    WRITER: f"""
path "{MOUNT}/data/{BELOW}/+" {{ capabilities = ["create", "update"] }}
path "{MOUNT}/metadata/{BELOW}/+" {{ capabilities = ["delete"] }}
""",
}
_READY, _KEY, _RECOVERY, _CONFIGURATION, _DATA = "ready", "unseal.key", "recovery.key", "server.hcl", "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How a process of the node logs in (AppRole): made beforehand, so that nobody hands it over afterwards."""

    role_id: str
    secret_id: str = field(repr=False)


def login() -> Login:
    return Login(role_id=secrets.token_hex(16), secret_id=secrets.token_hex(32))


def write(directory: Path, *sockets: Path) -> Path:
    """What the server needs before it starts, in `directory` (this user's, 0700); the configuration's file.

    Data without a finished set-up is removed: no secret is in it. `Unavailable` where something cannot be written.
    """
    try:
        if not (directory / _READY).exists():
            shutil.rmtree(directory / _DATA, ignore_errors=True)
            (directory / _KEY).unlink(missing_ok=True)  # it may be half of one
        if not (directory / _KEY).exists():
            _fresh(directory / _KEY, os.urandom(KEY_BYTES))
        (directory / _CONFIGURATION).unlink(missing_ok=True)
        _fresh(directory / _CONFIGURATION, configuration(directory, *sockets).encode())
    except OSError as error:
        raise Unavailable(f"OpenBao's files cannot be written: {error.strerror} ({error.filename})") from error
    return directory / _CONFIGURATION


def configuration(directory: Path, *sockets: Path) -> str:
    """HCL. `Unavailable` where a path cannot stand in it.

    The modes of the sockets are the umask's: with `socket_mode` it would give them to its own group too.
    """
    for path in (directory, *sockets):
        if any(character in '"\\$%\n' or not character.isprintable() for character in str(path)):
            raise Unavailable(f"OpenBao cannot be given the path {str(path)!a}", hint="choose another state_dir")
    listeners = "".join(f'listener "unix" {{\n  address = "{socket}"\n}}\n' for socket in sockets)
    return f"""storage "pebbledb" {{
  path = "{directory / _DATA}"
}}
seal "static" {{
  current_key_id = "1"
  current_key = "file://{directory / _KEY}"
}}
{listeners}ui = false
"""


async def prepare(directory: Path, client: Client, logins: Mapping[str, Login]) -> None:
    """Set the server up, unless that was done. `logins`: of all `POLICIES`. `Unavailable`: it does not let itself."""
    if (directory / _READY).exists():
        return
    made = await client.request("PUT", "sys/init", body={"recovery_shares": 1, "recovery_threshold": 1})
    token, keys = made.get("root_token"), made.get("recovery_keys")
    if not isinstance(token, str) or not isinstance(keys, list) or not keys:
        raise Unavailable("OpenBao's answer to its initialisation has no token")
    try:
        (directory / _RECOVERY).unlink(missing_ok=True)
        _fresh(directory / _RECOVERY, str(keys[0]).encode())
        for method, path, body in _steps(logins):
            await client.request(method, path, token=token, body=body)
        await client.request("POST", "auth/token/revoke-self", token=token, body={})
        _fresh(directory / _READY, b"")
    except OSError as error:
        raise Unavailable(f"OpenBao's files cannot be written: {error.strerror}") from error


async def usable(client: Client) -> bool:
    """Whether it is initialised and unsealed. `Unavailable` where it does not answer."""
    try:
        await client.request("GET", "sys/health")
    except Refused:
        return False
    return True


def _steps(logins: Mapping[str, Login]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield "POST", f"sys/mounts/{MOUNT}", {"type": "kv", "options": {"version": "2"}}
    yield "POST", "sys/auth/approle", {"type": "approle"}
    for name, policy in POLICIES.items():
        role = f"auth/approle/role/{name}"
        yield "PUT", f"sys/policies/acl/{name}", {"policy": policy}
        yield "POST", role, {"token_policies": [name], "token_no_default_policy": True, "token_ttl": "1h"}
        yield "POST", f"{role}/role-id", {"role_id": logins[name].role_id}
        yield "POST", f"{role}/custom-secret-id", {"secret_id": logins[name].secret_id}


def _fresh(file: Path, data: bytes) -> None:
    """A new file of this user's alone, durable."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(descriptor)
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
