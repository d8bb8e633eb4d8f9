"""What the API is made of: the use cases, and how a request's author is named."""

from __future__ import annotations

import os
from dataclasses import dataclass

from fastapi import Request

from remit.control.approvals import Approvals
from remit.control.audit_keys import AuditKeys
from remit.control.delegates import Delegates
from remit.control.expiring import Expiring
from remit.control.explaining import Explaining
from remit.control.manifests import Manifests
from remit.control.operators import Operating
from remit.control.ports_audit import Audit
from remit.control.ports_control import Store
from remit.control.ports_decisions import Decisions
from remit.control.retiring import Retiring
from remit.control.revocation import Revoking
from remit.control.secrets import Secrets
from remit.control.spending import Spending
from remit.control.status import Status
from remit.control.tasks import Lifecycle
from remit.control.watching import Watching
from remit.core.principal import Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`store` is for what needs no use case: reading audit heads."""

    manifests: Manifests
    secrets: Secrets
    expiring: Expiring
    tasks: Lifecycle
    delegates: Delegates
    revoking: Revoking
    explaining: Explaining
    spending: Spending
    status: Status
    operating: Operating
    approvals: Approvals
    watching: Watching
    audit: Audit
    audit_keys: AuditKeys
    retiring: Retiring
    decisions: Decisions
    store: Store
    version: str


def services(request: Request) -> Services:
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


def principal(request: Request) -> Principal:
    """Who sent this, as `api.access` found out before any route ran."""
    found = request.scope["remit.principal"]
    assert isinstance(found, Principal)
    return found


def for_others(request: Request) -> bool:
    """Whether who sent this may say for whom: `cells` may, whose user the kernel names; who shows a token may not."""
    uid = request.scope.get("remit.uid")
    return uid in (0, os.geteuid()) and principal(request).proof == f"uid:{uid}"


def operator(request: Request) -> str:
    """The name under which this is recorded."""
    return principal(request).name
