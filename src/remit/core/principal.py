"""Who may act on Remit itself: operators (people and services), what they may do, and how they prove who they are.

An operator is known by a name; how that name is proved is an identity of its own (a user of this machine, a token; an
OpenID Connect subject fits the same shape). Rights come from three built-in roles and from nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

OPERATOR_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._@-]{0,61}[a-z0-9])?")
TOKEN_PREFIX = "remit_op_"  # noqa: S105 - what every token begins with, so that scanners for leaked ones find it


class Right(StrEnum):
    READ = "read"
    APPROVE = "approve"
    """Answer approvals, and take back what an answer granted."""
    CHANGE = "change"
    """Everything else: manifests, secrets, tasks, revocations, operators."""


class OperatorRole(StrEnum):
    ADMIN = "admin"
    APPROVER = "approver"
    AUDITOR = "auditor"


RIGHTS: Mapping[OperatorRole, frozenset[Right]] = {
    OperatorRole.ADMIN: frozenset(Right),
    OperatorRole.APPROVER: frozenset({Right.READ, Right.APPROVE}),
    OperatorRole.AUDITOR: frozenset({Right.READ}),
}


class OperatorKind(StrEnum):
    HUMAN = "human"
    SERVICE = "service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """`uid`: the user of this machine that is this operator on the Unix socket, where there is one."""

    name: str
    kind: OperatorKind
    role: OperatorRole
    created: datetime
    uid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorToken:
    """What is kept of a token: `digest` is the SHA-256 (hex) of it; 256 random bits need no slower hash."""

    id: str
    operator: str
    digest: str
    created: datetime
    expires: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whoever acts: `name` goes into audit records, `proof` says how it is known (`uid:0`, `token:ot-…`)."""

    name: str
    role: OperatorRole
    proof: str

    def may(self, right: Right) -> bool:
        return right in RIGHTS[self.role]
