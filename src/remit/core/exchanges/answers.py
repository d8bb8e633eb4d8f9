"""What token endpoints answer (RFC 6749 §5). They are others' servers: everything is bounded, nothing is repeated.

An endpoint sees the secret, so what it says in words is never shown: only error codes that the standard knows.
"""

from __future__ import annotations

import json
import math
from typing import Any

from remit.core.errors import Unavailable
from remit.core.exchange import Answer, Endpoint

DEFAULT_S = 300.0
"""How long a token is used whose end nobody told (RFC 6749 §5.1 only recommends `expires_in`)."""
LONGEST_S = 86_400.0
MAX_TOKEN = 32 << 10
_ERRORS = frozenset(
    (
        *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type"),
        *("invalid_scope", "access_denied", "temporarily_unavailable", "server_error", "slow_down"),
    )
)
_HINT = "remit secret put NAME, or look at the service's own log"


def answered(said: Answer | bytes, endpoint: Endpoint) -> dict[str, Any]:
    """The JSON object of a good answer. `Unavailable` for any other, with what may be shown of it."""
    assert isinstance(said, Answer)
    try:
        found = json.loads(said.body)
    except (ValueError, RecursionError):
        found = None
    content = found if isinstance(found, dict) else {}
    if said.status in (200, 201) and isinstance(found, dict) and "error" not in content:
        return content
    if 300 <= said.status < 400:
        raise Unavailable(f"{endpoint.host} redirects ({said.status}); a token endpoint is never followed", hint=_HINT)
    error = content.get("error")
    if isinstance(error, str) and error in _ERRORS:
        raise Unavailable(f"{endpoint.host} refuses a token: {error}", hint=_HINT)
    if said.status in (200, 201):
        raise Unavailable(f"{endpoint.host} answers with what is no token", hint=_HINT)
    raise Unavailable(f"{endpoint.host} refuses a token with status {said.status}", hint=_HINT)


def token(content: dict[str, Any], endpoint: Endpoint, *names: str) -> bytes:
    """The first field of `names` that is there."""
    found = next((content[name] for name in names if name in content), None)
    if not isinstance(found, str) or not 0 < len(found) <= MAX_TOKEN or not found.isascii():
        raise Unavailable(f"{endpoint.host} answers with what is no token", hint=_HINT)
    kind = content.get("token_type", "bearer")
    if not isinstance(kind, str) or kind.lower() not in ("bearer", "token"):
        raise Unavailable(f"{endpoint.host} gives tokens of a type that is not presented here", hint=_HINT)
    return found.encode()


def lasts_s(content: dict[str, Any]) -> float:
    """How long the token may be used, in seconds: as told, within bounds."""
    told = content.get("expires_in", DEFAULT_S)
    try:
        seconds = float(told)
    except (TypeError, ValueError, OverflowError):
        return DEFAULT_S
    return min(max(seconds, 0.0), LONGEST_S) if math.isfinite(seconds) else DEFAULT_S
