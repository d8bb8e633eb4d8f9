"""The whole reasoning of a decision, step by step, for a request that nobody sent.

It runs the functions that decide real requests, with a made-up task of the role; what only a real request can know
(the address, whether the secret opens) is said to be skipped, never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from remit.core import decision, flow, names, request
from remit.core.capability import DEFAULT_PORT, Protocol
from remit.core.claims import Claims
from remit.core.decision import Candidate, Opinion
from remit.core.errors import Invalid, NotFound
from remit.core.reason import MEANING, STEPS, Reason, Refusal
from remit.core.request import Evidence
from remit.core.snapshot import Snapshot
from remit.core.task import State, Task
from remit.policy import rego
from remit.policy.given import given
from remit.policy.manifests import nearest

_TASK = "t-aaaaaaaaaa"
_CELL = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`steps`: (step, outcome, detail); outcome is passed, refused or skipped."""

    refusal: Refusal | None
    candidate: Candidate | None
    steps: tuple[tuple[str, str, str], ...]

    def as_json(self) -> dict[str, Any]:
        reason = self.refusal.reason if self.refusal else Reason.PERMITTED
        found = self.candidate
        return {
            "decision": "deny" if self.refusal else "permit",
            "reason": reason.value,
            "detail": self.refusal.detail if self.refusal else "",
            "next": MEANING[reason].next,
            "capability": found.capability.name if found else None,
            "credential": found.credential.name if found and found.credential else None,
            "steps": [{"step": step, "outcome": outcome, "detail": detail} for step, outcome, detail in self.steps],
        }


def explain(snapshot: Snapshot, role: str, method: str, url: str, headers: Mapping[str, str]) -> Explanation:
    """What would be decided if a task of `role` sent this request now. `Invalid` for a URL, `NotFound` for a role."""
    if role not in snapshot.rules.roles:
        hint = f"roles: {', '.join(sorted(snapshot.rules.roles)) or 'none yet; remit apply -f FILE'}"
        raise NotFound(f"there is no role {role!r}{nearest(role, list(snapshot.rules.roles))}", hint=hint)
    evidence = _evidence(method, url, headers)
    task = Task(id=_TASK, role=role, state=State.RUNNING, cell=_CELL, created=_EPOCH)
    claims = Claims(trust_domain="remit.local", role=role, task=_TASK, jti="", issued=0, expires=0)
    asked = request.read(evidence)
    if isinstance(asked, Refusal):
        return _told(asked, None, {})
    supposed = Snapshot(version=snapshot.version, rules=snapshot.rules, tasks={_TASK: task}, revoked=snapshot.revoked)
    candidate = decision.admit(supposed, claims, asked)
    if isinstance(candidate, Refusal):
        return _told(candidate, None, {})
    policies = {name: snapshot.rules.policies[name] for name in candidate.role.policies}
    opinion = rego.Bundle(policies).evaluate(policies, json.dumps(given(candidate))) if policies else Opinion()
    notes = {
        "capability": f"{candidate.capability.name} covers it",
        "policy": f"asked: {', '.join(policies)}; none objects" if policies else "no policy applies",
    }
    refusal = decision.judge(candidate, opinion)
    if refusal is None and candidate.credential is not None:
        refusal = _credential(snapshot, candidate)
        notes["credential"] = f"{candidate.credential.name} would be injected, if its secret can be opened"
    return _told(refusal, candidate, notes)


def _credential(snapshot: Snapshot, candidate: Candidate) -> Refusal | None:
    credential = candidate.credential
    assert credential is not None
    if credential.name in snapshot.revoked.credentials:
        return Refusal(Reason.CREDENTIAL_REVOKED, f"credential {credential.name} was revoked")
    if credential.secret not in snapshot.sealed:
        return Refusal(Reason.CREDENTIAL_UNAVAILABLE, f"no secret {credential.secret} is stored")
    if not credential.pinned_to(candidate.request.host):
        return Refusal(Reason.CREDENTIAL_NOT_PINNED, f"credential {credential.name} is not pinned to this host")
    return None


def _told(refusal: Refusal | None, candidate: Candidate | None, notes: Mapping[str, str]) -> Explanation:
    supposed = {
        "token": "supposed: a valid token of a task of this role",
        "task": "supposed: running",
        "flow": "supposed: from the task's own cell",
    }
    skipped = {
        "address": "the name is resolved and screened only for a real request",
        "audit": "nothing was sent, nothing is recorded",
    }
    at = refusal.meaning.step if refusal else None
    steps: list[tuple[str, str, str]] = []
    reached = True
    for step in STEPS:
        if not reached or (step in skipped and step != at):
            steps.append((step, "skipped", skipped.get(step, "not reached")))
        elif step == at and refusal is not None:
            steps.append((step, "refused", refusal.detail))
            reached = False
        else:
            steps.append((step, "passed", notes.get(step, supposed.get(step, ""))))
    return Explanation(refusal=refusal, candidate=candidate, steps=tuple(steps))


def _evidence(method: str, url: str, headers: Mapping[str, str]) -> Evidence:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Invalid(f"{url!r} is not a URL: {error}", hint="write it like https://api.example.com/path") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Invalid(f"{url!r} is not an http or https URL", hint="write it like https://api.example.com/path")
    port = port or DEFAULT_PORT[Protocol(parts.scheme)]
    name = names.canonical(parts.hostname) or parts.hostname
    literal = names.address_literal(name)
    target = literal if literal is not None else flow.virtual(name)[0]
    source = flow.source(_CELL)[0]
    return Evidence(
        token=b"",
        peer=f"{source}:1024",
        direct_peer=f"{source}:1024",
        destination=f"[{target}]:{port}" if ":" in str(target) else f"{target}:{port}",
        sni="" if literal is not None else name,
        tls=parts.scheme == "https",
        method=method.upper(),
        authority=parts.netloc.rpartition("@")[2],
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        headers={name.lower(): value for name, value in headers.items()},
    )
