"""Where `remit secret put` keeps a secret: sealed in the control plane's database, or in the node's own OpenBao."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from remit.broker import sealed
from remit.broker.openbao import reference
from remit.core.errors import Conflict, Unavailable
from remit.settings import Settings

if TYPE_CHECKING:
    from remit.control.ports_control import Sealer


class NodeSealer:
    """`control.ports_control.Sealer` with the node's public key, which the node leaves beside its private one."""

    def __init__(self, public_key: Path) -> None:
        self._public_key = public_key

    async def seal(self, name: str, value: bytes) -> bytes:
        try:
            key = self._public_key.read_bytes()
        except OSError as error:
            raise Unavailable("the node has no sealing key yet", hint="remit status") from error
        return sealed.seal(key, name, value)

    async def forget(self, name: str, blob: bytes) -> None:
        if reference.source(name, blob) is not None:
            raise Conflict(f"secret {name} is in the node's OpenBao", hint="remit up --secrets openbao, then remove it")


def sealer(settings: Settings) -> Sealer:
    if settings.secrets != "openbao":
        return NodeSealer(settings.sealing_key.with_suffix(".pub"))
    from remit.broker.openbao.keeper import Keeper  # brings an HTTP client in

    return Keeper(settings.keeper_file)
