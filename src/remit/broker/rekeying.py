"""A new sealing key in place of the one before, without a secret that nothing opens in between.

    one key ──begin──▶ both keys, the new one seals ──reseal every secret──▶ ──end──▶ the new key alone

Both open until the last step, so a crash at any point loses nothing, and whoever begins again goes on from there. The
old key is forgotten only when nothing that this node knows of is sealed for it alone: neither a secret of the snapshot
in force nor what the node sealed for itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from remit.broker.openbao import reference
from remit.broker.sealed import Opener
from remit.core.errors import Conflict

log = logging.getLogger(__name__)


class Own(Protocol):
    """What the node keeps sealed for itself."""

    def reseal(self) -> None:
        """Seal all of it for the current key; durable on return. `Unavailable`: not all of it is."""
        ...


class Rekeying:
    """`known`: the secrets in force, as they are sealed. Call it where what is `own` is written: in one event loop."""

    def __init__(self, opener: Opener, known: Callable[[], Mapping[str, bytes]], own: Sequence[Own]) -> None:
        self._opener = opener
        self._known = known
        self._own = own

    def begin(self) -> None:
        """Seal for a new key; where that was begun before, go on with it."""
        if not self._opener.changing:
            self._opener.rotate()

    def reseal(self, name: str, blob: bytes) -> bytes:
        """The same secret for the new key. What another store keeps stays as it is. `Unavailable`: it was not sealed
        for this node."""
        return blob if reference.source(name, blob) is not None else self._opener.reseal(name, blob)

    def end(self) -> None:
        """Forget the key before. `Conflict`: a secret is still sealed for it. `Unavailable`: nothing was forgotten."""
        for name, blob in self._known().items():
            if self._opener.outdated(blob):
                raise Conflict(f"secret {name} is still sealed for the key before", hint="remit secret rekey")
        for one in self._own:
            one.reseal()
        self._opener.retire()
        log.info("the sealing key was changed")
