"""The whole reasoning of a decision, step by step, for a request that nobody sent.

It runs the functions that decide real requests, with a made-up task of the role, or one that runs; what only a real
request can know (the address of a name, whether the secret opens) is said to be skipped, never guessed. It comes in two
halves, because policies are evaluated elsewhere: `begin`, then whoever can be killed gives an opinion, then `conclude`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from remit.core import approval, bounds, budget, decision, delegation, flow, names, request
from remit.core.capability import DEFAULT_PORT, UNREAD, Protocol
from remit.core.claims import Claims
from remit.core.decision import Candidate, Opinion
from remit.core.delegation import Above
from remit.core.errors import Invalid, NotFound
from remit.core.grant import Grant, Question
from remit.core.names import Address
from remit.core.reason import MEANING, STEPS, Reason, Refusal
from remit.core.request import Evidence, Opaque, Request
from remit.core.snapshot import Snapshot
from remit.core.task import State, Task
from remit.policy.manifests import nearest

MAX_URL = 16 << 10
_TASK = "t-aaaaaaaaaa"
_CELL = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SCHEMES = {"https": Protocol.HTTPS, "http": Protocol.HTTP, "tcp": Protocol.TCP, "tls": Protocol.TLS}
_SOMEWHERE = ipaddress.ip_address("8.8.8.8")
"""Stands for the address of a name, which `explain` does not look up: any that is dialled without being named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`steps`: (step, outcome, detail); outcome is pass, stop, not_reached, or supposed (of a real request only)."""

    refusal: Refusal | None
    candidate: Candidate | None
    steps: tuple[tuple[str, str, str], ...]
    above: tuple[Mapping[str, Any], ...] = ()
    """What each task above would say of the same request, the parent first."""
    grant: Grant | None = None
    """Under which nobody would be asked any more."""

    def as_json(self) -> dict[str, Any]:
        reason = self.refusal.reason if self.refusal else Reason.PERMITTED
        found = self.candidate
        return {
            "decision": "hold" if reason is Reason.APPROVAL_REQUIRED else "deny" if self.refusal else "permit",
            "reason": reason.value,
            "detail": self.refusal.detail if self.refusal else "",
            "next": MEANING[reason].next,
            "capability": found.capability.name if found else None,
            "credential": found.credential.name if found and found.credential else None,
            "grant": self.grant.id if self.grant else None,
            "above": [dict(one) for one in self.above],
            "steps": [{"step": step, "outcome": outcome, "detail": detail} for step, outcome, detail in self.steps],
        }


def begin(
    snapshot: Snapshot, role: str, method: str, url: str, headers: Mapping[str, str], running: Task | None = None
) -> Candidate | Explanation:
    """A request of `role` as far as its policies, or why it does not get there. `running`: of this task, which has it.

    Raises `Invalid` for what is no URL, `NotFound` for a role that does not exist.
    """
    if role not in snapshot.rules.roles:
        hint = f"roles: {', '.join(sorted(snapshot.rules.roles)) or 'none yet; remit apply -f FILE'}"
        raise NotFound(f"there is no role {role[:80]!a}{nearest(role, snapshot.rules.roles)}", hint=hint)
    task = running or Task(id=_TASK, role=role, state=State.RUNNING, cell=_CELL, created=_EPOCH)
    claims = Claims(
        trust_domain="remit.local", role=role, task=task.id, jti="", issued=0, expires=0, parent=task.parent
    )
    asked = request.read(_evidence(method, url, headers, task.cell))
    if isinstance(asked, Refusal):
        return _told(asked, None, {})
    tasks = snapshot.tasks if running is not None else {_TASK: task}
    supposed = Snapshot(version=snapshot.version, rules=snapshot.rules, tasks=tasks, revoked=snapshot.revoked)
    candidate = decision.admit(supposed, claims, asked)
    if not isinstance(candidate, Refusal):
        return candidate
    return replace(_told(candidate, None, {}), above=_above(supposed, task, asked))


def _above(snapshot: Snapshot, task: Task, asked: Request) -> tuple[Mapping[str, Any], ...]:
    role = snapshot.rules.roles[task.role]
    lineage = delegation.lineage(snapshot, task, role) if task.parent is not None else ()
    return () if isinstance(lineage, Refusal) else tuple(_says(one, asked) for one in lineage)


def _says(one: Above, asked: Request) -> Mapping[str, Any]:
    """What `one` has for the request."""
    match = one.role.match(asked, only=one.task.capabilities)
    found = match.capability
    kept = found is not None and one.role.own is not None and found.name not in one.role.own
    only = " (it may only hand it on)" if kept else ""
    detail = (
        f"{found.name} covers it{only}" if found else "; ".join(match.near[:4]) or f"nothing covers host {asked.host}"
    )
    return {
        "task": one.task.id,
        "role": one.role.name,
        "capability": found.name if found is not None else None,
        "detail": detail,
    }


def accounts(candidate: Candidate) -> tuple[str, ...]:
    """The names of the budgets that would apply."""
    return tuple(line.account for line in bounds.of_request(candidate))


def with_usage(candidate: Candidate, known: Sequence[Mapping[str, Any]] | None) -> Candidate:
    """`candidate` with the use of the budgets that would apply to it. What is a task's own is unused by a new task."""
    by_name = {str(one["budget"]): one for one in known or ()}
    lines = bounds.of_request(candidate)
    return replace(candidate, usage=tuple(by_name.get(line.account) or _unused(line) for line in lines))


