"""The decision: a plain function from what is known and what was asked to what may happen.

`admit` takes every step that needs no outside system, in order; `judge` takes the policies' word; `grant` closes the
decision with a screened address and a credential that fits. Each returns either the next value or a `Refusal`; only
`grant` makes a `Permit`, and only a permit opens a secret (`core.secret`) or dials an address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from remit.core import addresses, choice, delegation, doorway, paths
from remit.core.capability import UNREAD, Approval, Capability
from remit.core.claims import Claims
from remit.core.credential import Credential
from remit.core.delegation import Above
from remit.core.names import Address
from remit.core.reason import Reason, Refusal
from remit.core.request import Request
from remit.core.snapshot import Role, Snapshot
from remit.core.task import ALIVE, State, Task

UNCOVERED = "(uncovered)"
"""Stands for a capability where none covers a request; no manifest can have this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A request that a capability covers and that still has to pass its policies, its address and its credential."""

    claims: Claims
    task: Task
    role: Role
    request: Request
    capability: Capability
    credential: Credential | None
    usage: tuple[Mapping[str, Any], ...] = ()
    """What is used of the budgets that apply, for policies: JSON values."""
    above: tuple[Above, ...] = ()
    """The tasks that stand above, the parent first: each could make this request itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What the policies said together. `failure`: why they could not be asked, which is a denial."""

    denials: tuple[tuple[str, str], ...] = ()
    """(policy, message)"""
    holds: tuple[tuple[str, str], ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    """Obligation `audit`: what to write into the record."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Obligation `headers`: what to set in the request."""
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """Leave for one request to be dialled at one address with one credential."""

    candidate: Candidate
    address: Address
    opinion: Opinion

    @property
    def credential(self) -> Credential | None:
        return self.candidate.credential


def admit(snapshot: Snapshot, claims: Claims, request: Request) -> Candidate | Refusal:
    """Steps task, flow and capability. `claims` come from a verified token, `request` from `request.read`."""
    if snapshot.revoked.everything:
        return Refusal(Reason.EVERYTHING_REVOKED, "an operator revoked everything (remit panic)")
    task = snapshot.tasks.get(claims.task)
    refusal = standing(task, claims, request)
    if refusal is not None:
        return refusal
    assert task is not None
    role = snapshot.rules.roles.get(task.role)
    if role is None or role.invalid is not None:
        return Refusal(Reason.ROLE_INVALID, f"role {task.role} {role.invalid if role else 'does not exist'}")
    if role.name in snapshot.revoked.roles:
        return Refusal(Reason.ROLE_REVOKED, f"role {role.name} was revoked")
    lineage = delegation.lineage(snapshot, task, role) if task.parent is not None else ()
    if isinstance(lineage, Refusal):
        return lineage
    match = role.match(request, only=delegation.usable(role, task.capabilities))
    capability = match.capability
    if capability is None and role.own is not None and (handed := _handed_on(task, role, request)) is not None:
        return handed
    if capability is None and task.capabilities is None and role.ask_uncovered:
        capability = alone(request, UNCOVERED, Approval.ASK)
    if capability is None:
        return Refusal(Reason.NO_CAPABILITY, _nothing_covers(role, request, match.near))
    if capability.name in snapshot.revoked.capabilities:
        return Refusal(Reason.CAPABILITY_REVOKED, f"capability {capability.name} was revoked")
    above = delegation.covering(snapshot, lineage, capability, request) if lineage else ()
    if isinstance(above, Refusal):
        return above
    credential = _credential(snapshot, capability, request) if capability.credentials else None
    if isinstance(credential, Refusal):
        return credential
    return Candidate(
        claims=claims,
        task=task,
        role=role,
        request=request,
        capability=capability,
        credential=credential,
        above=above,
    )


def alone(request: Request, name: str, approval: Approval) -> Capability | None:
    """Capability `name` for this one request, with no credential; None where nobody could say what it would allow."""
    if request.protocol in UNREAD or paths.ambiguities(request.path) or doorway.reserved(request.host):
        return None
    return Capability(
        name=name,
        protocol=request.protocol,
        hosts=(request.host,),
        ports=frozenset({request.port}),
        methods=frozenset({request.method}),
        paths=(request.path,),
        websocket=request.websocket,
        approval=approval,
    )


