"""Ids of what the control plane makes: a letter that says what it is, and 50 random bits in ten letters and digits."""

from __future__ import annotations

import base64
import secrets

from remit.core.prefixes import Noun


def new(noun: Noun) -> str:
    return f"{noun.letter}-{base64.b32encode(secrets.token_bytes(7)).decode().lower()[:10]}"
