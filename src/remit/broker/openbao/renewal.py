"""New keys and new logins for the node's own OpenBao, so that whoever copied the ones before has nothing that works.

A renewal has a name, its generation; the unseal key is called by it. What is renewed is what `local` made once: the key
that unseals the server, the root key and the key ring that it protects, the recovery key, and both logins, with every
token that was had by them. It takes a server of its own that nobody else reaches: on a socket in this user's directory,
with both unseal keys, and the way to a root token open, which OpenBao closes by default. The key before is removed when
a server has unsealed itself without it. Ended anywhere in between, it is begun again, and nothing is lost.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remit.broker.openbao import local
from remit.broker.openbao.client import Client, Refused
from remit.broker.openbao.local import Login
from remit.core.errors import Unavailable

SOCKET = "renewal.sock"
_SHARES = {"secret_shares": 1, "secret_threshold": 1}


def generation() -> str:
    """A name that no renewal had before."""
    return secrets.token_hex(8)


def pending(directory: Path, wanted: str) -> bool:
    """Whether a server that was set up has another generation than `wanted`."""
    return local.ready(directory) and local.settled(directory) != wanted


def begin(directory: Path, wanted: str) -> Path:
    """The configuration's file of the server that `carry_out` needs. `Unavailable`: it could not be written."""
    (directory / SOCKET).unlink(missing_ok=True)
    local.key(directory, wanted)
    before = local.settled(directory)
    return local.configure(
        directory,
        f"""  current_key_id = "{wanted}"
  current_key = "file://{local.key_file(directory, wanted)}"
  previous_key_id = "{before}"
  previous_key = "file://{local.key_file(directory, before)}"
""",
        f"""listener "unix" {{
  address = "{directory / SOCKET}"
  disable_unauthed_generate_root_endpoints = false
}}
""",
    )


async def carry_out(directory: Path, client: Client, logins: Mapping[str, Login]) -> None:
    """Renew what is in the server. The unseal key it took by itself when it unsealed. `Unavailable`: not all of it."""
    token, recovery = await _root(directory, client)
    for name, login in logins.items():
        role = f"auth/approle/role/{name}"
        with contextlib.suppress(Refused):  # 404: it has none
            found = (await client.request("LIST", f"{role}/secret-id", token=token)).get("data") or {}
            for accessor in found.get("keys") or ():
                body = {"secret_id_accessor": accessor}
                await client.request("POST", f"{role}/secret-id-accessor/destroy", token=token, body=body)
        await client.request("POST", f"{role}/role-id", token=token, body={"role_id": login.role_id})
        await client.request("POST", f"{role}/custom-secret-id", token=token, body={"secret_id": login.secret_id})
    await client.request("POST", "sys/leases/revoke-prefix/auth/approle/login", token=token, body={})
    await client.request("POST", "sys/rotate/keyring", token=token, body={})
    await _rotated(client, "root", token, recovery, _SHARES)
    made = await _rotated(client, "recovery", token, recovery, {**_SHARES, "require_verification": True})
    try:
        fresh, nonce = str(made["keys_base64"][0]), str(made["verification_nonce"])
    except (KeyError, IndexError, TypeError) as error:
        raise Unavailable("OpenBao's answer to a new recovery key has none") from error
    local.replace(directory / local.NEXT_RECOVERY, fresh.encode())  # before it counts
    await client.request("POST", "sys/rotate/recovery/verify", token=token, body={"key": fresh, "nonce": nonce})
    local.replace(directory / local.RECOVERY, fresh.encode())
    (directory / local.NEXT_RECOVERY).unlink(missing_ok=True)
    await client.request("POST", "auth/token/revoke-self", token=token, body={})


async def _root(directory: Path, client: Client) -> tuple[str, str]:
    """A root token, and the recovery key that gave it: a renewal that was cut short may have left two."""
    refused: Unavailable | None = None
    for file in (local.RECOVERY, local.NEXT_RECOVERY):
        try:
            recovery = (directory / file).read_text().strip()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Unavailable(f"OpenBao's recovery key cannot be read: {error.strerror}") from error
        with contextlib.suppress(Refused):
            await client.request("DELETE", "sys/generate-root/attempt")
        begun = await client.request("PUT", "sys/generate-root/attempt", body={})
        try:
            body = {"key": recovery, "nonce": begun.get("nonce")}
            made = await client.request("PUT", "sys/generate-root/update", body=body)
        except Refused as error:
            refused = error
            continue
        return _decoded(made.get("encoded_token"), begun.get("otp")), recovery
    raise refused or Unavailable("OpenBao's recovery key is not there", hint="restore openbao/ from a backup")


def _decoded(encoded: object, word: object) -> str:
    """The token is given XORed with the one-time word that was given before (OpenBao, sys/generate-root)."""
    try:
        raw = base64.b64decode(f"{encoded}{'=' * (-len(str(encoded)) % 4)}", validate=True)
        return bytes(one ^ other for one, other in zip(raw, str(word).encode(), strict=True)).decode()
    except (binascii.Error, ValueError):
        pass  # and not `from error`: its text may quote the token
    raise Unavailable("OpenBao's answer has no root token")


async def _rotated(client: Client, which: str, token: str, recovery: str, how: Mapping[str, Any]) -> dict[str, Any]:
    with contextlib.suppress(Refused):
        await client.request("DELETE", f"sys/rotate/{which}/init", token=token)
    begun = (await client.request("POST", f"sys/rotate/{which}/init", token=token, body=dict(how))).get("data") or {}
    body = {"key": recovery, "nonce": begun.get("nonce")}
    made = (await client.request("POST", f"sys/rotate/{which}/update", token=token, body=body)).get("data") or {}
    if made.get("complete") is not True:
        raise Unavailable(f"OpenBao did not make a new {which} key")
    return dict(made)
