"""An OpenBao of the node's own, on one machine: its configuration, and what is done to it once.

It listens on a Unix socket alone (no port, so no other machine and no TLS), keeps its data in PebbleDB (of the storages
that its binary has, the one that is durable on one server without a port for a cluster), and unseals itself with a key
file. Whoever reads that file and the data reads everything: both are 0600 of a user of their own, as the sealing key of
the embedded store is.

The first token, which may do anything, is used for the set-up and revoked before the first secret is stored; with the
recovery key `renewal` makes another. A set-up that was interrupted has stored nothing yet: it is begun anew.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remit.broker import whole
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
FIRST = "1"
"""The generation of what a set-up makes (`renewal`)."""
RECOVERY, NEXT_RECOVERY = "recovery.key", "recovery.key.next"
_READY, _CONFIGURATION, _DATA = "ready", "server.hcl", "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How a process of the node logs in (AppRole): made beforehand, so that nobody hands it over afterwards."""

    role_id: str
    secret_id: str = field(repr=False)


def login() -> Login:
    return Login(role_id=secrets.token_hex(16), secret_id=secrets.token_hex(32))


def write(directory: Path, *sockets: Path, generation: str | None = None) -> Path:
    """What the server needs before it starts, in `directory` (this user's, 0700); the configuration's file.

    `generation`: whose key unseals it; None: the one that is settled. Data without a finished set-up is removed: no
    secret is in it. `Unavailable` where something cannot be written.
    """
    if not ready(directory):
        shutil.rmtree(directory / _DATA, ignore_errors=True)
        for left in directory.glob("unseal*.key"):
            left.unlink(missing_ok=True)  # it may be half of one
        generation = FIRST
    used = generation if generation is not None else settled(directory)
    key(directory, used)
    if used == settled(directory):
        _without_others(directory, used)
    seal = f'  current_key_id = "{used}"\n  current_key = "file://{key_file(directory, used)}"\n'
    return configure(directory, seal, configuration(directory, *sockets))


def configure(directory: Path, seal: str, listeners: str) -> Path:
    """The configuration's file, written anew. `Unavailable`."""
    content = f"""storage "pebbledb" {{
  path = "{directory / _DATA}"
}}
seal "static" {{
{seal}}}
{listeners}ui = false
"""
    replace(directory / _CONFIGURATION, content.encode())
    return directory / _CONFIGURATION


def configuration(directory: Path, *sockets: Path) -> str:
    """HCL of the listeners. `Unavailable` where a path cannot stand in it.

    The modes of the sockets are the umask's: with `socket_mode` it would give them to its own group too.
    """
    for path in (directory, *sockets):
        if any(character in '"\\$%\n' or not character.isprintable() for character in str(path)):
            raise Unavailable(f"OpenBao cannot be given the path {str(path)!a}", hint="choose another state_dir")
    return "".join(f'listener "unix" {{\n  address = "{socket}"\n}}\n' for socket in sockets)


def ready(directory: Path) -> bool:
    """Whether the set-up was finished."""
    return (directory / _READY).exists()


def settled(directory: Path) -> str:
    """The generation of what the server has. `Unavailable`: that cannot be read."""
    try:
        return (directory / _READY).read_text().strip() or FIRST
    except FileNotFoundError:
        return FIRST
    except OSError as error:
        raise Unavailable(f"OpenBao's state cannot be read: {error.strerror}") from error


def settle(directory: Path, generation: str) -> None:
    """`generation` is what the server has; the keys of others go. `Unavailable`: not all of that was done."""
    replace(directory / _READY, generation.encode())
    _without_others(directory, generation)


def _without_others(directory: Path, generation: str) -> None:
    try:
        for other in set(directory.glob("unseal*.key")) - {key_file(directory, generation)}:
            other.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(f"the unseal key before cannot be removed: {error.strerror}") from error


def key_file(directory: Path, generation: str) -> Path:
    return directory / ("unseal.key" if generation == FIRST else f"unseal-{generation}.key")


def key(directory: Path, generation: str) -> None:
    """Make the unseal key of `generation` unless it is there. `Unavailable`."""
    if not key_file(directory, generation).exists():
        replace(key_file(directory, generation), os.urandom(KEY_BYTES))


async def prepare(directory: Path, client: Client, logins: Mapping[str, Login]) -> None:
    """Set the server up, unless that was done. `logins`: of all `POLICIES`. `Unavailable`: it does not let itself."""
    if ready(directory):
        return
    made = await client.request("PUT", "sys/init", body={"recovery_shares": 1, "recovery_threshold": 1})
    token, keys = made.get("root_token"), made.get("recovery_keys")
    if not isinstance(token, str) or not isinstance(keys, list) or not keys:
        raise Unavailable("OpenBao's answer to its initialisation has no token")
    replace(directory / RECOVERY, str(keys[0]).encode())
    for method, path, body in _steps(logins):
        await client.request(method, path, token=token, body=body)
    await client.request("POST", "auth/token/revoke-self", token=token, body={})
    replace(directory / _READY, FIRST.encode())


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


def replace(file: Path, data: bytes) -> None:
    """`file` of this user's alone, whole or not at all, durable. `Unavailable`: it is as it was."""
    try:
        whole.replace(file, data)
    except OSError as error:
        raise Unavailable(f"OpenBao's files cannot be written: {error.strerror} ({error.filename})") from error
