"""Delta SDS as a plain machine: which leaf to send, which name to refuse, when to renew or forget. Sans-io.

Envoy asks for a leaf in the middle of a TLS handshake and says nothing of who connects, so this service cannot know
tasks. An agent can ask for any name: only canonical spellings are answered, new names are rationed (`leaf_ration`), and
only a bounded number of leaves is kept (Envoy holds about 60 KB for each). A name that is refused is answered as
removed (xDS, "delta": removed_resources), or the handshake would wait until its time-out.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from remit.boundary.ca import LEAVES_MAX, Leaf
from remit.boundary.leaf_ration import Ration
from remit.core import names
from remit.core.errors import Unavailable

log = logging.getLogger(__name__)


class Minter(Protocol):
    """`ca.Authority`."""

    def knows(self, name: str) -> bool: ...

    def leaf(self, name: str, now: datetime) -> Leaf: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one stream says next: leaves to send, names that do not exist (any more)."""

    leaves: tuple[Leaf, ...] = ()
    removed: tuple[str, ...] = ()


class Desk:
    """What the streams share: the authority, the ration, and which names Envoy holds (oldest first)."""

    def __init__(self, minter: Minter, ration: Ration, *, names_max: int = LEAVES_MAX) -> None:
        self._minter = minter
        self._ration = ration
        self._names_max = names_max
        self._governed: frozenset[str] = frozenset()
        self._held: OrderedDict[str, Stream] = OrderedDict()
        self.refused = 0
        """Names refused since start: a count for metrics."""

    def govern(self, hosts: Iterable[str]) -> None:
        """Hosts that capabilities name in full: they are never rationed, or one cell could shut out all others."""
        self._governed = frozenset(hosts)

    def leaf(self, name: str, now: datetime, *, held: bool = False) -> Leaf | None:
        """The leaf for `name`, or None where the name is not canonical or the ration is spent.

        `held`: Envoy says it has one. After a restart of this service it asks for all of them at once: not new names.
        """
        free = held or name in self._governed or self._minter.knows(name)
        if names.canonical(name) != name or not (free or self._ration.take(name, now)):
            self.refused += 1
            return None
        try:
            return self._minter.leaf(name, now)
        except Unavailable as error:
            log.error("no certificate for %s: %s", name, error.detail)
            self.refused += 1
            return None

    def use(self, minter: Minter) -> None:
        """Leaves come from `minter` from now on; what Envoy holds is good until it is due."""
        self._minter = minter

    def hold(self, name: str, stream: Stream) -> None:
        """Note that Envoy holds `name` on `stream`; where that is one too many, the oldest is taken back."""
        self._held[name] = stream
        self._held.move_to_end(name)
        while len(self._held) > self._names_max:
            oldest, owner = self._held.popitem(last=False)
            owner.evict(oldest)

    def release(self, name: str, stream: Stream) -> None:
        if self._held.get(name) is stream:
            del self._held[name]


class Stream:
    """One stream of Envoy (its on-demand selector opens one for each name)."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._sent: dict[str, Leaf] = {}
        self._evicted: list[str] = []

    def receive(
        self, subscribe: Iterable[str], unsubscribe: Iterable[str], now: datetime, held: Container[str] = ()
    ) -> Answer | None:
        """The answer to one request, or None where it wants none (an ACK, a NACK).

        `held`: what Envoy says it has from an earlier stream (initial_resource_versions).
        """
        for name in unsubscribe:
            self._forget(name)
        leaves, removed = [], []
        for name in subscribe:
            leaf = self._desk.leaf(name, now, held=name in held)
            if leaf is None:
                removed.append(name)
                continue
            self._sent[name] = leaf
            if name in self._evicted:
                self._evicted.remove(name)
            self._desk.hold(name, self)
            leaves.append(leaf)
        return Answer(leaves=tuple(leaves), removed=tuple(removed)) if leaves or removed else None

    def due(self, now: datetime) -> Answer | None:
        """What is to be said without being asked: leaves renewed before they expire, names taken back."""
        removed, self._evicted = self._evicted, []
        renewed = []
        for name, leaf in self._sent.items():
            if not leaf.good(now):
                fresh = self._desk.leaf(name, now, held=True)
                if fresh is not None and fresh.serial != leaf.serial:
                    renewed.append(fresh)
        for leaf in renewed:
            self._sent[leaf.name] = leaf
        return Answer(leaves=tuple(renewed), removed=tuple(removed)) if renewed or removed else None

    def evict(self, name: str) -> None:
        """The desk takes `name` back; `due` will say so."""
        if self._sent.pop(name, None) is not None:
            self._evicted.append(name)

    def close(self) -> None:
        for name in list(self._sent):
            self._forget(name)

    def _forget(self, name: str) -> None:
        if self._sent.pop(name, None) is not None:
            self._desk.release(name, self)
