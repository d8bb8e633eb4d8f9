"""Records of decisions in the shape of OPA's decision log (openpolicyagent.org, "Decision Logs"), for what reads that.

One event a decision. `decision_id` is the record's id, so that an event leads back to the chain it was taken from; the
event itself proves nothing. The input is what a record holds: no query, no headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PATH = "remit/decision"
_REQUEST = ("method", "scheme", "host", "port", "path")
_IDENTITY = ("task", "role", "jti")
_RESULT = ("reason", "detail", "capability", "credential", "would_deny", "would_deny_detail", "approval", "approved_by")


def event(record: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any] | None:
    """The event of a record, or None where the record is of no decision. `labels` say where it comes from."""
    if record.get("kind") != "decision":
        return None
    permitted = record.get("decision") == "permit"
    return {
        "labels": dict(labels),
        "decision_id": record.get("id"),
        "path": PATH,
        "input": {
            "identity": {name: record.get(name) for name in _IDENTITY},
            "request": {name: record.get(name) for name in _REQUEST},
            "flow": record.get("flow"),
        },
        "result": {"allow": permitted, **{name: record[name] for name in _RESULT if record.get(name)}},
        "timestamp": record.get("time"),
    }
