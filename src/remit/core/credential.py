"""A credential: where its secret comes from, how it is presented, where it may go. Its value is not here."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from urllib.parse import quote, unquote_plus

from remit.core import names, spellings
from remit.core.source import Source

HIDDEN = b"remit-hidden"
"""Stands for a secret in an answer where its credential has no placeholder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderInjection:
    """Set `header` (lower case) to `template` with `{secret}` replaced."""

    header: str
    template: str = "{secret}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicInjection:
    """RFC 7617 with this user name; the secret is the password. None: the secret has both (a lease of a database)."""

    username: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryInjection:
    """Set query parameter `parameter`, replacing every one that some server would read under that name."""

    parameter: str


Injection = HeaderInjection | BasicInjection | QueryInjection


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeholder:
    """What the agent sees in place of the secret: environment variable `variable` holds `value`."""

    variable: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    name: str
    secret: str
    """Name in the sealed store; "" where `source` says another origin."""
    injection: Injection
    hosts: tuple[str, ...]
    source: Source | None = None
    """None: the sealed store."""
    placeholder: Placeholder | None = None
    scrub: bool = True
    """Whether answers are searched for what was injected. False: an operator chose that the agent may see it."""
    invalid: str | None = None

    @property
    def stand_in(self) -> bytes:
        """What the agent sees in place of the secret."""
        return self.placeholder.value.encode() if self.placeholder is not None else HIDDEN

    def pinned_to(self, host: str) -> bool:
        """Whether the secret may be sent to `host` (canonical)."""
        return any(names.covers(pattern, host) for pattern in self.hosts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """What injection changes in the request: headers to set (lower-case names), and the new target if it changes."""

    headers: tuple[tuple[bytes, bytes], ...] = ()
    target: bytes | None = None
    secrets: tuple[tuple[bytes, bytes], ...] = ()
    """What must not come back in the answer, each with what the agent sees in its place. Empty: nothing is looked for,
    and the request keeps `Range` and `Accept-Encoding`."""


def unfit(value: bytes, injection: Injection) -> str | None:
    """Why a secret cannot be presented this way (header splitting, RFC 9110 §5.5), or None."""
    if not value:
        return "the secret is empty"
    if isinstance(injection, HeaderInjection) and value != value.strip(b" "):
        return "the secret begins or ends with a space; servers strip it"
    if isinstance(injection, HeaderInjection) and any(b < 0x20 or b == 0x7F for b in value):
        return "the secret has control characters; a header cannot carry them"
    if injection == BasicInjection(username=None):
        return missing(value, "username", "password")
    return None


def unhideable(wanted: Credential, value: bytes) -> str | None:
    """Why a secret could not be kept from answers that repeat it, or None."""
    for secret, _ in inject(wanted.injection, value, "/").secrets if wanted.scrub else ():
        if len(secret) < spellings.SHORTEST:
            least = spellings.SHORTEST
            return f"the secret is shorter than {least} bytes: it could not be told from other text in answers"
    return None


def missing(value: bytes, *names: str) -> str | None:
    """Why a secret that has several fields (a JSON object of texts) cannot be used, or None."""
    found = parts(value)
    absent = [name for name in names if not found.get(name)]
    return f"the secret is no JSON object with {' and '.join(absent)}" if absent else None


def parts(value: bytes) -> dict[str, str]:
    """The fields of a secret that is a JSON object; those that are no text are left out."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def inject(injection: Injection, value: bytes, target: str, stand_in: bytes = HIDDEN) -> Injected:
    """Present `value`. `target` is the request target (path and query) as the agent sent it."""
    match injection:
        case HeaderInjection(header=header, template=template):
            before, _, after = template.partition("{secret}")
            line = header.encode(), before.encode() + value + after.encode()
            return Injected(headers=(line,), secrets=((value, stand_in),))
        case BasicInjection(username=username):
            user, password = (username, value) if username is not None else _both(value)
            pair, seen = user.encode() + b":" + password, user.encode() + b":" + stand_in
            line = b"authorization", b"Basic " + base64.b64encode(pair)
            return Injected(headers=(line,), secrets=((password, stand_in), (pair, seen)))
        case QueryInjection(parameter=parameter):
            path, _, query = target.partition("?")
            kept = [item for item in query.split("&") if item and parameter.casefold() not in _keys(item)]
            kept.append(f"{quote(parameter, safe='')}={quote(value, safe='')}")
            return Injected(target=f"{path}?{'&'.join(kept)}".encode(), secrets=((value, stand_in),))


def _both(value: bytes) -> tuple[str, bytes]:
    found = parts(value)
    return found["username"], found["password"].encode()


def _keys(item: str) -> set[str]:
    """What servers may take for names in one item of a query: some split at `;` too, some ignore case and spaces."""
    return {unquote_plus(part.partition("=")[0]).strip().casefold() for part in item.split(";")}
