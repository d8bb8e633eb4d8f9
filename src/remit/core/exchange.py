"""An exchange: how a stored secret becomes the short-lived one that is presented. Sans-io.

An exchange is a generator: it yields what it needs done (a `Call` to an endpoint, a `Sign` with the stored key), is
sent what came of it, and returns what was `Granted`. `broker.exchanger` drives every one of them in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from remit.core.addresses import Network
from remit.core.names import split_authority


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a node itself asks, over TLS. `addresses`: special-use ranges that `host` may resolve to."""

    host: str
    port: int
    target: str
    addresses: tuple[Network, ...] = ()

    def __str__(self) -> str:
        return f"https://{self.host}" + (f":{self.port}" if self.port != 443 else "") + self.target

    def below(self, target: str) -> Endpoint:
        """Another path of the same host."""
        return Endpoint(host=self.host, port=self.port, target=target, addresses=self.addresses)


def endpoint(url: str, addresses: tuple[Network, ...] = ()) -> Endpoint | None:
    """The endpoint that a plain https URL names; None where it is none (user names, fragments, odd hosts)."""
    scheme, _, rest = url.partition("://")
    authority, slash, target = rest.partition("/")
    named = split_authority(authority, 443)
    plain = all("!" <= c <= "~" and c not in '\\#"<>^`{|}' for c in target)
    if scheme != "https" or named is None or not plain or named[0].endswith("."):
        return None
    return Endpoint(host=named[0], port=named[1], target=slash + target if slash else "/", addresses=addresses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that the node makes. `headers` in any case; nothing of it is ever shown."""

    method: str
    endpoint: Endpoint
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def __repr__(self) -> str:
        return f"Call({self.method} {self.endpoint})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, whole and bounded."""

    status: int
    body: bytes

    def __repr__(self) -> str:
        return f"Answer({self.status})"


KEPT_KEY = re.compile(rb"openbao:([a-z0-9][a-z0-9-]{0,62})/([A-Za-z0-9][A-Za-z0-9_-]{0,127})")
"""A private key that never leaves its store: the transit engine of OpenBao, and the key's name in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A signature over `message` with `key` (PEM, or as `KEPT_KEY`): RS256, RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518
    §3.3)."""

    key: bytes
    message: bytes
    algorithm: str = "RS256"

    def __repr__(self) -> str:
        return f"Sign({self.algorithm})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """`lasts_s` from when the exchange began. `stored`: what the stored secret is replaced with from now on."""

    value: bytes
    lasts_s: float
    stored: bytes | None = None

    def __repr__(self) -> str:
        return f"Granted({self.lasts_s:g} s)"


Steps = Generator[Call | Sign, Answer | bytes, Granted]


class Exchange(Protocol):
    """One kind a file in `core.exchanges`. A frozen value."""

    @property
    def endpoint(self) -> Endpoint:
        """Whom the node asks; no request of an agent there is given what was granted."""
        ...

    def unfit(self, value: bytes) -> str | None:
        """Why a stored secret cannot be exchanged, without showing it; or None."""
        ...

    def steps(self, value: bytes, now: datetime) -> Steps:
        """Exchange `value`, for which `unfit` found nothing. Raises `Unavailable` where the other side says no."""
        ...
