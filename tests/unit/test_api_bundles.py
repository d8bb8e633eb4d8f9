"""The bundle that an OPA polls: the policies in force, the same bytes under the same ETag, nothing where nothing is new."""

import gzip
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import control_plane
import httpx
import pytest
from control_plane import CAPABILITY, ROLE, Plane

from remit.api.app import create_app
from remit.core.decision import Candidate
from remit.node.opa import Opa
from remit.policy import explain
from remit.policy import snapshot as snapshots

POLICY = {
    "apiVersion": "remit.dev/v1alpha1",
    "kind": "Policy",
    "metadata": {"name": "no-deletes"},
    "spec": {
        "rego": 'package remit.no_deletes\nimport rego.v1\ndeny contains "no" if input.request.method == "DELETE"\n'
    },
}


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    return control_plane.build(tmp_path)


@pytest.fixture
async def api(plane: Plane) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(control_plane.as_user(create_app(plane.services), os.getuid()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


def unpacked(data: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as tar:
        return {one.name: tar.extractfile(one).read().decode() for one in tar.getmembers()}  # type: ignore[union-attr]


async def test_the_policies_in_force(api: httpx.AsyncClient) -> None:
    assert list(unpacked((await api.get("/v1/bundles/remit.tar.gz")).content)) == [".manifest"]
    assert (await api.post("/v1/apply", json={"documents": [POLICY]})).status_code == 200
    answer = await api.get("/v1/bundles/remit.tar.gz")
    files = unpacked(answer.content)
    manifest = json.loads(files[".manifest"])
    assert files["remit/no-deletes.rego"] == POLICY["spec"]["rego"]  # type: ignore[index]
    assert (manifest["roots"], manifest["rego_version"]) == (["remit"], 1)
    assert answer.headers["etag"] == f'"{manifest["revision"]}"'
    assert answer.headers["content-type"] == "application/vnd.openpolicyagent.bundles"
    assert (await api.get("/v1/bundles/remit.tar.gz")).content == answer.content


async def test_what_is_known_is_not_sent_again_and_what_is_new_is(api: httpx.AsyncClient) -> None:
    tag = (await api.get("/v1/bundles/remit.tar.gz")).headers["etag"]
    again = await api.get("/v1/bundles/remit.tar.gz", headers={"if-none-match": f'"other", W/{tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    await api.post("/v1/apply", json={"documents": [POLICY]})
    new = await api.get("/v1/bundles/remit.tar.gz", headers={"if-none-match": tag})
    assert new.status_code == 200
    assert new.headers["etag"] != tag


async def test_an_opa_that_polls_answers_for_the_node(api: httpx.AsyncClient, plane: Plane) -> None:
    """Control plane, OPA and node each work the revision out for themselves, and agree."""
    opa_server = pytest.importorskip("opa_server", reason="scripts/setup.sh dev installs the engine")
    with opa_server.served() as server:
        opa = Opa(server.url, timeout_s=2.0)
        capability = {**CAPABILITY, "spec": {"hosts": ["api.github.com"]}}
        role = {**ROLE, "spec": {"capabilities": ["github"], "policies": ["no-deletes"]}}
        assert (await api.post("/v1/apply", json={"documents": [POLICY, capability, role]})).status_code == 200
        snapshot = snapshots.load(plane.publisher.current(), None)
        opa.update(snapshot)
        asked = explain.begin(snapshot, "devops", "DELETE", "https://api.github.com/x", {})
        assert isinstance(asked, Candidate)
        assert "does not have the policies in force yet" in ((await opa.judge(asked)).failure or "")
        server.load((await api.get("/v1/bundles/remit.tar.gz")).content)
        assert (await opa.judge(asked)).denials == (("no-deletes", "no"),)
        await opa.close()
