"""When a secret ends: what its own text says, and how near an end is.

Two kinds of secrets tell their end themselves: a JWT (`exp`, RFC 7519 §4.1.4) and a certificate (`notAfter`, RFC 5280
§4.1.2.5). Nothing is verified here: whoever issued it will not take it after that, so it is no use before either.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from cryptography import x509

_PEM = b"-----BEGIN CERTIFICATE-----"
_JWT_PARTS = 3
_LATEST = 253_402_300_799
"""The last second of year 9999: an `exp` beyond it means never."""


class Nearness(StrEnum):
    """How near the end is. Each is told once; `stages` orders them."""

    FAR = "ok"
    FORTNIGHT = "expires within 14 days"
    DAYS = "expires within 3 days"
    DAY = "expires within a day"
    OVER = "expired"


_BOUNDS = (
    (timedelta(0), Nearness.OVER),
    (timedelta(days=1), Nearness.DAY),
    (timedelta(days=3), Nearness.DAYS),
    (timedelta(days=14), Nearness.FORTNIGHT),
)
STAGES = tuple(Nearness)
"""From far to over."""


def nearness(end: datetime | None, now: datetime) -> Nearness:
    if end is None:
        return Nearness.FAR
    return next((stage for bound, stage in _BOUNDS if end - now <= bound), Nearness.FAR)


def told(value: bytes) -> datetime | None:
    """The end that `value` itself tells, aware UTC; of several certificates the first end. None where it tells none."""
    return _certificates(value) if _PEM in value else _jwt(value)


def _jwt(value: bytes) -> datetime | None:
    parts = value.strip().split(b".")
    if len(parts) != _JWT_PARTS or not value.startswith(b"ey"):
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + b"=="))
        exp = claims["exp"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if isinstance(exp, bool) or not isinstance(exp, int | float) or not 0 < exp <= _LATEST:
        return None
    return datetime.fromtimestamp(exp, UTC)


def _certificates(value: bytes) -> datetime | None:
    try:
        found = x509.load_pem_x509_certificates(value.replace(b"\\n", b"\n"))
    except ValueError:
        return None
    return min((one.not_valid_after_utc for one in found), default=None)
