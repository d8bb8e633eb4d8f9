"""Secrets that have several fields: a JSON object of texts (a lease of a database, a pair of keys)."""

from __future__ import annotations

import json


def parts(value: bytes) -> dict[str, str]:
    """The fields of a secret that is a JSON object; those that are no text are left out."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def missing(value: bytes, *names: str) -> str | None:
    """Why a secret that must have these fields cannot be used, or None."""
    found = parts(value)
    absent = [name for name in names if not found.get(name)]
    return f"the secret is no JSON object with {' and '.join(absent)}" if absent else None


def filled(template: str, value: bytes) -> bytes:
    """`template` with `value` in place of `{secret}`."""
    before, _, after = template.partition("{secret}")
    return before.encode() + value + after.encode()


def unfit_for_header(value: bytes) -> str | None:
    """Why a header cannot carry `value` (RFC 9110 §5.5: it would split the message, or come out another), or None."""
    if not value:
        return "the secret is empty"
    if value != value.strip(b" "):
        return "the secret begins or ends with a space; servers strip it"
    if any(b < 0x20 or b == 0x7F for b in value):
        return "the secret has control characters; a header cannot carry them"
    return None
