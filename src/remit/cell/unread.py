"""What a cell's sockets have queued of the kernel's own words: answers of netlink(7), and errors (ip(7), IP_RECVERR).

The kernel counts that memory for no group, and each socket may hold twice net.core.rmem_max: a cell with a few thousand
of them would take gigabytes of the machine's, and whoever the kernel kills then would be somebody else. Nothing limits
it for a network namespace, so it is looked at twice a second. Errors of TCP are not seen: they have an end with the
connections that a cell can have (`cell.network`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

MOST_BYTES = 64 << 20
EVERY_S = 0.5
_SOCKET_BYTES = 2048
"""Counted for a socket that has nothing queued: what has no end is not read to its end either."""
_FEW = 16
"""UDP sockets that are not looked at. The kernel walks all that the machine could have (65,536 lists) to list them."""


def beyond(process: int) -> bool:
    """Whether the sockets of the network namespace of `process` have more than `MOST_BYTES` queued."""
    network, queued = Path(f"/proc/{process}/net"), 0
    with contextlib.suppress(OSError):
        for bytes_queued in _each(network):
            queued += _SOCKET_BYTES + bytes_queued
            if queued > MOST_BYTES:
                return True
    return False


def _each(network: Path) -> Iterator[int]:
    for fields in _rows(network / "netlink"):
        yield int(fields[4])
    for kind, counts in (("udp", "sockstat"), ("udp6", "sockstat6")):
        if any(row[0] == f"{kind.upper()}:" and int(row[2]) > _FEW for row in _rows(network / counts, heads=0)):
            for fields in _rows(network / kind):
                yield int(fields[4].partition(":")[2], 16)


def _rows(path: Path, heads: int = 1) -> Iterator[list[str]]:
    with path.open() as lines:
        for number, line in enumerate(lines):
            if number >= heads:
                yield line.split()
