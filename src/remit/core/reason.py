"""Why a request was refused: every reason that Remit gives, what it means and what to do next.

The order of the members is the order in which a decision looks (the first that applies wins).
`docs/reference/reasons.md` is made from this table, and a test keeps it complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Stable identifiers: they stand in audit records, problems and metrics."""

    PERMITTED = "permitted"
    MALFORMED = "malformed"
    NOT_READY = "not_ready"
    CONTROL_PLANE_LOST = "control_plane_lost"
    TOKEN_MISSING = "token_missing"
    TOKEN_INVALID = "token_invalid"
    TOKEN_EXPIRED = "token_expired"
    EVERYTHING_REVOKED = "everything_revoked"
    TASK_UNKNOWN = "task_unknown"
    TASK_ENDED = "task_ended"
    TASK_REVOKED = "task_revoked"
    PARENT_ENDED = "parent_ended"
    FLOW_UNKNOWN = "flow_unknown"
    FLOW_MISMATCH = "flow_mismatch"
    NAME_INVALID = "name_invalid"
    NAME_MISMATCH = "name_mismatch"
    DESTINATION_MISMATCH = "destination_mismatch"
    METHOD_INVALID = "method_invalid"
    HEADER_INVALID = "header_invalid"
    PATH_AMBIGUOUS = "path_ambiguous"
    ROLE_INVALID = "role_invalid"
    ROLE_REVOKED = "role_revoked"
    NO_CAPABILITY = "no_capability"
    CAPABILITY_REVOKED = "capability_revoked"
    DELEGATE_ONLY = "delegate_only"
    NOT_DELEGATED = "not_delegated"
    DELEGATIONS_EXCEEDED = "delegations_exceeded"
    DELEGATION_UNAVAILABLE = "delegation_unavailable"
    POLICY_DENIED = "policy_denied"
    POLICY_FAILED = "policy_failed"
    BUDGET_EXHAUSTED = "budget_exhausted"
    APPROVAL_REQUIRED = "approval_required"
    APPROVAL_PENDING = "approval_pending"
    APPROVAL_DENIED = "approval_denied"
    APPROVALS_EXCEEDED = "approvals_exceeded"
    APPROVAL_UNAVAILABLE = "approval_unavailable"
    NAME_UNRESOLVED = "name_unresolved"
    ADDRESS_REFUSED = "address_refused"
    CREDENTIAL_REVOKED = "credential_revoked"
    CREDENTIAL_UNAVAILABLE = "credential_unavailable"
    CREDENTIAL_EXPIRED = "credential_expired"
    CREDENTIAL_NOT_PINNED = "credential_not_pinned"
    CREDENTIAL_UNCHOSEN = "credential_unchosen"
    SIGNATURE_REFUSED = "signature_refused"
    REQUESTS_EXCEEDED = "requests_exceeded"
    RECORDS_EXCEEDED = "records_exceeded"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    OVERLOADED = "overloaded"
    ANSWER_ENCODED = "answer_encoded"
    ANSWER_UNREADABLE = "answer_unreadable"
    UPSTREAM_FAILED = "upstream_failed"
    REFUSED_BY_BOUNDARY = "refused_by_boundary"


@dataclass(frozen=True, slots=True)
class Meaning:
    """`step` is the step of a decision that gives this reason; `status` the HTTP status the agent sees."""

    title: str
    next: str
    step: str
    status: int = 403


STEPS = (
    "token",
    "task",
    "flow",
    "names",
    "capability",
    "policy",
    "budget",
    "approval",
    "address",
    "credential",
    "audit",
)
"""The steps of a decision, in order."""