def _unused(line: budget.Line) -> Mapping[str, Any]:
    limit, quantity = line.budget.limit, line.budget.quantity.value
    scope = line.account.partition("/")[0]
    return {"budget": line.account, "scope": scope, "quantity": quantity, "limit": limit, "used": 0, "left": limit}


def conclude(
    snapshot: Snapshot,
    candidate: Candidate,
    opinion: Opinion,
    *,
    usage_known: bool = True,
    found: tuple[Address, ...] = (),
    own: frozenset[Address] | None = frozenset(),
    now: datetime = _EPOCH,
) -> Explanation:
    """The rest, with what the policies that apply to `candidate` said.

    `found`: the addresses of the host where they are known without a look-up; `own`: those of the node, None where they
    are not known; `now`: when it is asked, for the grants of its task that `snapshot` has.
    """
    above = tuple(_says(one, candidate.request) for one in candidate.above)
    asked = approval.question(candidate, opinion)
    others: tuple[Grant, ...] = ()
    grant = None
    if asked is not None:
        others = tuple(one for one in snapshot.grants.get(asked.task, ()) if one.in_force(now))
        grant = next((one for one in others if one.covers(asked, now)), None)
    told = _concluded(snapshot, candidate, opinion, usage_known, found, own, asked, grant, others)
    used = ("approval", "pass") in {(step, outcome) for step, outcome, _ in told.steps}
    return replace(told, above=above, grant=grant if used else None)


def _concluded(
    snapshot: Snapshot,
    candidate: Candidate,
    opinion: Opinion,
    usage_known: bool,
    found: tuple[Address, ...],
    own: frozenset[Address] | None,
    asked: Question | None,
    grant: Grant | None,
    others: tuple[Grant, ...],
) -> Explanation:
    applying = ", ".join(candidate.role.policies)
    notes = {
        "names": "connection and request name one host",
        "capability": f"{candidate.capability.name} covers it",
        "policy": f"asked: {applying}; none objects" if applying else "no policy applies",
        "budget": _budget_note(candidate, usage_known=usage_known),
        "approval": f"{grant.author} allowed it: {grant.allows()} (grant {grant.id})"
        if grant
        else "nobody has to be asked",
        "credential": "none is needed",
    }
    refusal = decision.judge(candidate, opinion) or _exhausted(candidate)
    if refusal is not None:
        return _told(refusal, candidate, notes)
    if asked is not None and grant is None:
        near = [one for one in others if (one.question.host, one.question.method) == (asked.host, asked.method)]
        narrower = [f"grant {one.id} has only {one.allows()}" for one in near[:3]]
        return _told(Refusal(Reason.APPROVAL_REQUIRED, "; ".join([*asked.reasons, *narrower])), candidate, notes)
    literal = names.address_literal(candidate.request.host)
    dialled = found or ((literal,) if literal is not None else ())
    if dialled:
        granted = decision.grant(snapshot, candidate, opinion, dialled, own or frozenset())
    else:
        granted = decision.grant(snapshot, candidate, opinion, (_SOMEWHERE,))
    if isinstance(granted, Refusal):
        return _told(granted, candidate, notes)
    if dialled:
        known = "" if own is not None else ", if it is not the node's own: the node does not say"
        notes["address"] = f"{dialled[0]} is dialled{known}"
    credential = granted.credential
    if credential is not None:
        notes["credential"] = f"{credential.name} would be injected, if its secret can be opened"
        if credential.source is None and credential.secret not in snapshot.sealed:
            missing = f"credential {credential.name}: no secret {credential.secret} is stored"
            return _told(Refusal(Reason.CREDENTIAL_UNAVAILABLE, missing), candidate, notes)
    return _told(None, candidate, notes)


