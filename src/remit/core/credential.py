"""A credential: where its secret comes from, how it is presented, where it may go. Its value is not here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from remit.core import names, paths, spellings
from remit.core.exchange import Exchange
from remit.core.reason import Refusal
from remit.core.request import Request
from remit.core.source import Source

COMPETING = (
    *("authorization", "x-api-key", "api-key", "apikey", "x-apikey", "x-auth-token", "x-access-token"),
    *("private-token", "job-token", "x-goog-api-key", "x-amz-security-token"),
)
"""Headers in which servers look for who is asking. An agent's own would compete with what is injected: the request, and
what it carries, could reach somebody else's account."""
HIDDEN = b"remit-hidden"
"""Stands for a secret in an answer where its credential has no placeholder."""

Secrets = tuple[tuple[bytes, bytes], ...]
"""What must not come back in an answer, each with what the agent sees in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeholder:
    """What the agent sees in place of the secret: environment variable `variable` holds `value`."""

    variable: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a presentation may depend on besides the request. `now`: UTC.

    `body`: the SHA-256 (hex) of its body, "" where it has none; None where that has not been seen.
    """

    now: datetime
    body: str | None = None
    stand_in: bytes = HIDDEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """What injection changes in the request: headers to set (lower-case names), and the new target if it changes."""

    headers: tuple[tuple[bytes, bytes], ...] = ()
    target: bytes | None = None
    removed: tuple[bytes, ...] = ()
    """Headers of the agent that are taken off."""
    secrets: Secrets = ()
    """Empty: nothing is looked for in the answer, and the request keeps `Range` and `Accept-Encoding`."""


@dataclass(frozen=True, slots=True)
class Later:
    """Only the second check can present it, which sees the body and has time."""


LATER = Later()


class Injection(Protocol):
    """How a secret is presented: a frozen value without I/O (`core.injections` has one kind a file)."""

    @property
    def headers(self) -> frozenset[str]:
        """The headers (lower case) that are its own to set: no policy may set them too."""
        ...

    def unfit(self, value: bytes) -> str | None:
        """Why a secret cannot be presented this way, without showing it; or None."""
        ...

    def secrets(self, value: bytes, stand_in: bytes) -> Secrets:
        """What must not come back of a `value` for which `unfit` found nothing."""
        ...

    def inject(self, value: bytes, request: Request, seen: Seen) -> Injected | Later | Refusal:
        """Present `value`, for which `unfit` found nothing, in `request`; or why that request cannot carry it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    name: str
    secret: str
    """Name in the sealed store; "" where `source` says another origin."""
    injection: Injection
    hosts: tuple[str, ...]
    source: Source | None = None
    """None: the sealed store."""
    exchange: Exchange | None = None
    """None: the stored secret is presented as it is."""
    placeholders: tuple[Placeholder, ...] = ()
    """The first one stands for the secret in answers, and chooses this credential (`core.choice`)."""
    invalid: str | None = None
    keeps: frozenset[str] = frozenset()
    """Headers of the agent, of those in `COMPETING`, that stay beside what is injected."""
    scrub: bool = True
    """Whether answers are searched for what was injected. False: an operator chose that the agent may see it."""

    @property
    def placeholder(self) -> Placeholder | None:
        return self.placeholders[0] if self.placeholders else None

    @property
    def stand_in(self) -> bytes:
        """What the agent sees in place of the secret."""
        return self.placeholder.value.encode() if self.placeholder is not None else HIDDEN

    def competing(self, request: Request) -> tuple[bytes, ...]:
        """The headers of `request` that have to go."""
        sent, ours = request.headers, self.injection.headers
        return tuple(
            name.encode() for name in COMPETING if name in sent and name not in ours and name not in self.keeps
        )

    def asked_by_node(self, request: Request) -> bool:
        """Whether `request` goes where only the node asks, with the stored secret."""
        if self.exchange is None:
            return False
        to = self.exchange.endpoint
        there = request.host == to.host and request.port == to.port
        return there and request.path.rstrip("/") == paths.normal(to.target.partition("?")[0]).rstrip("/")

    def pinned_to(self, host: str) -> bool:
        """Whether the secret may be sent to `host` (canonical)."""
        return any(names.covers(pattern, host) for pattern in self.hosts)


def unhideable(wanted: Credential, value: bytes) -> str | None:
    """Why a secret could not be kept from answers that repeat it, or None."""
    for secret, _ in wanted.injection.secrets(value, wanted.stand_in) if wanted.scrub else ():
        if len(secret) < spellings.SHORTEST:
            least = spellings.SHORTEST
            return f"the secret is shorter than {least} bytes: it could not be told from other text in answers"
    return None
