"""Who may do what over the API, and what no browser can make it do: CSRF, DNS rebinding, cross-origin calls."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import control_plane
import httpx
import pytest
from control_plane import MANIFESTS, Plane
from servers import free_port

from remit.api import access
from remit.api.app import create_app
from remit.cell import daemon
from remit.core.principal import OperatorKind, OperatorRole, Right

STRANGER = 59999


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    return control_plane.build(tmp_path)


def client(plane: Plane, uid: int = os.getuid(), **headers: str) -> httpx.AsyncClient:
    app = control_plane.as_user(create_app(plane.services), uid)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)


@pytest.fixture
async def admin(plane: Plane) -> AsyncIterator[httpx.AsyncClient]:
    async with client(plane) as api:
        yield api


async def bearing(plane: Plane, role: OperatorRole, uid: int = STRANGER) -> httpx.AsyncClient:
    await plane.services.operating.add(role.value + "-1", kind=OperatorKind.SERVICE, role=role, uid=None, author="root")
    issued = await plane.services.operating.issue(role.value + "-1", ttl=timedelta(days=1), author="root")
    return client(plane, uid, authorization=f"Bearer {issued.token}")


async def test_an_unknown_user_gets_nothing(plane: Plane) -> None:
    async with client(plane, STRANGER) as api:
        for path in ("/v1/status", "/v1/operators", "/v1/openapi.json", "/v1/nothing"):
            answer = await api.get(path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_user_of_the_control_plane_and_root_are_administrators(plane: Plane) -> None:
    for uid in (os.getuid(), 0):
        async with client(plane, uid) as api:
            assert (await api.get("/v1/whoami")).json()["role"] == "admin"


async def test_an_auditor_reads_and_changes_nothing(plane: Plane) -> None:
    async with await bearing(plane, OperatorRole.AUDITOR) as api:
        assert (await api.get("/v1/tasks")).status_code == 200
        for method, path, body in (
            ("POST", "/v1/apply", {"documents": MANIFESTS}),
            ("PUT", "/v1/secrets/x", {"value_base64": "eA=="}),
            ("POST", "/v1/operators", {"name": "me", "role": "admin"}),
            ("POST", "/v1/operators/auditor-1/tokens", {}),
            ("POST", "/v1/approvals/a-x/approve", {}),
            ("DELETE", "/v1/operators/auditor-1", None),
            ("DELETE", "/v1/grants/g-aaaaaaaaaa", None),
        ):
            answer = await api.request(method, path, json=body)
            assert answer.status_code == 403, (method, path)
            assert "auditor" in answer.json()["detail"]
    assert (await client(plane).get("/v1/roles")).json()["items"] == []
    tried = [fields for _, fields in plane.node.records if fields["action"] == "refused"]
    assert [fields["operator"] for fields in tried] == ["auditor-1"] * 7
    assert tried[0]["detail"] == "POST /v1/apply refused: auditor may not"


async def test_an_approver_changes_nothing_but_approvals(plane: Plane) -> None:
    async with await bearing(plane, OperatorRole.APPROVER) as api:
        assert (await api.post("/v1/apply", json={"documents": MANIFESTS})).status_code == 403
        assert (await api.post("/v1/approvals/a-x/approve", json={})).status_code != 403
        assert (await api.delete("/v1/grants/g-aaaaaaaaaa")).status_code == 404, "who gives may take back"
        assert (await api.delete("/v1/roles/devops")).status_code == 403


async def test_an_admin_by_token_is_recorded_under_its_name(plane: Plane) -> None:
    async with await bearing(plane, OperatorRole.ADMIN) as api:
        (await api.post("/v1/apply", json={"documents": MANIFESTS})).raise_for_status()
    assert plane.node.records[-1][1]["operator"] == "admin-1"


async def test_nobody_with_a_token_acts_under_the_name_of_another(plane: Plane, admin: httpx.AsyncClient) -> None:
    """Only `cells`, whose user the kernel names, says who asked it: else four eyes could be one pair."""
    (await admin.post("/v1/apply", json={"documents": MANIFESTS})).raise_for_status()
    task = {"role": "devops", "command": ["true"], "operator": "bob"}
    pruned = {"operator": "bob", "tasks": [], "kept": [], "bytes": 0, "older_than_s": 3600}
    async with await bearing(plane, OperatorRole.ADMIN, uid=os.getuid()) as api:
        for path, body in (("/v1/tasks", task), ("/v1/tasks/pruned", pruned)):
            (await api.post(path, json=body)).raise_for_status()
            assert plane.node.records[-1][1]["operator"] == "admin-1"
            (await admin.post(path, json=body)).raise_for_status()
            assert plane.node.records[-1][1]["operator"] == "bob"
    assert sorted(one.operator for one in plane.services.tasks.all(alive_only=True)) == ["admin-1", "bob"]


@pytest.mark.parametrize("uid", [0, os.getuid(), STRANGER])
def test_who_starts_a_task_and_who_answers_for_it_are_called_the_same(uid: int) -> None:
    assert access.user_name(uid) == daemon.user_name(uid)


@pytest.mark.parametrize("uid", [0, os.getuid()])
async def test_a_built_in_administrator_has_one_name_and_keeps_its_rights(
    plane: Plane, admin: httpx.AsyncClient, uid: int
) -> None:
    """Under a second name it could answer what its own tasks ask; with a lesser role nobody might be left to change it."""
    name = (await client(plane, uid).get("/v1/whoami")).json()["name"]
    for role in ("admin", "auditor"):
        answer = await admin.post("/v1/operators", json={"name": "second", "role": role, "uid": uid})
        assert answer.status_code == 409
        assert f"uid {uid} is {name}, an administrator already" in answer.json()["detail"]
    operating = plane.services.operating  # which a former release would have asked
    await operating.add("second", kind=OperatorKind.HUMAN, role=OperatorRole.AUDITOR, uid=uid, author="root")
    who = (await client(plane, uid).get("/v1/whoami")).json()
    assert (who["name"], who["role"]) == (name, "admin")


@pytest.mark.parametrize("shown", ["Bearer wrong", "Bearer remit_op_wrong", "Basic eDp5", ""])
async def test_a_wrong_token_does_not_fall_back_to_the_user(plane: Plane, shown: str) -> None:
    async with client(plane, os.getuid(), authorization=shown) as api:
        assert (await api.get("/v1/status")).status_code == 401


async def test_a_token_issued_over_the_api_works_and_ends(plane: Plane, admin: httpx.AsyncClient) -> None:
    (await admin.post("/v1/operators", json={"name": "bot-7", "role": "auditor", "kind": "service"})).raise_for_status()
    token = (await admin.post("/v1/operators/bot-7/tokens", json={"ttl_s": 3600})).json()["token"]
    async with client(plane, STRANGER, authorization=f"Bearer {token}") as bot:
        assert (await bot.get("/v1/whoami")).json()["name"] == "bot-7"
        assert (await admin.delete("/v1/operators/bot-7/tokens")).json()["revoked"] == 1
        assert (await bot.get("/v1/whoami")).status_code == 401


async def test_the_name_of_another_user_of_this_machine_cannot_be_taken(admin: httpx.AsyncClient) -> None:
    answer = await admin.post("/v1/operators", json={"name": "daemon", "role": "admin"})
    assert answer.status_code == 409
    assert "is a user of this machine" in answer.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-mode": "no-cors"},
        {"sec-fetch-dest": "image"},
    ],
)
async def test_what_a_browser_adds_for_a_page_is_refused(admin: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await admin.get("/v1/status", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["detail"] == "calls from web pages are refused"


async def test_a_preflight_gets_no_permission(admin: httpx.AsyncClient) -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = await admin.options("/v1/apply", headers=asked)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_a_form_of_another_page_cannot_change_anything(plane: Plane, admin: httpx.AsyncClient, kind: str) -> None:
    answer = await admin.post("/v1/issuer/rotate", content=b"{}", headers={"content-type": kind})
    assert answer.status_code == 415
    assert plane.node.records == []


async def test_a_cookie_is_no_proof(plane: Plane) -> None:
    async with client(plane, STRANGER, cookie="token=x; session=y") as api:
        assert (await api.get("/v1/status")).status_code == 401


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def tcp(plane: Plane, tmp_path: Path, port: int) -> Iterator[httpx.Client]:
    with control_plane.served(plane, tmp_path / "c.sock", port=port):
        token = (tmp_path / "api-token").read_text().strip()
        bearer = {"authorization": f"Bearer {token}"}
        with httpx.Client(timeout=60, base_url=f"http://127.0.0.1:{port}", headers=bearer, trust_env=False) as api:
            yield api


@pytest.mark.parametrize("host", ["attacker.example", "attacker.example:80", "localhost.attacker.example", "[::1]"])
def test_a_name_made_to_point_here_is_refused_whatever_it_bears(tcp: httpx.Client, host: str) -> None:
    answer = tcp.post("/v1/issuer/rotate", json={}, headers={"host": host})
    assert answer.status_code == 403
    assert "Host" in answer.json()["detail"]


def test_an_operators_token_works_on_loopback_and_its_role_holds(tcp: httpx.Client) -> None:
    tcp.post("/v1/operators", json={"name": "bot-7", "role": "auditor"}).raise_for_status()
    token = tcp.post("/v1/operators/bot-7/tokens", json={}).json()["token"]
    bearer = {"authorization": f"Bearer {token}"}
    assert tcp.get("/v1/whoami", headers=bearer).json() == {
        "name": "bot-7",
        "role": "auditor",
        "proof": tcp.get("/v1/whoami", headers=bearer).json()["proof"],
    }
    assert tcp.post("/v1/apply", json={"documents": MANIFESTS}, headers=bearer).status_code == 403


def test_what_no_rule_names_takes_the_most() -> None:
    assert access.right("POST", "/v1/whatever") is Right.CHANGE
    assert access.right("PATCH", "/v1/audit/verify") is Right.CHANGE
    assert access.right("DELETE", "/v1/approvals/a-1/approve") is Right.CHANGE
    assert access.right("GET", "/v1/tasks") is Right.READ
