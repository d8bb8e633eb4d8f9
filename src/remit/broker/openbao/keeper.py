"""Secrets on their way into the node's own OpenBao: written by the control plane, which cannot read them back."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from remit.broker.openbao import config, reference
from remit.broker.openbao.client import Client
from remit.broker.openbao.sessions import Session
from remit.broker.openbao.store import Ask
from remit.core.errors import Invalid, Unavailable


class Keeper:
    """Implements `control.ports_control.Sealer`. For one event loop.

    `file`: how the control plane logs in (`openbao.config`), read at the first secret.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._client: Client | None = None
        self._session: Session | None = None

    async def seal(self, name: str, value: bytes) -> bytes:
        """Write a new version; what stands for it. `Invalid`: no text. `Unavailable`: it was not written.

        Nobody reads a version that nothing refers to.
        """
        try:
            text = value.decode()
        except UnicodeDecodeError:
            raise Invalid("OpenBao keeps text, and this secret is no UTF-8", hint="use base64") from None
        answer = await self._asked("POST", f"data/{reference.path(name)}", {"data": {reference.FIELD: text}})
        data = answer.get("data")
        version = data.get("version") if isinstance(data, dict) else None
        if not isinstance(version, int) or version < 1:
            raise Unavailable("OpenBao's answer to a new secret has no version")
        return reference.of(version, secrets.token_hex(8))

    async def forget(self, name: str, blob: bytes) -> None:
        """Every version of it. `Unavailable`: it is there still."""
        if reference.source(name, blob) is not None:
            await self._asked("DELETE", f"metadata/{reference.path(name)}", None)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _asked(self, method: str, path: str, body: dict[str, object] | None) -> dict[str, object]:
        if self._session is None:
            found = config.read(self._file)
            self._client = Client(found)
            self._session = Session(self._client, found, time.monotonic)
        return await self._session.ask(Ask(method=method, path=f"{reference.MOUNT}/{path}", namespace="", body=body))
