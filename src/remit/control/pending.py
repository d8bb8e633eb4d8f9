"""Revocations that the database could not take: in force all the same.

What narrows authority must not wait for a disk. So a revocation that cannot be stored is kept here, added to every
snapshot from that moment, and written into a reserve: space that was taken on the disk beforehand, so that a full disk
has room for it. It moves into the database as soon as that can be written. Guaranteed: what is in the reserve survives
a restart, and a reserve that cannot be read lets nothing start. Not guaranteed: what even the reserve could not take
(`hold` says so) does not survive a restart of the control plane.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from remit.control.ports_control import Reserve, Revocation, RevocationKind, Store, Unit
from remit.core.errors import NotFound, Unavailable
from remit.core.task import TRANSITIONS, Event, State, Task, advance


class Pending:
    """`unrecorded`: what was settled and still waits for its audit record."""

    def __init__(self, reserve: Reserve, now: datetime) -> None:
        """Begins with what an earlier process left. `Unavailable`: the reserve cannot be read."""
        self._reserve = reserve
        self._held = {(one.kind, one.name): one for one in reserve.load()}
        self._epoch = _epoch(now) if self._held else 0
        self.unrecorded: list[Revocation] = []

    @property
    def epoch(self) -> int:
        """Of the latest revocation that was held here; 0 before the first."""
        return self._epoch

    def hold(self, revocation: Revocation, stored_epoch: int) -> bool:
        """Keep it; whether it survives a restart. `stored_epoch`: of the database, which it must outrank."""
        self._held[(revocation.kind, revocation.name)] = revocation
        self._epoch = max(self._epoch, stored_epoch, _epoch(revocation.time) - 1) + 1
        return self._saved()

    def all(self) -> Sequence[Revocation]:
        return tuple(self._held.values())

    def revoked(self, unit: Unit) -> Sequence[Revocation]:
        """Everything that is in force: what `unit` has, and what is held here."""
        return (*unit.revocations.all(), *self._held.values())

    def over(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """`tasks`, those revoked here as revoked."""
        return [
            dataclasses.replace(task, state=State.REVOKED)
            if (RevocationKind.TASK, task.id) in self._held and TRANSITIONS[task.state]
            else task
            for task in tasks
        ]

    def settle(self, store: Store) -> None:
        """Move everything into the database. `Unavailable`: it still cannot be written."""
        if not self._held:
            return
        with store.unit() as unit:
            for revocation in self._held.values():
                if revocation.kind is RevocationKind.TASK:
                    _revoke(unit, revocation)
                unit.revocations.add(revocation)
            # The clock may have stepped back meanwhile; the node must take what comes next for newer.
            unit.advance_epoch(max(max(one.time for one in self._held.values()), _moment(self._epoch + 1)))
        settled, self._held = self._held, {}
        if not self._saved():
            self._held = settled
            raise Unavailable("the reserve of revocations cannot be cleared", hint="remit doctor")
        self.unrecorded += settled.values()

    def _saved(self) -> bool:
        try:
            self._reserve.save(self.all())
        except Unavailable:
            return False
        return True


def _revoke(unit: Unit, revocation: Revocation) -> None:
    try:
        task = unit.tasks.get(revocation.name)
    except NotFound:
        return
    if task.state is not State.REVOKED and TRANSITIONS[task.state]:
        unit.tasks.save(advance(task, Event.REVOKE, revocation.time))


def _epoch(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _moment(epoch: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=epoch)
