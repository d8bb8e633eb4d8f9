"""What is written down and proposed of an approval: bounded, printable, without the query, which may hold secrets."""

from __future__ import annotations

from typing import Any

from remit.core.approval import Approval
from remit.core.grant import Grant

KIND = "approval"
"""Of the audit records."""


def safe(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def asked(approval: Approval) -> str:
    asked = approval.question
    where = f"{asked.method} {asked.protocol}://{asked.host}:{asked.port}{asked.path[:300]}"
    return safe(f"task {asked.task} asks for {where}: {'; '.join(asked.reasons)}"[:1500])


def facts(approval: Approval) -> dict[str, Any]:
    """For the record: what was shown, without the query."""
    asked = approval.question
    return {
        "approval": approval.id,
        "task": asked.task,
        "role": asked.role,
        "capability": asked.capability,
        "credential": asked.credential,
        "method": asked.method,
        "scheme": asked.protocol,
        "host": asked.host,
        "port": asked.port,
        "path": asked.path,
        "body": asked.body or None,
        "fingerprint": approval.question.fingerprint(),
    }


def grant_facts(grant: Grant) -> dict[str, Any]:
    return {"task": grant.task, "role": grant.question.role, "grant": grant.id}


def proposal(approval: Approval) -> dict[str, Any]:
    """A capability that would allow this from now on: this method, this host, this very path. Proposed, not applied."""
    asked = approval.question
    return {
        "apiVersion": "remit.dev/v1alpha1",
        "kind": "Capability",
        "metadata": {"name": f"approved-{approval.id.removeprefix('a-')}"},
        "spec": {
            "description": f"Proposed by the answer to approval {approval.id}",
            "protocol": asked.protocol,
            "hosts": [asked.host],
            "ports": [asked.port],
            "methods": [asked.method],
            "paths": [asked.path.replace("*", "%2A")],
            **({"credential": asked.credential} if asked.credential else {}),
        },
    }
