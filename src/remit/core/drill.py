"""The name of the leak drill's upstream, which is a server on the node itself.

Not under `.alt` as what the boundary answers is (`core.doorway`): no manifest may name a host there, and the drill's
capability is a manifest like any other. The node knows its address, so that no DNS is asked for it.
"""

from __future__ import annotations

HOST, ADDRESS = "drill.remit.internal", "127.0.0.1"
LEAF = "drill.pem"
"""Its certificate and key, one file."""
