"""What a decision needs, in memory: journal, resolver, verifier, policies, secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping

from remit.control.ports import Entry
from remit.core import names
from remit.core.claims import Claims
from remit.core.decision import Candidate, Opinion, Permit
from remit.core.errors import Unavailable
from remit.core.names import Address
from remit.core.reason import Reason, Refusal
from remit.core.secret import Secret
from remit.core.snapshot import Snapshot
from remit.policy import rego
from remit.policy.given import given


class MemoryJournal:
    """Implements `control.ports.Journal`. Set `full` and nothing can be written."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Entry]] = []
        self.full, self._ids = False, 0

    def new_id(self) -> str:
        self._ids += 1
        return f"r-{self._ids:010d}"

    async def append(self, record: str, entry: Entry) -> None:
        if self.full:
            raise Unavailable("the audit log is full", hint="remit doctor")
        self.entries.append((record, entry))


class StaticResolver:
    """Implements `control.ports.Resolver` from a table. Of the names in `lost` nobody can say anything."""

    def __init__(
        self, table: Mapping[str, tuple[Address, ...]] | None = None, *, lost: frozenset[str] = frozenset()
    ) -> None:
        self.table, self.lost = dict(table or {}), lost
        self.nodes_own: frozenset[Address] = frozenset()

    async def addresses(self, host: str) -> tuple[Address, ...]:
        if host in self.lost:
            raise Unavailable(f"nobody could say what {host} is")
        literal = names.address_literal(host)
        return self.table.get(host, (literal,) if literal is not None else ())

    def own(self) -> frozenset[Address]:
        return self.nodes_own


class StaticVerifier:
    """Implements `control.ports.Verifier`: tokens that it was told of, and no other."""

    def __init__(self, known: Mapping[bytes, Claims] | None = None) -> None:
        self.known = dict(known or {})

    def verify(self, token: bytes) -> Claims | Refusal:
        if not token:
            return Refusal(Reason.TOKEN_MISSING, "the connection carries no token")
        return self.known.get(token) or Refusal(Reason.TOKEN_INVALID, "the token is not known")


class StaticPolicies:
    """Implements `control.ports.Policies`: one opinion on everything."""

    def __init__(self, opinion: Opinion | None = None) -> None:
        self.opinion = opinion or Opinion()

    def update(self, snapshot: Snapshot) -> None:
        """What is in force changes nothing: the opinion is fixed."""

    async def judge(self, candidate: Candidate) -> Opinion:
        return self.opinion


class DirectPolicies:
    """Implements `control.ports_control.CurrentPolicies` in this very process: nothing bounds it, nothing is kept."""

    def __init__(self) -> None:
        self._bundle = rego.Bundle()

    def update(self, snapshot: Snapshot) -> None:
        self._bundle = rego.Bundle(snapshot.rules.policies.values())

    async def judge(self, candidate: Candidate) -> Opinion:
        names = candidate.role.policies
        return self._bundle.evaluate(names, json.dumps(given(candidate))) if names else Opinion()


class MemorySecrets:
    """Implements `control.ports.Secrets` from a table: secret name to value."""

    def __init__(self, table: Mapping[str, bytes] | None = None) -> None:
        self.table = dict(table or {})

    def lease(self, permit: Permit) -> Secret | Refusal | None:
        return self._found(permit)

    def rejected(self, name: str) -> None:
        """A table has nothing newer."""

    async def obtain(self, permit: Permit, *, patient: bool = False) -> Secret | Refusal | None:
        return self._found(permit)

    def _found(self, permit: Permit) -> Secret | Refusal:
        name = permit.credential.secret if permit.credential else ""
        if name not in self.table:
            return Refusal(Reason.CREDENTIAL_UNAVAILABLE, f"no secret {name} is stored")
        return Secret(self.table[name])