def _budget_note(candidate: Candidate, *, usage_known: bool) -> str:
    if not candidate.usage:
        return "no budget applies"
    said = "; ".join(f"{one['budget']}: {one['used']} of {one['limit']} used" for one in candidate.usage)
    return said if usage_known else f"what is used is not known, the node is away: {said}"


def _exhausted(candidate: Candidate) -> Refusal | None:
    for one in candidate.usage:
        if not one["left"]:
            return Refusal(Reason.BUDGET_EXHAUSTED, f"budget {one['budget']}: {one['used']} of {one['limit']} used")
    return None


def _told(refusal: Refusal | None, candidate: Candidate | None, notes: Mapping[str, str]) -> Explanation:
    supposed = {
        "token": "a valid token of a task of this role",
        "task": "running",
        "flow": "from the task's own cell",
    }
    skipped = {
        "address": "the name is resolved and screened only for a real request",
        "audit": "nothing was sent, nothing is recorded",
    }
    at = refusal.meaning.step if refusal else None
    notes = {"names": "connection and request name one host", **notes}
    steps: list[tuple[str, str, str]] = []
    reached = True
    for step in STEPS:
        if not reached:
            steps.append((step, "not_reached", ""))
        elif step == at and refusal is not None:
            steps.append((step, "stop", refusal.detail))
            reached = False
        elif step in skipped and step not in notes:
            steps.append((step, "supposed", skipped[step]))
        else:
            steps.append(
                (
                    step,
                    "supposed" if step in supposed and step not in notes else "pass",
                    notes.get(step, supposed.get(step, "")),
                )
            )
    return Explanation(refusal=refusal, candidate=candidate, steps=tuple(steps))


def _evidence(method: str, url: str, headers: Mapping[str, str], cell: int) -> Evidence:
    hint = "write it like https://api.example.com/path"
    shown = ascii(url[:120])
    if len(url) > MAX_URL or any(not "!" <= c <= "~" for c in url):
        raise Invalid(f"{shown} is not a URL: it is too long, or has spaces or characters outside ASCII", hint=hint)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Invalid(f"{shown} is not a URL: {error}", hint=hint) from error
    protocol = _SCHEMES.get(parts.scheme)
    if protocol is None or not parts.hostname:
        raise Invalid(f"{shown} is not an http, https, tcp or tls URL", hint=hint)
    if "@" in parts.netloc:
        raise Invalid(f"{shown} carries a user name; credentials are the boundary's to add", hint=hint)
    port = port if port is not None else DEFAULT_PORT.get(protocol)
    if port is None:
        raise Invalid(f"{shown} names no port", hint=f"write it like {parts.scheme}://{parts.hostname[:80]}:5432")
    opaque = protocol in UNREAD
    if opaque and (method.upper() != "CONNECT" or parts.path or parts.query):
        hint = f"write it like CONNECT {parts.scheme}://{parts.hostname[:80]}:{port}"
        raise Invalid(f"{shown} is a connection that is carried unread: it has no method and no path", hint=hint)
    name = names.canonical(parts.hostname) or parts.hostname
    literal = names.address_literal(name)
    target = str(literal) if literal is not None else flow.virtual(name)[0]
    source = flow.source(cell)[0]
    return Evidence(
        token=b"",
        peer=f"{source}:1024",
        direct_peer=f"{source}:1024",
        destination=f"[{target}]:{port}" if ":" in target else f"{target}:{port}",
        sni="" if literal is not None else name,
        tls=parts.scheme == "https",
        method=method.upper(),
        authority=parts.netloc,
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        headers={key.lower(): value for key, value in headers.items()},
        opaque=Opaque(protocol=protocol, names=() if literal is not None else (name,)) if opaque else None,
    )
