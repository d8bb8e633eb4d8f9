"""What the control plane can say of itself: whether its word reaches the node, and what is in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from remit.control.catalog import Catalog
from remit.control.pending import Pending
from remit.control.ports import Clock
from remit.control.ports_control import Issuer, Node, RevocationKind, Store
from remit.core import expiry
from remit.core.expiry import Nearness


class Status:
    def __init__(
        self, *, store: Store, node: Node, issuer: Issuer, catalog: Catalog, clock: Clock, pending: Pending
    ) -> None:
        self._clock = clock
        self._pending = pending
        self._store = store
        self._node = node
        self._issuer = issuer
        self._catalog = catalog

    def read(self) -> Mapping[str, Any]:
        """JSON values. `ok`: the node is connected and has acknowledged the latest change."""
        now = self._clock.now()
        with self._store.unit() as unit:
            epoch = max(unit.epoch(), self._pending.epoch)
            rules, head = self._catalog.rules(unit), unit.heads.latest()
            live = self._pending.over(unit.current_tasks())
            revocations, sealed = self._pending.revoked(unit), unit.secrets.all()
        return {
            "ok": self._node.connected and self._node.acked_epoch >= epoch,
            "epoch": epoch,
            "digest": rules.digest,
            "node": {"connected": self._node.connected, "acked_epoch": self._node.acked_epoch},
            "tasks": dict(Counter(task.state.value for task in live)),
            "manifests": {
                "roles": len(rules.roles),
                "capabilities": len(rules.capabilities),
                "credentials": len(rules.credentials),
                "policies": len(rules.policies),
            },
            "invalid": sorted(f"role {role.name}: {role.invalid}" for role in rules.roles.values() if role.invalid),
            "secrets": len(sealed),
            "expiring": [
                {"name": one.name, "expires": one.expires.isoformat(), "state": near.value}
                for one in sealed
                if one.expires is not None and (near := expiry.nearness(one.expires, now)) is not Nearness.FAR
            ],
            "revocations": len(revocations),
            "panic": any(revocation.kind is RevocationKind.EVERYTHING for revocation in revocations),
            "issuer_keys": sorted(self._issuer.public_keys()),
            "audit_head": {"seq": head.seq, "hash": head.hash, "received": head.received.isoformat()} if head else None,
        }
