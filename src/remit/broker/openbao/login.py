"""Logins: AppRole, JWT and Kubernetes. Each is one request, and its answer is a token with an end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from remit.broker.openbao import config
from remit.broker.openbao.client import Client
from remit.broker.openbao.config import Auth
from remit.core.errors import Unavailable


@dataclass(slots=True, kw_only=True)
class Token:
    """`until`: monotonic seconds, counted from before it was asked for. An infinite one does not end by itself."""

    value: str = field(repr=False)
    until: float
    lasts_s: float
    renewable: bool


def request(auth: Auth) -> tuple[str, dict[str, Any]]:
    """(path, body) of a login. `Unavailable` where a file it needs cannot be read."""
    secret = auth.secret
    if auth.file is not None:
        secret = config.private(auth.file).decode(errors="replace").strip()
    if auth.method == "approle":
        return f"auth/{auth.mount}/login", {"role_id": auth.role, "secret_id": secret}
    return f"auth/{auth.mount}/login", {"role": auth.role, "jwt": secret}


async def login(client: Client, auth: Auth, monotonic: Callable[[], float]) -> Token:
    """A new token. `Unavailable` where there is none."""
    path, body = request(auth)
    asked = monotonic()
    return token(await client.request("POST", path, body=body), asked)


async def renew(client: Client, held: Token, monotonic: Callable[[], float]) -> Token:
    """`held` with more time. `Unavailable` where the server does not give it."""
    asked = monotonic()
    return token(await client.request("POST", "auth/token/renew-self", token=held.value, body={}), asked)


def token(answer: dict[str, Any], asked: float) -> Token:
    """The token in an answer to a request that was sent at `asked`."""
    auth = answer.get("auth")
    value = auth.get("client_token") if isinstance(auth, dict) else None
    if not isinstance(auth, dict) or not isinstance(value, str) or not value:
        raise Unavailable("OpenBao's answer to the login has no token")
    lasts = float(auth.get("lease_duration") or 0)
    until = asked + lasts if lasts else float("inf")
    return Token(value=value, until=until, lasts_s=lasts or float("inf"), renewable=bool(auth.get("renewable")))
