"""The addresses of this node, as the kernel has them now.

A governed name can resolve to the node itself under an address that is as public as any other; only the node knows.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path

from remit.core.errors import Unavailable
from remit.core.names import Address

FRESH_S = 2.0
"""How long an answer is taken for current: addresses rarely come, and the kernel's own rule knows them at once."""
IPV4, IPV6 = Path("/proc/net/fib_trie"), Path("/proc/net/if_inet6")
_LOCAL4 = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")


class OwnAddresses:
    """`monotonic`: seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._read_at = float("-inf")
        self._found: frozenset[Address] = frozenset()

    def __call__(self) -> frozenset[Address]:
        """All of them. `Unavailable` where the kernel does not say: then none can be told from another's."""
        now = self._monotonic()
        if now - self._read_at >= FRESH_S:
            try:
                self._found = read(IPV4.read_text(), IPV6.read_text() if IPV6.exists() else "")
            except OSError as error:
                raise Unavailable(f"the node's own addresses cannot be read: {error}", hint="remit doctor") from error
            self._read_at = now
        return self._found


def read(fib_trie: str, if_inet6: str) -> frozenset[Address]:
    """The addresses in the texts of /proc/net/fib_trie and /proc/net/if_inet6 (proc(5))."""
    four = {ipaddress.IPv4Address(text) for text in _LOCAL4.findall(fib_trie)}
    six = {ipaddress.IPv6Address(int(line.split()[0], 16)) for line in if_inet6.splitlines() if line.strip()}
    return frozenset(four | six)
