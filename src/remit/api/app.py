"""The HTTP API, put together."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI

from remit.api import (
    access,
    approvals,
    audit,
    budgets,
    bundles,
    decisions,
    explain,
    guard,
    issuer,
    manifests,
    operators,
    problems,
    revocations,
    secrets,
    status,
    tasks,
)
from remit.api.services import Services

DESCRIPTION = """The control plane of Remit: manifests, tasks, secrets, revocations, explanations and the audit log.

Served on a Unix socket that only its owner can open and, when asked, on loopback with a bearer token. What a caller may
do is said by the role of the operator they are. A change is answered when the node has it in force. Errors are RFC 9457
problems with a `hint`."""


def create_app(services: Services) -> FastAPI:
    """The application, ready for any ASGI server. No interactive documentation: its scripts come from elsewhere."""
    app = FastAPI(
        title="Remit",
        version=services.version,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        responses=problems.RESPONSES,
    )
    app.state.services = services
    app.state.decisions = asyncio.Semaphore(1)
    problems.install(app)
    for module in (
        status,
        secrets,
        tasks,
        revocations,
        budgets,
        bundles,
        decisions,
        explain,
        audit,
        issuer,
        operators,
        approvals,
        manifests,
    ):
        app.include_router(module.router)
    app.include_router(manifests.late)
    app.include_router(secrets.sealing)
    app.add_middleware(guard.BodyLimit)
    app.add_middleware(access.Access, operating=services.operating)
    app.add_middleware(guard.NoBrowser)
    return app
