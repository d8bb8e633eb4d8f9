"""A whole Remit whose role observes, and one whose policies are evaluated by an OPA that polls the control plane."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from governed import PLACEHOLDER, SECRET, manifests
from instance import Instance
from upstreams import NAMES, Upstreams

pytestmark = pytest.mark.xdist_group("instance")

WATCHED = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {name: watched}
spec: {mode: observe, capabilities: [api], policies: [careful]}
"""


def curl(remit: Instance, role: str, url: str) -> str:
    header = f"Authorization: Bearer {PLACEHOLDER}"
    return remit.run(role, "curl", "-sS", "-m", "20", "-H", header, url).stdout


def last(remit: Instance, **wanted: str) -> dict[str, Any]:
    options = [f"--{name}={value}" for name, value in wanted.items()]
    done = remit.cli("audit", "list", "--json", "--kind", "decision", *options)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_what_an_observing_role_lets_pass_arrives_without_the_secret(
    remit: Instance, upstreams: Upstreams, api: str
) -> None:
    remit.apply(WATCHED)
    before = len(upstreams.seen)
    curl(remit, "watched", f"{api}/v1/frozen/x")
    assert len(upstreams.seen) == before + 1
    assert SECRET not in repr(upstreams.seen[-1])
    record = last(remit, role="watched")
    assert (record["decision"], record["would_deny"], record["credential"]) == ("permit", "policy_denied", None)
    told = remit.cli("why", record["id"]).stdout
    assert "because its role observes" in told


def test_an_observing_role_reaches_no_address_that_nobody_named(
    remit: Instance, upstreams: Upstreams, api: str
) -> None:
    remit.apply(WATCHED)
    before = len(upstreams.seen)
    problem = json.loads(curl(remit, "watched", f"{api}/admin"))
    assert problem["reason"] == "address_refused"
    assert len(upstreams.seen) == before
    assert last(remit, role="watched")["decision"] == "deny"


@pytest.fixture(scope="module")
def opa() -> Iterator[Any]:
    opa_server = pytest.importorskip("opa_server", reason="scripts/setup.sh dev installs the engine")
    with opa_server.served() as server:
        yield server


@pytest.fixture(scope="module")
def on_opa(opa: Any, upstreams: Upstreams) -> Iterator[Instance]:
    instance = Instance(hosts=dict.fromkeys(NAMES, "127.0.0.1"), ca=upstreams.ca)
    instance.environment["REMIT_OPA_URL"] = opa.url
    instance.environment["REMIT_POLICY_TIMEOUT_S"] = "2"
    try:
        instance.up()
        instance.apply(manifests(upstreams))
        instance.secret("key", SECRET)
        yield instance
    finally:
        instance.down()


def test_an_opa_decides_once_it_has_the_policies_in_force_and_its_absence_denies(
    on_opa: Instance, opa: Any, api: str, upstreams: Upstreams
) -> None:
    before = len(upstreams.seen)
    problem = json.loads(curl(on_opa, "agent", f"{api}/v1/x"))
    assert (problem["reason"], len(upstreams.seen)) == ("policy_failed", before)
    assert "does not have the policies in force yet" in problem["detail"]

    transport = httpx.HTTPTransport(uds=str(on_opa.run_dir / "control/control.sock"))
    with httpx.Client(timeout=60, transport=transport, base_url="http://localhost", trust_env=False) as control:
        answer = control.get("/v1/bundles/remit.tar.gz")
        assert answer.status_code == 200
        again = control.get("/v1/bundles/remit.tar.gz", headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304
    opa.load(answer.content)

    curl(on_opa, "agent", f"{api}/v1/x")
    record = last(on_opa, role="agent")
    assert (record["decision"], record["credential"]) == ("permit", "key")
    assert len(upstreams.seen) == before + 1
    problem = json.loads(curl(on_opa, "agent", f"{api}/v1/frozen/x"))
    assert (problem["reason"], problem["detail"]) == ("policy_denied", "careful: frozen things stay")

    opa.spoil = lambda handler: handler.reply(500, b"{}") or True
    problem = json.loads(curl(on_opa, "agent", f"{api}/v1/y"))
    assert problem["reason"] == "policy_failed"
    assert len(upstreams.seen) == before + 1