def standing(task: Task | None, claims: Claims, request: Request) -> Refusal | None:
    """Whether the task has authority at all, and whether this connection is its own."""
    if task is None:
        return Refusal(Reason.TASK_UNKNOWN, f"task {claims.task} is not known to this node")
    if task.state in (State.REVOKED, State.ENDED):
        return Refusal(Reason.TASK_REVOKED, f"task {task.id} was revoked")
    if task.state not in ALIVE:
        return Refusal(Reason.TASK_ENDED, f"task {task.id} is {task.state}")
    if task.role != claims.role:
        return Refusal(Reason.TOKEN_INVALID, f"the token names role {claims.role}, task {task.id} has {task.role}")
    if task.parent != claims.parent:
        return Refusal(Reason.TOKEN_INVALID, f"the token names another parent than task {task.id} has")
    if task.cell != request.cell:
        return Refusal(Reason.FLOW_MISMATCH, f"task {task.id} does not run in the cell that this connection comes from")
    return None


def judge(candidate: Candidate, opinion: Opinion) -> Refusal | None:
    """Step policy: any objection or failure refuses. Whether a hold needs a human is for `core.approval`."""
    if opinion.failure is not None:
        return Refusal(Reason.POLICY_FAILED, opinion.failure)
    if opinion.denials:
        return Refusal(Reason.POLICY_DENIED, "; ".join(f"{policy}: {said}" for policy, said in opinion.denials))
    return None


def grant(
    snapshot: Snapshot,
    candidate: Candidate,
    opinion: Opinion,
    found: tuple[Address, ...],
    own: frozenset[Address] = frozenset(),
) -> Permit | Refusal:
    """Steps address and credential. `found`: what the name resolves to now; one forbidden address refuses them all.

    `own`: the addresses of the node that dials.
    """
    request = candidate.request
    if not found:
        return Refusal(Reason.NAME_UNRESOLVED, f"{request.host} has no address")
    for address in found:
        why = addresses.refusal(address, candidate.capability.addresses, own)
        if why is not None:
            return Refusal(Reason.ADDRESS_REFUSED, f"{request.host}: {why}")
    credential = candidate.credential
    if credential is not None:
        if credential.name in snapshot.revoked.credentials:
            return Refusal(Reason.CREDENTIAL_REVOKED, f"credential {credential.name} was revoked")
        if not credential.pinned_to(request.host):
            return Refusal(
                Reason.CREDENTIAL_NOT_PINNED, f"credential {credential.name} is not pinned to {request.host}"
            )
        if credential.exchange is not None and credential.asked_by_node(request):
            why = f"only the node asks {credential.exchange.endpoint}, for credential {credential.name}"
            return Refusal(Reason.CREDENTIAL_NOT_PINNED, why)
        both = credential.injection.headers.intersection(opinion.headers) if opinion.headers else ()
        if both:
            return Refusal(Reason.POLICY_FAILED, f"a policy sets {min(both)}, which credential {credential.name} fills")
    return Permit(candidate=candidate, address=found[0], opinion=opinion)


def _credential(snapshot: Snapshot, capability: Capability, request: Request) -> Credential | Refusal | None:
    """Step credential, as far as rules go: which one it is."""
    usable: list[Credential] = []
    for name in capability.credentials:
        credential = snapshot.rules.credentials.get(name)
        if credential is None or credential.invalid is not None:
            why = credential.invalid if credential else "does not exist"
            return Refusal(Reason.CREDENTIAL_UNAVAILABLE, f"credential {name} {why}")
        usable.append(credential)
    return usable[0] if len(usable) == 1 else choice.chosen(usable, request)


def _handed_on(task: Task, role: Role, request: Request) -> Refusal | None:
    """The refusal of what a task has only to hand it on."""
    kept = role.match(request, only=task.capabilities).capability
    if kept is None:
        return None
    detail = f"role {role.name} has capability {kept.name} only to delegate it (spec.delegable)"
    return Refusal(Reason.DELEGATE_ONLY, f"{detail}, to {', '.join(sorted(role.delegates)[:6]) or 'no role'}")


def _nothing_covers(role: Role, request: Request, near: tuple[str, ...]) -> str:
    asked = f"{request.method} {request.protocol}://{request.host}:{request.port}"
    if near:
        return f"role {role.name} does not cover {asked}: " + "; ".join(near[:4])
    if request.host == doorway.HOST:
        return f"role {role.name} delegates to no role (spec.delegates)"
    return f"role {role.name} has no capability for host {request.host}"
