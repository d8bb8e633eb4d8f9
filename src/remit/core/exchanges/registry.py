"""Tokens of a container registry (the distribution project's token authentication).

A registry answers 401 with a realm, and clients ask there with a user name and a password. Here the node asks, before
there is a 401, so that neither the password nor the token comes near the agent.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from remit.core.exchange import Call, Endpoint, Granted, Steps
from remit.core.exchanges import answers
from remit.core.injections import fields


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryToken:
    """The stored secret is the password of `username`; where that is "", it has both."""

    endpoint: Endpoint
    service: str
    scopes: tuple[str, ...]
    """Such as `repository:library/alpine:pull`."""
    username: str = ""

    def unfit(self, value: bytes) -> str | None:
        if not self.username:
            return fields.missing(value, "username", "password")
        return None if value else "the secret is empty"

    def steps(self, value: bytes, now: datetime) -> Steps:
        found = fields.parts(value) if not self.username else {}
        user = (self.username or found["username"]).encode()
        pair = base64.b64encode(user + b":" + (value if self.username else found["password"].encode())).decode()
        query = urlencode([("service", self.service), *(("scope", scope) for scope in self.scopes)])
        glue = "&" if "?" in self.endpoint.target else "?"
        said = yield Call(
            method="GET",
            endpoint=self.endpoint.below(f"{self.endpoint.target}{glue}{query}"),
            headers={"authorization": f"Basic {pair}", "accept": "application/json"},
        )
        content = answers.answered(said, self.endpoint)
        token = answers.token(content, self.endpoint, "token", "access_token")
        return Granted(value=token, lasts_s=answers.lasts_s({"expires_in": 60, **content}))
