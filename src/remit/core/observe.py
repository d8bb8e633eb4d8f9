"""Observing: a role whose refusals by rule are written down instead of made, so that rules can be tried on real work.

Only what a rule says no to is let pass: no capability, a policy's objection, a human who would have to be asked. Who
asks, names, addresses, budgets, revocations and whatever fails are as strict as ever, and nothing that would have been
refused carries a credential or a header that a policy adds. A task that another one started, or that was
given a part of its role, never observes: somebody said what it may do.
"""

from __future__ import annotations

from dataclasses import replace

from remit.core import decision
from remit.core.capability import Approval
from remit.core.claims import Claims
from remit.core.decision import Candidate, Opinion
from remit.core.reason import Reason, Refusal
from remit.core.request import Request
from remit.core.snapshot import Role, Snapshot
from remit.core.task import Task

PASSED = frozenset({Reason.NO_CAPABILITY, Reason.POLICY_DENIED, Reason.APPROVAL_REQUIRED})
OBSERVED = "(observed)"
"""Stands for a capability where none covers a request; no manifest can have this name."""


def uncovered(snapshot: Snapshot, claims: Claims, request: Request, refusal: Refusal) -> Candidate | None:
    """What goes on in place of a request that no capability covers, or None where the refusal stands."""
    task = snapshot.tasks.get(claims.task)
    role = snapshot.rules.roles.get(task.role) if task is not None else None
    if refusal.reason is not Reason.NO_CAPABILITY or task is None or role is None or not observes(task, role):
        return None
    capability = decision.alone(request, OBSERVED, Approval.NEVER)
    if capability is None:
        return None
    return Candidate(claims=claims, task=task, role=role, request=request, capability=capability, credential=None)


def bare(candidate: Candidate, opinion: Opinion, refusal: Refusal) -> tuple[Candidate, Opinion] | None:
    """A covered request without all that it would have been given, or None where the refusal stands."""
    if refusal.reason not in PASSED or not observes(candidate.task, candidate.role):
        return None
    return replace(candidate, credential=None), Opinion(notes=opinion.notes)


def observes(task: Task | None, role: Role) -> bool:
    """None: a task of that role which an operator would start."""
    return role.observe and (task is None or (task.parent is None and task.capabilities is None))
