"""What the API is made of: the use cases, and how a request's author is named."""

from __future__ import annotations

import pwd
from dataclasses import dataclass

from fastapi import Request

from remit.control.explaining import Explaining
from remit.control.manifests import Manifests
from remit.control.ports_control import Audit, Store
from remit.control.revocation import Revoking
from remit.control.secrets import Secrets
from remit.control.spending import Spending
from remit.control.status import Status
from remit.control.tasks import Lifecycle


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`store` is for what needs no use case: reading audit heads."""

    manifests: Manifests
    secrets: Secrets
    tasks: Lifecycle
    revoking: Revoking
    explaining: Explaining
    spending: Spending
    status: Status
    audit: Audit
    store: Store
    version: str


def services(request: Request) -> Services:
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


def operator(request: Request) -> str:
    """Who sent this: the user behind the Unix socket (SO_PEERCRED, see `api.server`), or whoever holds the token."""
    uid = request.scope.get("remit.uid")
    if uid is None:
        return "token"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
