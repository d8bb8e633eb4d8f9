"""Signed statements of who is asking: JSON Web Tokens in compact form (RFC 7515 §7.1), without I/O."""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Mapping
from typing import Any

from remit.core import exchange
from remit.core.exchange import Answer, Call, Sign


def signed(key: bytes, claims: Mapping[str, Any], key_id: str = "") -> Generator[Call | Sign, Answer | bytes, str]:
    """The token that says `claims`, signed with `key` (PEM, RS256)."""
    header = {"alg": "RS256", "typ": "JWT", **({"kid": key_id} if key_id else {})}
    message = b".".join(_part(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    signature = yield Sign(key=key, message=message)
    assert isinstance(signature, bytes)
    return (message + b"." + _part(signature)).decode()


def _part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def unfit_key(value: bytes) -> str | None:
    """Why `value` is no private key, as far as its text shows; or None."""
    if exchange.KEPT_KEY.fullmatch(value.strip()):
        return None
    if b"-----BEGIN " not in value or b"PRIVATE KEY-----" not in value:
        return "the secret holds no private key in PEM form"
    return None
