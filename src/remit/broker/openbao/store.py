"""KV v2 and leases as requests and answers, without I/O: what to ask for, and what the answer gives for how long."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from remit.core.errors import Unavailable
from remit.core.source import Kv, Lease

MAX_VALUE = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    method: str
    path: str
    namespace: str
    body: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """`lasts_s` counts from when it was asked for. `lease`: its id, "" where the value is not a lease."""

    value: bytes = field(repr=False)
    lasts_s: float
    lease: str = ""
    renewable: bool = False


def read(source: Kv) -> Ask:
    version = f"?version={source.version}" if source.version else ""
    path = f"{source.mount}/data/{source.path}{version}"
    return Ask(method="GET", path=path, namespace=source.namespace)


def stored(source: Kv, answer: Mapping[str, Any]) -> Got:
    """What a KV v2 read gives. `Unavailable` where the version was deleted or the field is not there."""
    outer = answer.get("data")
    data = outer.get("data") if isinstance(outer, dict) else None
    if not isinstance(data, dict):
        raise Unavailable(f"{source} has no such version, or it was deleted")
    return Got(value=_picked(str(source), data, source.key), lasts_s=source.refresh_s)


def make(source: Lease) -> Ask:
    if source.issue:
        body = {_snake(name): value for name, value in source.parameters}
        return Ask(method="POST", path=f"{source.mount}/issue/{source.role}", namespace=source.namespace, body=body)
    return Ask(method="GET", path=f"{source.mount}/creds/{source.role}", namespace=source.namespace)


def made(source: Lease, answer: Mapping[str, Any]) -> Got:
    """What a dynamic engine gives. `Unavailable` where it is no lease: nobody could take it back."""
    data, lease, lasts = answer.get("data"), answer.get("lease_id"), answer.get("lease_duration")
    if not isinstance(data, dict) or not isinstance(lease, str) or not lease or not isinstance(lasts, int | float):
        raise Unavailable(f"{source} gives no lease (a PKI role needs generate_lease=true), so it cannot be taken back")
    return Got(
        value=_picked(str(source), data, source.field),
        lasts_s=float(lasts),
        lease=lease,
        renewable=bool(answer.get("renewable")),
    )


def _picked(shown: str, data: dict[str, Any], key: str | None) -> bytes:
    if key is None:
        value = json.dumps(data, separators=(",", ":")).encode()
    elif key not in data:
        raise Unavailable(f"{shown} has no field {key}")
    elif isinstance(data[key], str):
        value = data[key].encode()
    else:
        value = json.dumps(data[key], separators=(",", ":")).encode()
    if not 0 < len(value) <= MAX_VALUE:
        raise Unavailable(f"{shown} is empty or longer than {MAX_VALUE} bytes")
    return value


def _snake(name: str) -> str:
    """`commonName` as the API writes it: `common_name`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
