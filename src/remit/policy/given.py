"""What policies are told of a request: the `input` document. `docs/guide` shows it; nothing secret is in it."""

from __future__ import annotations

from typing import Any

from remit.core.decision import Candidate

SHOWN_HEADERS = (
    "accept",
    "content-length",
    "content-type",
    "destination",
    "idempotency-key",
    "stripe-account",
    "stripe-context",
    "user-agent",
    "x-amz-copy-source",
    "x-amz-target",
    "x-goog-copy-source",
    "x-ms-copy-source",
)
"""What says of which kind a body is, what is asked for where the path does not (AWS), on whose account (Stripe), and
which second path is meant (WebDAV, object stores): no capability has looked at that one."""


def given(candidate: Candidate) -> dict[str, Any]:
    """JSON values. `time` is not among them: policies that need it call `time.now_ns`, and are not remembered."""
    asked = candidate.request
    return {
        "identity": {
            "task": candidate.task.id,
            "role": candidate.role.name,
            "subject": candidate.claims.subject,
            "parent": candidate.task.parent,
        },
        "request": {
            "method": asked.method,
            "scheme": asked.protocol.value,
            "host": asked.host,
            "port": asked.port,
            "path": asked.path,
            "query": asked.query,
            "websocket": asked.websocket,
            "headers": {name: asked.headers[name] for name in SHOWN_HEADERS if name in asked.headers},
        },
        "capability": {
            "name": candidate.capability.name,
            "credential": candidate.credential.name if candidate.credential else None,
        },
        "usage": [dict(used) for used in candidate.usage],
    }
