"""Which headers of a request a human is shown, and an answer is bound to: all that may change what is asked.

What is left out says who asks and how the answer is to come, or changes from one try to the next, so that the same
request would never be the same. Everything that is not known counts: WebDAV says in `Destination` where a copy goes, S3
in `x-amz-copy-source` where it comes from, and no list of such headers is ever complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from remit.core.credential import COMPETING

LONGEST = 160
"""Characters of a value that are shown whole; of a longer one the beginning, and the SHA-256 of all."""
_SHOWN = 80
_NAMES = frozenset(COMPETING).union(
    ("cookie", "proxy-authorization", "user-agent", "accept", "from", "origin", "referer", "dnt", "priority"),
    ("date", "x-amz-date", "x-amz-content-sha256", "x-amz-user-agent", "x-ms-date", "x-goog-api-client"),
    ("cache-control", "pragma", "connection", "keep-alive", "te", "trailer", "upgrade", "upgrade-insecure-requests"),
    ("content-length", "expect", "host", "traceparent", "tracestate", "baggage", "b3", "sentry-trace"),
    ("x-request-id", "x-correlation-id", "x-client-request-id", "x-ms-client-request-id", "x-cloud-trace-context"),
    ("idempotency-key", "x-idempotency-key", "x-retry-count", "x-amzn-trace-id"),
)
_BEGINNINGS = ("accept-", "sec-", "amz-sdk-", "x-stainless-", "x-b3-", "x-datadog-")


def told(headers: Mapping[str, str]) -> tuple[str, ...]:
    """`name: value` of those of `headers` (lower-case names) that count, in order of their names."""
    return tuple(
        f"{name}: {_text(value)}"
        for name, value in sorted(headers.items())
        if name not in _NAMES and not name.startswith(_BEGINNINGS)
    )


def _text(value: str) -> str:
    if len(value) <= LONGEST:
        return value
    return f"{value[:_SHOWN]}… SHA-256 {hashlib.sha256(value.encode()).hexdigest()}"
