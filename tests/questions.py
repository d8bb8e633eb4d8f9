"""A control plane of which a task asks something, for tests of what becomes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import control_plane
from control_plane import API, CREDENTIAL, Plane

from remit.control.ports_approvals import Answered
from remit.core.grant import Question
from remit.core.principal import OperatorRole, Principal

ALICE = Principal(name="alice", role=OperatorRole.APPROVER, proof="token:x")
BOB = Principal(name="bob", role=OperatorRole.ADMIN, proof="uid:1")


def manifests(**role: Any) -> list[dict[str, Any]]:
    spec: dict[str, Any] = {"hosts": ["api.github.com"], "credential": "github-token", "approval": "ask"}
    return [
        {"apiVersion": API, "kind": "Capability", "metadata": {"name": "github"}, "spec": spec},
        {
            "apiVersion": API,
            "kind": "Role",
            "metadata": {"name": "devops"},
            "spec": {"capabilities": ["github"], **role},
        },
        CREDENTIAL,
    ]


class Asked:
    """A plane with one running task that asks."""

    def __init__(self, plane: Plane, task: str) -> None:
        self.plane = plane
        self.approvals, self.questions = plane.services.approvals, plane.questions
        self.question = Question(
            task=task,
            role="devops",
            method="POST",
            protocol="https",
            host="api.github.com",
            port=443,
            path="/repos/a",
            target="/repos/a?x=secret-in-query",
            websocket=False,
            body="",
            body_bytes=0,
            capability="github",
            credential="github-token",
            reasons=("capability github asks",),
        )

    async def ask(self, **changes: Any) -> Answered:
        return await self.questions.ask(replace(self.question, **changes))

    @property
    def actions(self) -> list[str]:
        return [fields["action"] for kind, fields in self.plane.node.records if kind == "approval"]


async def begin(tmp_path: Path, **role: Any) -> Asked:
    plane = control_plane.build(tmp_path)
    await plane.services.manifests.apply(manifests(**role), operator="bob", dry_run=False)
    created = await plane.services.tasks.create("devops", ["agent"], operator="bob")
    return Asked(plane, created.task.id)
