"""A decision service in memory: real rules and decider, fakes around it; what is asked of it is one evidence."""

from __future__ import annotations

import dataclasses
import ipaddress
from datetime import UTC, datetime
from typing import Any

from remit import testing
from remit.control import deciding as control_deciding
from remit.control.knowledge import Knowledge
from remit.control.openings import Openings
from remit.control.ports import Entry
from remit.core import flow
from remit.core.claims import Claims
from remit.core.decision import Opinion
from remit.core.request import Evidence
from remit.core.snapshot import Revoked, Snapshot
from remit.core.task import State, Task
from remit.policy import compile as compiler
from remit.policy import manifests

TASK = "t-aaaaaaaaaa"
MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: r}
spec: {capabilities: [c]}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {name: c}
spec: {hosts: [api.a.com], methods: [GET], paths: [/v1/**], credential: k}
---
apiVersion: remit.dev/v1alpha1
kind: Credential
metadata: {name: k}
spec: {hosts: [api.a.com], inject: {header: {name: Authorization, format: "Bearer {secret}"}}}
"""
RULES = compiler.rules(manifests.parse(MANIFESTS, "m"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def knowing(state: State = State.RUNNING, cell: int = 1, revoked: Revoked = Revoked(), **changes: Any) -> Snapshot:
    task = Task(id=TASK, role="r", state=state, cell=cell, created=NOW)
    return Snapshot(
        **{"version": "1", "epoch": 1, "rules": RULES, "tasks": {TASK: task}, "revoked": revoked, **changes}
    )


def asking(**changes: Any) -> Evidence:
    host = "api.a.com"
    evidence = Evidence(
        token=b"good", peer="100.64.0.1:1024", direct_peer="100.64.0.1:1024",
        destination=f"{flow.virtual(host)[0]}:443", sni=host, tls=True, method="GET", authority=host,
        target="/v1/x?q=1", headers={},
    )  # fmt: skip
    return dataclasses.replace(evidence, **changes)


class Journal(testing.MemoryJournal):
    """Runs `meanwhile` while a record is being written."""

    meanwhile: Any = None

    async def append(self, record: str, entry: Entry) -> None:
        await super().append(record, entry)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()


class World:
    def __init__(
        self,
        snapshot: Snapshot | None = None,
        *,
        opinion: Opinion | None = None,
        found: tuple[str, ...] = ("8.8.8.8",),
        secrets: dict[str, bytes] | None = None,
    ) -> None:
        self.time = 0.0
        self.knowledge = Knowledge(lease_s=30, monotonic=lambda: self.time)
        self.journal = Journal()
        self.clock = testing.ManualClock(NOW)
        self.openings = Openings(longest_s=3600, monotonic=lambda: self.time)
        task = snapshot.tasks.get(TASK) if snapshot is not None else None
        above = task.parent if task is not None else None
        claims = Claims(trust_domain="remit.local", role="r", task=TASK, jti="j", issued=0, expires=9, parent=above)
        self.secrets = testing.MemorySecrets({"k": b"s3cret"} if secrets is None else secrets)
        made = control_deciding.over(
            knowledge=self.knowledge,
            clock=self.clock,
            monotonic=lambda: self.time,
            journal=self.journal,
            openings=self.openings,
            cut=lambda task, port: None,
            verifier=testing.StaticVerifier({b"good": claims}),
            policies=testing.StaticPolicies(opinion),
            resolver=testing.StaticResolver({"api.a.com": tuple(map(ipaddress.ip_address, found))}),
            secrets=self.secrets,
            answer_max_s=60,
        )
        self.decider, self.budgets, self.hidden = made.decider, made.budgets, made.hidden
        if snapshot is not None:
            self.knowledge.replace(snapshot)
            self.knowledge.heard()

    def records(self) -> list[dict[str, Any]]:
        return [dict(entry.fields) for _, entry in self.journal.entries]
