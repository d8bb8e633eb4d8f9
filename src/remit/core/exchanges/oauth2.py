"""OAuth 2.0: client credentials (RFC 6749 §4.4) and refresh tokens (§6), with rotation (RFC 9700 §4.14.2)."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from urllib.parse import quote_plus, urlencode

from remit.core.exchange import Call, Endpoint, Granted, Steps
from remit.core.exchanges import answers
from remit.core.injections import fields


class Authentication(StrEnum):
    """How the client says who it is (RFC 6749 §2.3.1)."""

    BASIC = "basic"
    POST = "post"
    NONE = "none"
    """A public client: it has no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """`more`: parameters that the service wants besides (`audience`, `resource`)."""

    endpoint: Endpoint
    client_id: str
    authentication: Authentication = Authentication.BASIC
    scopes: tuple[str, ...] = ()
    more: tuple[tuple[str, str], ...] = ()

    def call(self, grant: dict[str, str], secret: str) -> Call:
        form = {**grant, **dict(self.more)}
        if self.scopes:
            form["scope"] = " ".join(self.scopes)
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        if self.authentication is Authentication.BASIC:
            pair = f"{quote_plus(self.client_id)}:{quote_plus(secret)}"
            headers["authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            form["client_id"] = self.client_id
            if self.authentication is Authentication.POST:
                form["client_secret"] = secret
        return Call(method="POST", endpoint=self.endpoint, headers=headers, body=urlencode(form).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """The stored secret is the client's."""

    client: Client

    @property
    def endpoint(self) -> Endpoint:
        return self.client.endpoint

    def unfit(self, value: bytes) -> str | None:
        return _unfit(value)

    def steps(self, value: bytes, now: datetime) -> Steps:
        said = yield self.client.call({"grant_type": "client_credentials"}, value.decode())
        content = answers.answered(said, self.endpoint)
        return Granted(value=answers.token(content, self.endpoint, "access_token"), lasts_s=answers.lasts_s(content))


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshToken:
    """The stored secret is the refresh token, or a JSON object with `refresh_token` and `client_secret`.

    Where the service gives another refresh token, that one is stored instead: the one before may have ended with it.
    """

    client: Client

    @property
    def endpoint(self) -> Endpoint:
        return self.client.endpoint

    def unfit(self, value: bytes) -> str | None:
        if self.client.authentication is Authentication.NONE:
            return _unfit(value)
        return _unfit(value) or fields.missing(value, "refresh_token", "client_secret")

    def steps(self, value: bytes, now: datetime) -> Steps:
        found = fields.parts(value)
        refresh, secret = found.get("refresh_token") or value.decode(), found.get("client_secret", "")
        said = yield self.client.call({"grant_type": "refresh_token", "refresh_token": refresh}, secret)
        content = answers.answered(said, self.endpoint)
        value_s = answers.token(content, self.endpoint, "access_token")
        stored = None
        if content.get("refresh_token") not in (None, refresh):
            rotated = answers.token(content, self.endpoint, "refresh_token").decode()
            stored = json.dumps({**found, "refresh_token": rotated}).encode()
        return Granted(value=value_s, lasts_s=answers.lasts_s(content), stored=stored)


def _unfit(value: bytes) -> str | None:
    if not value:
        return "the secret is empty"
    try:
        value.decode()
    except UnicodeDecodeError:
        return "the secret is no text"
    return None
