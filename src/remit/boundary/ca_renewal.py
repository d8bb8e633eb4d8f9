"""A node's intermediate, renewed while the node runs: the supervisor signs a new one, the decision service takes it up.

An intermediate lives 90 days (`ca.NODE_LIFE`) and is replaced when it has less than 30 to live (`ca.NODE_RENEW`). For
the rest of its life both are good: they hang on the same root, which cells trust, and each leaf is sent with the
intermediate that signed it. Leaves live 48 hours and are replaced after 24 (`ca.LEAF_LIFE`), by then from the new one;
no connection is cut, and nothing has to be restarted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from remit.boundary import ca
from remit.core.errors import Unavailable

log = logging.getLogger(__name__)

RENEW_S = 60.0
"""How often the supervisor looks. It has 30 days to succeed, but one that was signed while the clock was wrong is good
for nothing once the clock is right."""
FOLLOW_S = 30.0
"""How often the decision service looks for a new one."""


async def keep(root_directory: Path, node_directory: Path, now: Callable[[], datetime]) -> None:
    """Renew the intermediate in time, until cancelled. A failure is logged and tried again."""
    while True:
        await asyncio.sleep(RENEW_S)
        try:
            if await asyncio.to_thread(ca.ensure, root_directory, node_directory, now()):
                log.info("the node's certificate authority was renewed")
        except Unavailable as error:
            log.error("the node's certificate authority was not renewed: %s", error)


async def follow(node_directory: Path, use: Callable[[ca.Authority], None]) -> None:
    """Hand every new intermediate to `use`, until cancelled. One that is half written is looked at again."""
    known = _mark(node_directory)
    while True:
        await asyncio.sleep(FOLLOW_S)
        found = _mark(node_directory)
        if found == known:
            continue
        try:
            use(ca.load(node_directory))
        except Unavailable as error:
            log.error("the node's new certificate authority is not used yet: %s", error)
            continue
        known = found
        log.info("certificates are signed by a new intermediate from now on")


def _mark(node_directory: Path) -> tuple[int, int] | None:
    try:
        found = (node_directory / ca.NODE_CERTIFICATE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
