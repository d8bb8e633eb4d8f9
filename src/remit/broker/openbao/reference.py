"""A secret that `remit secret put` keeps in the node's own OpenBao: what stands for it in a snapshot, where it is.

The reference has the version alone, and a word that no other has, so that it changes with every `put`. Where to look
is told by the secret's own name, never by what was written down: what stands for one secret cannot be made to fetch
another, as the name inside a seal does for a sealed one. A version does not change: a rotated secret is another.
"""

from __future__ import annotations

import re

from remit.core.source import Kv

MOUNT, BELOW, FIELD = "secret", "remit", "value"
_SHAPE = re.compile(rb"remit-kept-1 ([1-9][0-9]{0,11}) [0-9a-f]{16}")


def of(version: int, word: str) -> bytes:
    """What stands for version `version` (from 1) of a secret. `word`: 16 hexadecimal digits, of this one alone."""
    return f"remit-kept-1 {version} {word}".encode()


def path(name: str) -> str:
    """Below the mount."""
    return f"{BELOW}/{name}"


def source(name: str, blob: bytes) -> Kv | None:
    """Where secret `name` is if `blob` is a reference; None where it is a sealed secret, or neither."""
    found = _SHAPE.fullmatch(blob)
    return Kv(mount=MOUNT, path=path(name), key=FIELD, version=int(found[1])) if found else None
