"""HTTP Basic authentication (RFC 7617)."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from remit.core.credential import Injected, Secrets, Seen
from remit.core.injections import fields
from remit.core.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicInjection:
    """With this user name; the secret is the password. None: the secret has both (a lease of a database)."""

    username: str | None

    @property
    def headers(self) -> frozenset[str]:
        return frozenset({"authorization"})

    def unfit(self, value: bytes) -> str | None:
        if not value:
            return "the secret is empty"
        return fields.missing(value, "username", "password") if self.username is None else None

    def secrets(self, value: bytes, stand_in: bytes) -> Secrets:
        user, password = self._both(value)
        return (password, stand_in), (user + b":" + password, user + b":" + stand_in)

    def inject(self, value: bytes, request: Request, seen: Seen) -> Injected:
        pair = base64.b64encode(b":".join(self._both(value)))
        return Injected(headers=((b"authorization", b"Basic " + pair),), secrets=self.secrets(value, seen.stand_in))

    def _both(self, value: bytes) -> tuple[bytes, bytes]:
        if self.username is not None:
            return self.username.encode(), value
        found = fields.parts(value)
        return found["username"].encode(), found["password"].encode()
