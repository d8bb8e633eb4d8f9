"""The API over ASGI: shapes that others rely on, and errors that leak nothing."""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import control_plane
import httpx
import pytest
from control_plane import MANIFESTS, Plane
from fastapi.routing import APIRoute

from remit.api.app import create_app
from remit.control.ports_control import Store
from remit.store.database import Database

SECRET = "s3cr3t-Value-that-must-not-leak"


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    return control_plane.build(tmp_path)


@pytest.fixture
async def api(plane: Plane) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(
        control_plane.as_user(create_app(plane.services), os.getuid()), raise_app_exceptions=False
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def applied(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/apply", json={"documents": MANIFESTS})
    assert answer.status_code == 200, answer.text


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.text.endswith("}\n")
    body: dict[str, object] = answer.json()
    assert body["type"] == f"https://remit.dev/problems/{kind}"
    assert body["status"] == status
    assert body["title"] and body["detail"]
    return body


async def test_apply_answers_with_changes_and_digest(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/apply", json={"documents": MANIFESTS, "dry_run": False})
    body = answer.json()
    assert body["applied"][0] == {"kind": "Role", "name": "devops", "change": "created"}
    assert len(body["digest"]) == 64
    assert (await api.get("/v1/roles")).json()["items"] == [MANIFESTS[0]]
    assert (await api.get("/v1/capabilities/github")).json() == MANIFESTS[1]


async def test_mistakes_in_manifests_come_one_by_one(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/apply", json={"documents": [MANIFESTS[0], {"kind": "Rol"}]})
    body = problem(answer, 422, "invalid")
    assert [e["field"] for e in body["errors"]] == ["apiVersion", "kind"]  # type: ignore[attr-defined]
    assert "did you mean Role?" in str(body["detail"])


async def test_a_name_that_a_request_made_up_is_not_told_back_whole(api: httpx.AsyncClient) -> None:
    body = problem(await api.post("/v1/apply", json={"documents": [], "x" * 100_000: 1}), 422, "invalid")
    assert body["detail"] == f"body.{'x' * 64} is not a field of this request"


async def test_every_kind_can_be_listed_shown_and_removed(api: httpx.AsyncClient) -> None:
    await applied(api)
    for kind in ("roles", "capabilities", "credentials", "policies"):
        assert (await api.get(f"/v1/{kind}")).status_code == 200
        problem(await api.get(f"/v1/{kind}/nothing"), 404, "not-found")
    assert (await api.delete("/v1/roles/devops")).json()["record"].startswith("r-")
    problem(await api.get("/v1/unheard-of"), 422, "invalid")


async def test_a_task_from_creation_to_end(api: httpx.AsyncClient) -> None:
    await applied(api)
    answer = await api.post("/v1/tasks", json={"role": "devops", "command": ["sh"], "operator": "root"})
    assert answer.status_code == 201
    made = answer.json()
    assert set(made) == {"task", "cell", "token", "expires", "environment", "limits"}
    assert set(made["limits"]) == {"memory_bytes", "processes", "cpu_cores", "time_s", "disk_bytes"}
    task = made["task"]
    assert (await api.post(f"/v1/tasks/{task}/started")).json()["state"] == "running"
    assert set((await api.post(f"/v1/tasks/{task}/token")).json()) == {"token", "expires"}
    assert [t["id"] for t in (await api.get("/v1/tasks")).json()["items"]] == [task]
    assert (await api.post(f"/v1/tasks/{task}/exited", json={"code": 0})).json()["exit_code"] == 0
    assert (await api.get("/v1/tasks")).json()["items"] == []
    assert len((await api.get("/v1/tasks?all=true")).json()["items"]) == 1
    problem(await api.post(f"/v1/tasks/{task}/token"), 409, "conflict")
    second = (await api.post("/v1/tasks", json={"role": "devops", "command": ["x"], "operator": "o"})).json()["task"]
    assert (await api.post(f"/v1/tasks/{second}/failed", json={"detail": "no bwrap"})).json()["state"] == "failed"


async def test_revoking_and_restoring(api: httpx.AsyncClient, plane: Plane) -> None:
    await applied(api)
    done = (await api.post("/v1/revocations", json={"kind": "capability", "name": "github"})).json()
    assert set(done) == {"kind", "name", "record", "flows_closed", "pending"}
    assert [r["name"] for r in (await api.get("/v1/revocations")).json()["items"]] == ["github"]
    assert (await api.delete("/v1/revocations/capability/github")).status_code == 200
    problem(await api.delete("/v1/revocations/capability/github"), 404, "not-found")
    problem(await api.delete("/v1/revocations/task/t-abc"), 422, "invalid")
    problem(await api.post("/v1/revocations", json={"kind": "nothing", "name": "x"}), 422, "invalid")
    plane.node.connected = False
    body = problem(await api.post("/v1/revocations", json={"kind": "capability", "name": "github"}), 503, "unavailable")
    assert body["hint"] == "remit status"


async def test_a_rotation_names_the_new_key(api: httpx.AsyncClient, plane: Plane) -> None:
    kid = (await api.post("/v1/issuer/rotate", json={})).json()["kid"]
    assert kid in plane.issuer.public_keys()


async def test_explain_has_the_steps_of_a_decision(api: httpx.AsyncClient) -> None:
    await applied(api)
    asked = {"role": "devops", "method": "GET", "url": "https://api.github.com/x"}
    body = (await api.post("/v1/explain", json=asked)).json()
    said = {"decision", "reason", "detail", "next", "steps", "above", "capability", "credential", "mode", "grant"}
    assert set(body) == said
    assert (body["reason"], body["capability"]) == ("credential_unavailable", "github")
    assert {step["outcome"] for step in body["steps"]} <= {"pass", "stop", "not_reached", "supposed"}
    problem(await api.post("/v1/explain", json={**asked, "url": "gopher://x"}), 422, "invalid")
    problem(await api.post("/v1/explain", json={**asked, "role": "nobody"}), 404, "not-found")


# Secrets


async def test_a_secret_goes_in_and_never_comes_out(
    api: httpx.AsyncClient, plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    encoded = base64.b64encode(SECRET.encode()).decode()
    answers = [
        await api.put("/v1/secrets/github-token", json={"value_base64": encoded}),
        await api.put("/v1/secrets/github-token", json={"value_base64": SECRET + "!"}),
        await api.put("/v1/secrets/github-token", json={"value_base64": [SECRET]}),
        await api.put("/v1/secrets/github-token", json={"value": SECRET}),
        await api.put("/v1/secrets/github-token", content=SECRET.encode()),
        await api.put("/v1/secrets/Bad_Name", json={"value_base64": encoded}),
        await api.get("/v1/secrets"),
        await api.get("/v1/status"),
    ]
    assert [answer.status_code for answer in answers] == [200, 422, 422, 422, 422, 422, 200, 200]
    shown = "".join(answer.text for answer in answers) + caplog.text + str(plane.node.records)
    assert SECRET not in shown
    assert encoded not in shown


async def test_an_unhandled_error_is_a_problem_without_its_text(
    api: httpx.AsyncClient, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(type(plane.services.status), "read", broken)
    body = problem(await api.get("/v1/status"), 500, "internal")
    assert SECRET not in json.dumps(body)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"role": 1}', b'{"role":"devops","command":"x","operator":"o"}', b"\xff", b"[" * 5000],
)
async def test_a_body_that_is_not_what_was_asked_for_is_a_problem(api: httpx.AsyncClient, body: bytes) -> None:
    answer = await api.post("/v1/tasks", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_value_in_a_validation_error_is_not_quoted(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/revocations", json={"kind": SECRET, "name": [SECRET], SECRET[:5]: 1})
    assert SECRET not in answer.text


async def test_a_body_over_one_mebibyte_is_refused_with_and_without_a_length(api: httpx.AsyncClient) -> None:
    big = b"x" * ((1 << 20) + 1)
    problem(await api.post("/v1/apply", content=big), 413, "too-large")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b"x" * (1 << 16)

    problem(await api.post("/v1/apply", content=chunks()), 413, "too-large")


# Audit


async def test_audit_is_filtered_shown_and_verified(api: httpx.AsyncClient, plane: Plane) -> None:
    for n in range(1, 4):
        plane.audit.records.append(
            {
                "id": f"r-{n:010d}",
                "seq": n,
                "kind": "decision",
                "decision": "deny",
                "reason": "no_capability",
                "host": "h",
            }
        )
    assert [r["seq"] for r in (await api.get("/v1/audit?limit=2")).json()["records"]] == [2, 3]
    page = (await api.get("/v1/audit?limit=2&after=0&decision=deny")).json()
    assert ([r["seq"] for r in page["records"]], page["next"]) == ([1, 2], "2")
    assert (await api.get(f"/v1/audit?after={page['next']}")).json()["next"] is None
    shown = (await api.get("/v1/audit/r-0000000002")).json()
    assert set(shown) == {"record", "completion", "explanation"}
    assert (await api.post("/v1/audit/verify")).json()["ok"] is True
    lines = (await api.get("/v1/audit/verify")).text.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"checked": 0, "of": 3},
        {"ok": True, "records": 3, "segments": 1},
    ]
    problem(await api.get("/v1/audit/r-9"), 404, "not-found")
    problem(await api.get("/v1/audit/r-0"), 409, "conflict")
    problem(await api.get("/v1/audit?since=2026-01-01T00:00:00"), 422, "invalid")
    problem(await api.get("/v1/audit?limit=100000"), 422, "invalid")
    problem(await api.get("/v1/audit?task=t-none"), 404, "not-found")
    problem(await api.get("/v1/audit?tree=t-none"), 404, "not-found")
    forgotten = {"id": "r-0000000009", "seq": 9, "kind": "decision", "task": "t-bbbbbbbbbb", "parent": "t-aaaaaaaaaa"}
    plane.audit.records.append(forgotten)
    for asked in ("tree=t-aaaaaaaaaa", "task=t-bbbbbbbbbb"):
        assert (await api.get(f"/v1/audit?{asked}")).json()["records"] == [forgotten], "of tasks that were pruned"


# The description


async def test_every_operation_and_field_is_described(api: httpx.AsyncClient, plane: Plane) -> None:
    document = (await api.get("/v1/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation.get("summary"), f"{method} {path} has no summary"
            assert operation.get("description"), f"{method} {path} has no description"
    routes = [r for r in create_app(plane.services).routes if isinstance(r, APIRoute)]
    assert all(route.path.startswith("/v1/") for route in routes)


async def test_schemas_are_published_by_kind(api: httpx.AsyncClient) -> None:
    assert set((await api.get("/v1/schemas")).json()) == {"Role", "Capability", "Credential", "Policy"}
    assert (await api.get("/v1/schemas?kind=role")).json()["title"] == "Role"
    problem(await api.get("/v1/schemas?kind=rolle"), 422, "invalid")


async def test_no_scripts_from_elsewhere_are_served(api: httpx.AsyncClient) -> None:
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert (await api.get(path)).status_code == 404


async def test_the_whole_path_holds_on_sqlite_too(tmp_path: Path) -> None:
    store: Store = Database(tmp_path / "remit.db")
    plane = control_plane.build(tmp_path, store)
    transport = httpx.ASGITransport(control_plane.as_user(create_app(plane.services), os.getuid()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as api:
        await applied(api)
        made = (await api.post("/v1/tasks", json={"role": "devops", "command": ["sh"], "operator": "root"})).json()
        plane.cells.flows[made["task"]] = 1
        done = (await api.post("/v1/revocations", json={"kind": "task", "name": made["task"]})).json()
        assert done["flows_closed"] == 1
        assert (await api.get("/v1/status")).json()["tasks"] == {"revoked": 1}
    store.close()  # type: ignore[attr-defined]