MEANING: Mapping[Reason, Meaning] = {
    Reason.PERMITTED: Meaning("Permitted", "", "audit", 200),
    Reason.MALFORMED: Meaning("The boundary could not read this request", "Send a plain HTTP request.", "token", 400),
    Reason.NOT_READY: Meaning(
        "The node has no configuration yet", "Retry; `remit status` shows what it waits for.", "token", 503
    ),
    Reason.CONTROL_PLANE_LOST: Meaning(
        "The node has lost its control plane", "Run `remit status`; the node stops when its lease ends.", "token", 503
    ),
    Reason.TOKEN_MISSING: Meaning(
        "The connection carries no identity", "Connections must come from a cell (`remit run`).", "token"
    ),
    Reason.TOKEN_INVALID: Meaning(
        "The identity of this connection is not valid",
        "Run `remit status`; the task may have to be started again.",
        "token",
    ),
    Reason.TOKEN_EXPIRED: Meaning("The identity of this connection has expired", "Open a new connection.", "token"),
    Reason.EVERYTHING_REVOKED: Meaning(
        "All authority was revoked", "Ask the operator; `remit panic --lift --reason WHY` ends it.", "task"
    ),
    Reason.TASK_UNKNOWN: Meaning("This node knows no such task", "Run `remit ps --all`.", "task"),
    Reason.TASK_ENDED: Meaning("The task has ended", "Start a new task with `remit run`.", "task"),
    Reason.TASK_REVOKED: Meaning(
        "The task was revoked", "Ask the operator; `remit why RECORD` tells who revoked it and when.", "task"
    ),
    Reason.PARENT_ENDED: Meaning(
        "A task above this one has no authority any more", "Start it again from a task that runs.", "task"
    ),
    Reason.FLOW_UNKNOWN: Meaning(
        "The connection comes from no cell", "Connections must come from a cell (`remit run`).", "flow"
    ),
    Reason.FLOW_MISMATCH: Meaning(
        "The identity belongs to another cell", "Identities cannot be moved between cells.", "flow"
    ),
    Reason.NAME_INVALID: Meaning("The host name is not valid", "Use a plain DNS name in lower case.", "names"),
    Reason.NAME_MISMATCH: Meaning(
        "The connection and the request name different hosts",
        "Connect to the host that the request is for.",
        "names",
        421,
    ),
    Reason.DESTINATION_MISMATCH: Meaning(
        "The connection did not go where the name leads",
        "Look names up with the system's resolver, write them in full, and pin no addresses.",
        "names",
    ),
    Reason.METHOD_INVALID: Meaning("The method is never forwarded", "Use an ordinary HTTP method.", "names"),
    Reason.HEADER_INVALID: Meaning("A header is ambiguous", "Send each of these headers once.", "names", 400),
    Reason.PATH_AMBIGUOUS: Meaning(
        "The path means different things to different servers",
        "Send a plain path, or let the capability opt in with spec.allowAmbiguous.",
        "names",
    ),
    Reason.ROLE_INVALID: Meaning(
        "The role of this task is not valid", "Fix its manifest and run `remit apply`.", "capability"
    ),
    Reason.ROLE_REVOKED: Meaning(
        "The role was revoked", "Ask the operator to restore it (`remit restore role NAME`).", "capability"
    ),
    Reason.NO_CAPABILITY: Meaning(
        "No capability of this role covers the request",
        "Ask the operator for a capability; `remit explain` shows what is missing.",
        "capability",
    ),
    Reason.CAPABILITY_REVOKED: Meaning(
        "The capability was revoked", "Ask the operator to restore it (`remit restore capability NAME`).", "capability"
    ),
    Reason.DELEGATE_ONLY: Meaning(
        "This task has the capability only to hand it on",
        "Start a task that may use it: `remit delegate --role ROLE -- COMMAND`.",
        "capability",
    ),
    Reason.NOT_DELEGATED: Meaning(
        "The task above this one may not do this itself, or may not hand it on",
        "A child has a part of its parent's authority: widen the parent's role, if it is meant (spec.delegates).",
        "capability",
    ),
    Reason.DELEGATIONS_EXCEEDED: Meaning(
        "There are too many delegated tasks", "Wait until some have ended.", "capability", 429
    ),
    Reason.DELEGATION_UNAVAILABLE: Meaning(
        "The task that was asked for could not be started",
        "Retry; `remit status` shows what is missing.",
        "capability",
        503,
    ),
    Reason.POLICY_DENIED: Meaning(
        "A policy forbids this request", "The detail names the policy and its rule.", "policy"
    ),
    Reason.POLICY_FAILED: Meaning(
        "A policy could not be evaluated", "Fix the policy; a policy that fails is a policy that refuses.", "policy"
    ),
    Reason.BUDGET_EXHAUSTED: Meaning(
        "A budget has no room for this request",
        "Wait until room returns, or ask the operator (`remit budget raise BUDGET`).",
        "budget",
        429,
    ),
    Reason.APPROVAL_REQUIRED: Meaning(
        "A human must approve the request", "It waits; `remit approvals list` shows it.", "approval"
    ),
    Reason.APPROVAL_PENDING: Meaning(
        "A human has not answered yet", "Ask again later: the approval stays open (`remit approvals list`).", "approval"
    ),
    Reason.APPROVAL_DENIED: Meaning(
        "A human said no", "Do something else; the same request is not shown again for a while.", "approval"
    ),
    Reason.APPROVALS_EXCEEDED: Meaning(
        "The task has too many approvals open",
        "Wait until some are answered (`remit approvals list`).",
        "approval",
        429,
    ),
    Reason.APPROVAL_UNAVAILABLE: Meaning(
        "Nobody could be asked", "Retry; `remit status` shows whether the control plane is there.", "approval", 503
    ),
    Reason.NAME_UNRESOLVED: Meaning(
        "The host name does not resolve", "Check the name; the node's resolver found no address.", "address", 502
    ),
    Reason.ADDRESS_REFUSED: Meaning(
        "The host resolves to an address that is not dialled",
        "Name the address range in the capability (spec.addresses), if it is meant.",
        "address",
    ),
    Reason.CREDENTIAL_REVOKED: Meaning(
        "The credential was revoked", "Ask the operator to restore it (`remit restore credential NAME`).", "credential"
    ),
    Reason.CREDENTIAL_UNAVAILABLE: Meaning(
        "The credential has no usable secret",
        "The detail says what is missing: store it with `remit secret put NAME`, or look at the secret store.",
        "credential",
    ),
    Reason.CREDENTIAL_EXPIRED: Meaning(
        "The credential's secret has expired",
        "Store a new one (`remit secret rotate NAME`); `remit secret list` shows ends.",
        "credential",
    ),
    Reason.CREDENTIAL_NOT_PINNED: Meaning(
        "The credential may not go to this host",
        "Add the host to the credential's spec.hosts, if it is meant.",
        "credential",
    ),
    Reason.CREDENTIAL_UNCHOSEN: Meaning(
        "The request presents none of the placeholders that choose its credential",
        "Send the placeholder from one of the variables that the detail names, or nothing at all.",
        "credential",
    ),
    Reason.SIGNATURE_REFUSED: Meaning(
        "The request cannot be signed anew with the real keys",
        "The detail says what the client's settings have to change.",
        "credential",
    ),
    Reason.REQUESTS_EXCEEDED: Meaning(
        "The task has as many requests open as it may",
        "Wait until some have ended, or close them; connections that are carried unread count too.",
        "audit",
        429,
    ),
    Reason.RECORDS_EXCEEDED: Meaning(
        "The task asks faster than its share of the audit log allows",
        "Ask more slowly; a record a minute counts the requests that were refused for this.",
        "audit",
        429,
    ),
    Reason.AUDIT_UNAVAILABLE: Meaning(
        "The decision could not be recorded", "Check the disk that holds the audit log (`remit doctor`).", "audit", 503
    ),
    Reason.OVERLOADED: Meaning(
        "Too many requests wait for a decision", "Retry later, with fewer at once.", "audit", 503
    ),
    Reason.ANSWER_ENCODED: Meaning(
        "The upstream compressed, cut or recoded an answer that must be read",
        "Answers are searched for the credential, so they must come whole, as Accept-Encoding: identity asks, and in a"
        " charset with ASCII in it; or the operator trusts the upstream (spec.scrub: false in the credential).",
        "credential",
        502,
    ),
    Reason.ANSWER_UNREADABLE: Meaning(
        "The answer could not be searched for the credential", "Send the request again.", "credential", 502
    ),
    Reason.UPSTREAM_FAILED: Meaning(
        "The request was permitted, but the upstream did not answer it",
        "The detail says what the connection met; try again, or look at the service.",
        "audit",
        503,
    ),
    Reason.REFUSED_BY_BOUNDARY: Meaning("Envoy refused the request", "The detail is Envoy's own reason.", "names", 400),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason with the facts of this one case. `detail` is safe to show: printable, bounded, without secrets."""

    reason: Reason
    detail: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Members of the problem besides the usual ones (RFC 9457 §3.2), as safe to show as `detail`."""
    retry_after_s: int | None = None
    """When asking again makes sense (RFC 9110 §10.2.3)."""

    @property
    def meaning(self) -> Meaning:
        return MEANING[self.reason]

    def problem(self, record: str) -> bytes:
        """A problem in JSON (RFC 9457), a line. `record`: where the denial is on record."""
        said = {
            "type": f"https://remit.dev/problems/{self.reason.value}",
            "title": self.meaning.title,
            "status": self.meaning.status,
            "detail": self.detail,
            "reason": self.reason.value,
            "record": record,
            "next": self.meaning.next,
            **self.facts,
        }
        return json.dumps(said).encode() + b"\n"
