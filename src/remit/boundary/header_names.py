"""Which header names belong to the boundary and may not cross it.

Envoy copies the headers of the check's answer into the request; the names that a credential or a policy sets are not
known beforehand, so the list is one of exceptions.
"""

from __future__ import annotations

import re

OURS = ("x-remit-", "x-envoy-")
"""Prefixes that never cross the boundary in either direction."""

FORGEABLE = (*OURS, "x-forwarded-")
"""Prefixes that are taken from an agent's request: they tell a proxy or an upstream who is asking."""

ENDS_HERE = ("forwarded", "proxy-authorization", "proxy-connection")
"""Headers of an agent's that are for the first proxy it meets, which is the boundary (RFC 7239, RFC 9110 §11.7.2)."""

TARGET = "x-remit-path"
"""The one header of ours that the check's answer sets in the request: the target to send instead of the agent's."""

LENGTH = "x-remit-length"
"""Set beside an answer that was searched: the length that Envoy took off, and gets back."""

TASK = "x-remit-task"
"""Which task asks: told to the control plane, where it is that which answers, and to no upstream."""

FRAMING = (
    "connection",
    "content-length",
    "content-type",
    "date",
    "host",
    "keep-alive",
    "proxy-connection",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
)
"""Headers of the answer to the check that describe that answer, not the agent's request (RFC 9110 §7.6.1)."""


_NOT_TARGET = "x-remit-(?:[^p]|p[^a]).*"
"""RE2 has no look-ahead: all of ours but those that begin as `TARGET` does."""


def disallowed() -> str:
    """An RE2 (and `re`) expression that fully matches each lower-case name the check's answer may not set."""
    prefixes = "|".join(re.escape(prefix) for prefix in (*FORGEABLE, ":") if prefix != "x-remit-")
    return f"(?:(?:{prefixes}).*|{_NOT_TARGET}|forwarded|{'|'.join(re.escape(name) for name in FRAMING)})"


def settable(name: str) -> bool:
    """Whether a credential or a policy may set header `name` (lower case) in the request to the upstream."""
    return not name.startswith(OURS) and re.fullmatch(disallowed(), name) is None
