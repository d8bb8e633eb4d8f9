"""The name under which a task asks, from inside its cell, for a task of its own: `http://delegate.remit.alt/`.

`.alt` is set aside for names outside the DNS (RFC 9476), so no server can ever have this name, and no manifest may
give a host under `.alt` (`policy.fields`). A request to it is decided like any other. What covers it is a capability
that no manifest names: a role has it if it delegates, so its policies, budgets and revocations bind it. Instead of an
upstream the control plane answers. Should a request ever be sent on past that, it is dialled at an address where
nobody can be (RFC 6666, discard-only).
"""

from __future__ import annotations

import ipaddress

from remit.core import paths
from remit.core.capability import Capability, Protocol

RESERVED = "alt"
"""The last label of the name: nobody else's names end in it."""
HOST = "delegate.remit.alt"
PATH = "/v1/tasks"
ADDRESS = "100::1"
CAPABILITY = Capability(
    name="(delegate)",
    protocol=Protocol.HTTP,
    hosts=(HOST,),
    ports=frozenset({80}),
    methods=frozenset({"POST"}),
    paths=(PATH,),
    addresses=(ipaddress.ip_network("100::/64"),),
    matchers=(paths.compiled(PATH),),
)
"""No manifest can have its name."""


def reserved(host: str) -> bool:
    """Whether a host, or a pattern of hosts, is among the names that are nobody's."""
    return host.rpartition(".")[2] == RESERVED
