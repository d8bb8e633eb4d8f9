"""What is open now, and by which authority: so that a revocation cuts exactly what it takes away.

A permit is answered before a byte moves and its request may last for hours; Envoy says when it ended, and where nobody
was there any more to hear the permit, whoever answers says so. Between the two, its flow (`core.flow`), capability,
credential and grant are kept here. Guaranteed: what is open is never missing, since where an end was never heard of,
more is cut than would have to be. An upstream connection is shared only by requests with one `pool` key, and a key is
never given out again after any authority was taken away.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import lru_cache

from remit.core import flow
from remit.core.decision import Permit
from remit.core.snapshot import Snapshot
from remit.core.task import ALIVE

AT_ONCE = 2048
"""Requests that one task may have open, whatever carries them: a cell's connections could hold half a million streams,
and each takes a connection to its upstream, of which a node has some 28,000 to one address (ip_local_port_range)."""
FORGET_MARGIN_S = 60.0

_PLACES = {"capability": 2, "credential": 3, "grant": 4}

Ports = Mapping[str, frozenset[int]]
"""By task: the ports that name its flows."""


class Openings:
    """`opened` and `ended` are on the path of every request: a dictionary entry each."""

    def __init__(self, *, longest_s: float, monotonic: Callable[[], float]) -> None:
        """`longest_s`: after which Envoy has ended whatever is open. Then it is over, though nobody said so."""
        self._longest_s = longest_s + FORGET_MARGIN_S
        self._monotonic = monotonic
        self._open: dict[str, tuple[str, str, str, str | None, str | None, float]] = {}
        self._count: Counter[str] = Counter()
        self._generation = secrets.token_hex(8)  # pools of an earlier life of this process may still stand in Envoy
        self._seen = Snapshot()
        self._carrier: int | None = None

    def carried_by(self, process: int) -> None:
        """Which process asks and carries what is permitted. What another one carried has ended with it, untold."""
        if process != self._carrier:
            self._carrier = process
            self._open.clear()
            self._count.clear()

    def opened(self, record: str, permit: Permit, grant: str | None = None) -> None:
        """A permit is about to be answered, on the word of a human where `grant` says so."""
        candidate = permit.candidate
        task = candidate.task.id
        self._count[task] += 1
        credential = candidate.credential
        name = credential.name if credential is not None else None
        flow_name = candidate.request.flow
        self._open[record] = (task, flow_name, candidate.capability.name, name, grant, self._monotonic())

    def full(self, task: str) -> bool:
        """Whether the task may have nothing more open."""
        if self._count[task] < AT_ONCE:
            return False
        before = self._monotonic() - self._longest_s
        while self._open and next(iter(self._open.values()))[5] < before:  # the oldest stand first
            self.ended(next(iter(self._open)))
        return self._count[task] >= AT_ONCE

    def ended(self, record: str) -> str | None:
        """Its request is over; the credential it carried, as far as that is known. Unknown records are none of ours."""
        found = self._open.pop(record, None)
        if found is None:
            return None
        self._count[found[0]] -= 1
        return found[3]

    def using(self, kind: str, name: str) -> Ports:
        """The flows that carry something open under capability, credential or grant `name`."""
        index = _PLACES[kind]
        found: defaultdict[str, set[int]] = defaultdict(set)
        for entry in self._open.values():
            if entry[index] == name:
                found[entry[0]].add(flow.port_of(entry[1]))
        return {task: frozenset(ports) for task, ports in found.items()}

    def pool(self, task: str, credential: str) -> str:
        """Who may share an upstream connection: requests of one task with one credential, until the next revocation."""
        return _key(self._generation, task, credential)

    def update(self, snapshot: Snapshot) -> None:
        """Forget tasks that are over; where authority was taken away or a secret replaced, begin new pools."""
        before, self._seen = self._seen, snapshot
        if before.revoked != snapshot.revoked or before.sealed != snapshot.sealed:
            self._generation = secrets.token_hex(8)
        over = {task.id for task in before.tasks.values() if task.state in ALIVE} - {
            task.id for task in snapshot.tasks.values() if task.state in ALIVE
        }
        if over:
            self._open = {record: entry for record, entry in self._open.items() if entry[0] not in over}
            for task in over:
                self._count.pop(task, None)


@lru_cache(maxsize=16384)
def _key(generation: str, task: str, credential: str) -> str:
    return hashlib.blake2s(f"{generation}\n{task}\n{credential}".encode(), digest_size=12).hexdigest()
