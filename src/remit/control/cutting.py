"""Connections that carry something open under an authority that was taken away: found, and closed.

The node knows which they are. Where it cannot say, every connection of every task that could use the authority is
closed: more than would have to be, never less. Clients connect again and are decided anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from remit.control.ports_control import Cells, Flows, Node
from remit.core.errors import Unavailable


class Cutting:
    def __init__(self, *, node: Node, cells: Cells) -> None:
        self._node = node
        self._cells = cells

    async def using(self, kind: str, name: str, otherwise: Iterable[str]) -> Flows:
        """What is open under a capability, credential or grant; all of the tasks `otherwise` where nobody could say.

        To be asked after the node has acknowledged that it is taken away, or it could permit more meanwhile.
        """
        try:
            return await self._node.using(kind, name)
        except Unavailable:
            return dict.fromkeys(otherwise)

    async def cut(self, flows: Flows) -> tuple[int, Sequence[str]]:
        """(connections closed, ids of tasks whose connections could not be)."""
        cuts = [
            self._cells.cut(task) if ports is None else self._cells.cut(task, ports) for task, ports in flows.items()
        ]
        answers = await asyncio.gather(*cuts, return_exceptions=True)
        closed, uncut = 0, list[str]()
        for task, answer in zip(flows, answers, strict=True):
            if isinstance(answer, int):
                closed += answer
            elif isinstance(answer, Unavailable):
                uncut.append(task)
            else:
                raise answer
        return closed, uncut
