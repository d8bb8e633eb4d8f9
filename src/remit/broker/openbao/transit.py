"""Signatures by the transit engine, as a request and its answer, without I/O: the private key never leaves OpenBao.

The node's token needs `update` on MOUNT/sign/KEY, and nothing else of the engine.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from remit.broker.openbao.store import Ask
from remit.core.errors import Unavailable
from remit.core.exchange import KEPT_KEY, Sign


def sign(wanted: Sign) -> Ask | None:
    """What to ask for; None where the key is not kept there. `Unavailable` for another algorithm than RS256."""
    kept = KEPT_KEY.fullmatch(wanted.key.strip())
    if kept is None:
        return None
    if wanted.algorithm != "RS256":
        raise Unavailable(f"signatures of kind {wanted.algorithm} are not made here")
    mount, name = kept[1].decode(), kept[2].decode()
    body = {
        "input": base64.b64encode(wanted.message).decode(),
        "hash_algorithm": "sha2-256",
        "signature_algorithm": "pkcs1v15",
    }
    return Ask(method="POST", path=f"{mount}/sign/{name}", namespace="", body=body)


def signature(answer: Mapping[str, Any]) -> bytes:
    """The signature in `vault:v1:BASE64`. `Unavailable` where there is none."""
    data = answer.get("data")
    said = data.get("signature") if isinstance(data, dict) else None
    kind, _, rest = said.partition(":") if isinstance(said, str) else ("", "", "")
    try:
        found = base64.b64decode(rest.partition(":")[2], validate=True) if kind == "vault" else b""
    except (binascii.Error, ValueError):
        found = b""
    if not found:
        raise Unavailable("OpenBao's answer has no signature")
    return found
