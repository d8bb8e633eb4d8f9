"""What a cell means by an address: virtual addresses back to names, and through which door a connection should go.

A connection that nobody reads carries no name but its address, a hash of the name (`core.flow`): two names may share
one. Of all names with that address, those count that a capability of the cell's task covers at that port; an agent that
looks for a second name with the address of an allowed one finds it does not count, or is itself allowed.
Deciding is not done here: a wrong door leads to the same check.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict

from remit.control.knowledge import Knowledge
from remit.core import flow, names
from remit.core.capability import UNREAD, Protocol
from remit.core.snapshot import Role, Rules, Snapshot
from remit.node.dns import Quota

DOORS = {Protocol.TCP: b"tcp", Protocol.TLS: b"tls"}
INSPECTED = b""
"""The door behind which Envoy finds out what a connection is."""


class Destinations:
    """`update` is told of every snapshot. `quota` knows which names each cell has asked for."""

    def __init__(self, knowledge: Knowledge, quota: Quota) -> None:
        self._knowledge = knowledge
        self._quota = quota
        self._rules = Rules()
        self._stated: dict[str, list[str]] = {}

    def update(self, snapshot: Snapshot) -> None:
        """The hosts that capabilities name in full are known without having been asked for."""
        if snapshot.rules is self._rules:
            return
        self._rules = snapshot.rules
        stated: defaultdict[str, list[str]] = defaultdict(list)
        for capability in snapshot.rules.capabilities.values():
            for host in capability.hosts if capability.protocol in UNREAD else ():
                if not host.startswith("*") and names.address_literal(host) is None:
                    for address in flow.virtual(host):
                        stated[address].append(host)
        self._stated = dict(stated)

    def names(self, cell: int, address: str, port: int) -> tuple[str, ...]:
        """See `core.request.Opaque.names`."""
        candidates = dict.fromkeys((*self._stated.get(address, ()), *self._quota.asked(cell, address)))
        role = self._role(cell)
        covered = tuple(
            name for name in candidates if role is not None and Protocol.TCP in _protocols(role, name, port)
        )
        return covered or tuple(self._quota.asked(cell, address)[:1])

    def door(self, cell: int, address: str, port: int) -> bytes:
        """`tcp` or `tls` where only capabilities of that kind cover the destination, else INSPECTED."""
        role = self._role(cell)
        if role is None:
            return INSPECTED
        literal = ipaddress.ip_address(address)
        candidates = (
            dict.fromkeys((*self._stated.get(address, ()), *self._quota.asked(cell, address)))
            if flow.is_virtual(literal)
            else {address: None}
        )
        found = {protocol for name in candidates for protocol in _protocols(role, name, port)}
        return DOORS[found.pop()] if len(found) == 1 and found <= UNREAD else INSPECTED

    def _role(self, cell: int) -> Role | None:
        snapshot = self._knowledge.snapshot
        task = self._knowledge.snapshot.task_in(cell)
        return snapshot.rules.roles.get(task.role) if task is not None else None


def _protocols(role: Role, name: str, port: int) -> set[Protocol]:
    return {found.protocol for found in role.index.by_host(name) if port in found.ports and found.invalid is None}
