"""Where a secret comes from: kept here, or, when it is not the sealed store of the node, an OpenBao (or Vault) server.

`Kv` is something that is stored there and read; `Lease` is something that is made for one task, ends by itself, and is
taken back when the task ends.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_KEPT_BYTES = 32 << 10
"""Of a secret that is given to Remit to keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kv:
    """Field `key` of `path` in a KV v2 engine; without a key all fields, as a JSON object.

    `namespace` is below the node's own. `refresh_s`: how long a value that was read may be used.
    """

    mount: str
    path: str
    key: str | None = None
    version: int | None = None
    namespace: str = ""
    refresh_s: float = 10.0

    def __str__(self) -> str:
        return f"{_below(self.namespace)}{self.mount}/{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What `mount` makes for `role`, for one task. `field` picks one of the answer; without it all, as a JSON object.

    `issue`: the engine wants parameters and a POST (PKI: `issue/ROLE`), else credentials are read (`creds/ROLE`).
    """

    mount: str
    role: str
    field: str | None = None
    issue: bool = False
    parameters: tuple[tuple[str, str], ...] = ()
    namespace: str = ""

    def __str__(self) -> str:
        return f"{_below(self.namespace)}{self.mount}/{'issue' if self.issue else 'creds'}/{self.role}"


Source = Kv | Lease


def _below(namespace: str) -> str:
    return f"{namespace}/" if namespace else ""
