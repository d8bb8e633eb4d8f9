"""What policies said, made into one opinion.

A policy's document is text that a person wrote, shaped by what an agent sent: whatever has no clear meaning denies
(`deny := true`, an unknown obligation), and whatever is shown is printable and bounded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from remit.core.decision import Opinion
from remit.policy import reserved

MAX_MESSAGES = 16
MAX_MESSAGE = 400
MAX_OBLIGATIONS = 16
_NOTE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Verdict:
    """Hears one policy after the other."""

    def __init__(self) -> None:
        self._denials: list[tuple[str, str]] = []
        self._holds: list[tuple[str, str]] = []
        self._notes: dict[str, str] = {}
        self._headers: dict[str, str] = {}

    def hear(self, policy: str, document: Mapping[str, Any]) -> str | None:
        """Take in what `policy` says. Why that cannot be done, which is a failure, or None."""
        self._denials += [(policy, said) for said in _messages(document, "deny")]
        self._holds += [(policy, said) for said in _messages(document, "hold")]
        return self._oblige(document["obligations"]) if "obligations" in document else None

    def opinion(self) -> Opinion:
        if len(self._holds) > MAX_MESSAGES and not self._denials:
            # A human answers what they were shown: an agent that can make many reasons must not crowd one out.
            return Opinion(failure=f"more than {MAX_MESSAGES} reasons to hold it: nobody would be shown them all")
        return Opinion(
            denials=tuple(self._denials[:MAX_MESSAGES]),
            holds=tuple(self._holds[:MAX_MESSAGES]),
            notes=self._notes,
            headers=self._headers,
        )

    def _oblige(self, value: object) -> str | None:
        if not isinstance(value, dict):
            return "obligations is not an object"
        for key, items in value.items():
            if key not in ("audit", "headers"):
                return f"unknown obligation {printable(key)[:64]!r}: nothing here can fulfil it"
            if not isinstance(items, dict):
                return f"obligation {key} is not an object"
            kept = self._notes if key == "audit" else self._headers
            for name, text in items.items():
                failure = _unfit(key, name, text)
                if failure is not None:
                    return failure
                if kept.setdefault(name, text) != text:
                    return f"obligation {key}.{name} contradicts another policy's"
            if len(kept) > MAX_OBLIGATIONS:
                return f"more than {MAX_OBLIGATIONS} obligations of kind {key}"
        return None


def printable(text: str) -> str:
    """`text` with everything that is not printable (controls, bidirectional marks) as a space, and bounded."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_MESSAGE])


def _messages(document: Mapping[str, Any], rule: str) -> list[str]:
    """The messages of a deny or hold document, one more than count at most. A shape that nobody meant (`deny := true`)
    still denies."""
    value = document.get(rule, [])
    if value is False or value == [] or value == {}:
        return []
    found = []
    for item in (value if isinstance(value, list) else [value])[: MAX_MESSAGES + 1]:
        said = item.get("msg", item) if isinstance(item, dict) else item
        found.append(_bound(said if isinstance(said, str) else json.dumps(said)))
    return found


def _bound(text: str) -> str:
    """`text` as it is shown. Of a longer one the beginning and the SHA-256 of all: a grant is bound to its reasons, and
    one for what a human saw the beginning of covers no other end."""
    if len(text) <= MAX_MESSAGE:
        return printable(text)
    whole = f"… SHA-256 {hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"
    return printable(text)[: MAX_MESSAGE - len(whole)] + whole


def _unfit(key: str, name: str, text: object) -> str | None:
    shown = printable(name)[:64]
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_MESSAGE or not _ascii(text):
        return f"obligation {key}.{shown} is not printable text of 1 to {MAX_MESSAGE} characters"
    fit = _NOTE.fullmatch(name) is not None if key == "audit" else reserved.obligation_header(name)
    return None if fit else f"obligation {key} may not set {shown!r}"


def _ascii(text: str) -> bool:
    return all(" " <= c <= "~" for c in text)
