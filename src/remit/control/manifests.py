"""Manifests applied: all of them or none.

Half an apply is a policy that nobody wrote. The new set is compiled as it will stand, together with what is already
stored, and refused as a whole if anything in it would be broken; only then does one transaction replace it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from remit.control.catalog import parsed, unknown
from remit.control.ports import Clock
from remit.control.ports_control import Document, Store, Unit
from remit.control.publish import Publisher
from remit.control.recording import Recorder
from remit.core.errors import Conflict, Invalid
from remit.core.snapshot import Policy
from remit.policy import compile as compiling
from remit.policy import crosscheck, manifests

KINDS = {"roles": "Role", "capabilities": "Capability", "credentials": "Credential", "policies": "Policy"}
"""Plural resource name in the API → kind."""
MAX_WHOLE_BYTES = 8 << 20
"""A snapshot travels in one frame of 16 MiB (`core.frame`); secrets and tasks need room too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`change` is created, changed or unchanged."""

    kind: str
    name: str
    change: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """`record` is None where nothing was changed. `digest` names the whole set in force afterwards."""

    changes: Sequence[Change]
    digest: str
    record: str | None = None


class Manifests:
    def __init__(self, *, store: Store, publisher: Publisher, recorder: Recorder, clock: Clock) -> None:
        self._store = store
        self._publisher = publisher
        self._recorder = recorder
        self._clock = clock

    async def apply(self, documents: Sequence[Document], *, operator: str, dry_run: bool = False) -> Applied:
        """Put `documents` in force beside what is there. `Invalid` names every mistake; then nothing has changed."""
        fresh = parsed(documents, "document")
        if not fresh:
            raise Invalid("there are no manifests to apply", hint="remit schema shows what one looks like")
        with self._store.unit() as unit:
            planned = _plan(unit, fresh)
        effective = [change for change in planned.changes if change.change != "unchanged"]
        if dry_run or not effective:
            return planned
        detail = ", ".join(f"{change.kind} {change.name} {change.change}" for change in effective[:20])
        more = f" and {len(effective) - 20} more" if len(effective) > 20 else ""
        record = await self._recorder.before("apply", operator, detail + more, digest=planned.digest)
        with self._store.unit() as unit:
            planned = _plan(unit, fresh)  # again: another apply may have come between
            for document in fresh:
                unit.documents.put(document.raw, self._clock.now())
            unit.advance_epoch(self._clock.now())
        await self._publisher.publish()
        return Applied(changes=planned.changes, digest=planned.digest, record=record)

    async def remove(self, kind: str, name: str, *, operator: str) -> str:
        """Take a manifest away; the record's id. `Conflict` where another one names it."""
        with self._store.unit() as unit:
            stored = unit.documents.all()
            if not unit.documents.remove(kind, name):
                raise unknown(kind.lower(), name, _names(stored, kind))
            left = manifests.lenient(unit.documents.all())
            users = sorted(document.name for document in left if (kind, name) in crosscheck.named(document))
            if users:
                raise Conflict(f"{kind} {name} is named by {', '.join(users[:5])}", hint="change or remove those first")
            unit.advance_epoch(self._clock.now())
        await self._publisher.publish()
        return await self._recorder.after("remove", operator, f"{kind} {name} removed", target=f"{kind}/{name}")

    def all(self, kind: str) -> Sequence[Document]:
        with self._store.unit() as unit:
            return [document for document in unit.documents.all() if document["kind"] == kind]

    def policies(self) -> Mapping[str, Policy]:
        """The policies in force, as the node has them."""
        return compiling.rules(manifests.lenient(self.all("Policy"))).policies

    def get(self, kind: str, name: str) -> Document:
        """Raises `NotFound`, naming the nearest."""
        with self._store.unit() as unit:
            document = unit.documents.get(kind, name)
            if document is None:
                raise unknown(kind.lower(), name, _names(unit.documents.all(), kind))
            return document


def _plan(unit: Unit, fresh: Sequence[manifests.Document]) -> Applied:
    stored = {(d["kind"], d["metadata"]["name"]): d for d in unit.documents.all()}
    replaced = {(document.kind, document.name) for document in fresh}
    kept = parsed(document for key, document in stored.items() if key not in replaced)
    whole = [*kept, *fresh]
    if len(whole) > manifests.MAX_DOCUMENTS:
        raise Invalid(f"there would be {len(whole)} manifests; at most {manifests.MAX_DOCUMENTS} can be in force")
    size = sum(len(json.dumps(document.raw)) for document in whole)
    if size > MAX_WHOLE_BYTES:
        raise Invalid(f"the manifests would take {size} bytes together; at most {MAX_WHOLE_BYTES} can be in force")
    problems = compiling.check(whole)
    if problems:
        raise manifests.ManifestError(problems)
    changes = []
    for document in fresh:
        before = stored.get((document.kind, document.name))
        change = "created" if before is None else "unchanged" if dict(before) == dict(document.raw) else "changed"
        changes.append(Change(kind=document.kind, name=document.name, change=change))
    return Applied(changes=changes, digest=compiling.digest(whole))


def _names(documents: Sequence[Document], kind: str) -> list[str]:
    return [document["metadata"]["name"] for document in documents if document["kind"] == kind]
