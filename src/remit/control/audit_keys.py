"""Which key may sign the heads of the audit log: pinned here, not believed because a head names it.

The first key that a node's heads are signed with is trusted (the node was enrolled by whoever brought this control
plane up). A head under any other key is refused and remembered, so that verifying says so: whoever can rewrite the log
and make a key of his own still cannot make heads that count. An operator who has changed the node's key trusts the new
one by name; heads under the old one stay good.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from remit.control.ports import Clock
from remit.control.ports_control import AuditKey, Head, Store, Unit
from remit.control.recording import Recorder
from remit.core.errors import Conflict, NotFound

REFUSED_MAX = 16
"""Refused keys that are remembered; one is enough to know."""


def receive(unit: Unit, head: Head, now: datetime) -> bool:
    """Keep `head` if its key is trusted; False where it was refused."""
    key = _key(head)
    known = {one.key: one for one in unit.audit_keys.all()}
    if not any(one.trusted for one in known.values()):
        earlier = unit.heads.all()  # of the time before keys were pinned
        first = _key(earlier[0]) if earlier else key
        unit.audit_keys.put(AuditKey(key=first, since=now, trusted=True))
        known[first] = AuditKey(key=first, since=now, trusted=True)
    if key in known and known[key].trusted:
        unit.heads.add(head)
        return True
    if key not in known and len(known) < REFUSED_MAX:
        unit.audit_keys.put(AuditKey(key=key, since=now, trusted=False))
    return False


def _key(head: Head) -> str:
    return str(head.fields.get("key", ""))[:64]


class AuditKeys:
    """What an operator does about them."""

    def __init__(self, *, store: Store, recorder: Recorder, clock: Clock) -> None:
        self._store, self._recorder, self._clock = store, recorder, clock

    def all(self) -> Sequence[AuditKey]:
        with self._store.unit() as unit:
            return unit.audit_keys.all()

    async def trust(self, prefix: str, *, operator: str) -> tuple[AuditKey, str]:
        """Trust the refused key that begins with `prefix`: (it, id of the record). `NotFound`, or `Conflict`."""
        found = [one for one in self.all() if one.key.startswith(prefix) and not one.trusted]
        if not found:
            raise NotFound("no refused key begins like that", hint="remit audit keys")
        if len(found) > 1:
            raise Conflict(f"{len(found)} refused keys begin like that", hint="give more of it; remit audit keys")
        trusted = AuditKey(key=found[0].key, since=self._clock.now(), trusted=True)
        record = await self._recorder.before("audit.trust", operator, f"audit key {trusted.key} trusted")
        with self._store.unit() as unit:
            unit.audit_keys.put(trusted)
        return trusted, record
