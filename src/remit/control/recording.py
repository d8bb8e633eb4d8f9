"""Operators' actions, written into the same audit log as agents' requests.

What widens authority is recorded before it happens: without a record it does not happen. What narrows it (a
revocation, a removal) happens first: it must not wait for a disk. Values of secrets and arguments of commands are
never among the fields.
"""

from __future__ import annotations

import logging
from typing import Any

from remit.control.ports_control import Node
from remit.core.errors import RemitError, Unavailable

log = logging.getLogger(__name__)


class Recorder:
    """Writes operator records through the node, which owns the log."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def before(self, action: str, operator: str, detail: str, *, kind: str = "operator", **facts: Any) -> str:
        """Record what is about to happen. `Unavailable`: it must not."""
        await self._node.returned()
        try:
            return await self._node.record(kind, _fields(action, operator, detail, facts))
        except Unavailable as error:
            raise Unavailable(
                f"nothing was changed: the action could not be recorded ({error.detail})", hint="remit status"
            ) from error

    async def after(self, action: str, operator: str, detail: str, *, kind: str = "operator", **facts: Any) -> str:
        """Record what has happened. `Unavailable`: it has happened all the same."""
        try:
            return await self._node.record(kind, _fields(action, operator, detail, facts))
        except Unavailable as error:
            raise Unavailable(
                f"it is done ({detail}), but it could not be recorded ({error.detail})", hint="remit status"
            ) from error

    async def quietly(self, action: str, detail: str, *, kind: str = "operator", **facts: Any) -> None:
        """Record what ended by itself: it has ended, recorded or not, and there is nobody to tell."""
        try:
            await self.after(action, "", detail, kind=kind, **facts)
        except RemitError as error:
            log.error("not recorded (%s): %s", action, error.detail)


def _fields(action: str, operator: str, detail: str, facts: dict[str, Any]) -> dict[str, Any]:
    return {"action": action, "operator": operator, "detail": detail, **facts}
