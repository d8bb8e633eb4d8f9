"""Tasks that are a part of another one: real cells, the real boundary, and what a child must not get out of its parent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from governed import SECRET
from instance import Instance, wait_for
from upstreams import Upstreams

MANIFESTS = """
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: boss}}
spec: {{capabilities: [api], delegates: [helper, greedy], maxDepth: 1}}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: helper}}
spec: {{capabilities: [part], delegates: [helper], maxDepth: 4}}
---
apiVersion: remit.dev/v1alpha1
kind: Role
metadata: {{name: greedy}}
spec: {{capabilities: [whole]}}
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: part}}
spec:
  hosts: [api.up.example]
  ports: [{https}]
  methods: [GET]
  paths: [/v1/part/**]
  credential: key
  addresses: [127.0.0.0/8]
---
apiVersion: remit.dev/v1alpha1
kind: Capability
metadata: {{name: whole}}
spec: {{hosts: [api.up.example], ports: [{https}], methods: [GET], paths: [/**], credential: key, addresses: [127.0.0.0/8]}}
"""
CURL = ("curl", "-s", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}")


@pytest.fixture
def parent(remit: Instance, upstreams: Upstreams) -> Iterator[str]:
    """A running task under role boss."""
    manifests = MANIFESTS.format(https=upstreams.https_port)
    remit.cli("apply", "-f", "-", given=manifests)
    with remit.running("boss", "sh", "-c", "echo up; exec sleep 1000") as running:
        assert running.stdout is not None
        running.stdout.readline()
        yield str(remit.newest()["id"])


def child(parent: str) -> tuple[str, ...]:
    return ("--parent", parent)


def test_a_child_does_its_part_and_nothing_else(remit: Instance, upstreams: Upstreams, api: str, parent: str) -> None:
    done = remit.run("helper", *CURL, f"{api}/v1/part/done", options=child(parent))
    assert done.stdout == "200", done.stderr
    (seen,) = [one for one in upstreams.seen if one["path"] == "/v1/part/done"]
    assert SECRET in str(seen["headers"])
    (record,) = [one for one in remit.audit(decision="permit") if one["path"] == "/v1/part/done"]
    assert (record["parent"], record["chain"]) == (parent, [parent])
    assert remit.run("helper", *CURL, f"{api}/v1/else", options=child(parent)).stdout == "403"
    assert [one["reason"] for one in remit.audit(decision="deny") if one["path"] == "/v1/else"] == ["no_capability"]


@pytest.mark.parametrize(
    ("role", "why"),
    [("greedy", "capability whole is not within role boss"), ("agent", "role boss does not delegate to role agent")],
)
def test_a_child_that_could_do_more_does_not_start(remit: Instance, parent: str, role: str, why: str) -> None:
    refused = remit.run(role, "true", options=child(parent))
    assert refused.returncode == 5
    assert why in refused.stderr


def test_a_child_of_a_child_is_one_too_deep(remit: Instance, parent: str) -> None:
    with remit.running("helper", "sh", "-c", "echo up; exec sleep 1000", options=child(parent)) as running:
        assert running.stdout is not None
        running.stdout.readline()
        refused = remit.run("helper", "true", options=child(str(remit.newest()["id"])))
    assert refused.returncode == 5
    assert "levels deep" in refused.stderr


def test_what_a_parent_loses_its_child_loses_at_once(
    remit: Instance, upstreams: Upstreams, api: str, parent: str
) -> None:
    loop = f"echo up; while :; do {' '.join(CURL)} {api}/v1/part/loop; echo; done"
    with remit.running("helper", "sh", "-c", loop, options=child(parent)) as running:
        assert running.stdout is not None
        wait_for(lambda: running.stdout.readline().strip() == "200", "the child at work")
        remit.cli("revoke", "capability", "api")
        try:
            wait_for(lambda: running.stdout.readline().strip() == "403", "the child refused")
        finally:
            remit.cli("restore", "capability", "api")
        (record, *_) = [one for one in remit.audit(decision="deny") if one["path"] == "/v1/part/loop"]
        assert record["reason"] == "not_delegated"
        assert "capability api, which was revoked" in record["detail"]


def test_a_child_has_no_authority_once_its_parent_has_none(
    remit: Instance, upstreams: Upstreams, api: str, parent: str
) -> None:
    loop = f"echo up; while :; do {' '.join(CURL)} {api}/v1/part/orphan; echo; done"
    with remit.running("helper", "sh", "-c", loop, options=child(parent)) as running:
        assert running.stdout is not None
        wait_for(lambda: running.stdout.readline().strip() == "200", "the child at work")
        remit.cli("revoke", "task", parent)
        wait_for(lambda: running.stdout.readline().strip() == "403", "the child refused")
        arrived = len([one for one in upstreams.seen if one["path"] == "/v1/part/orphan"])
        for _ in range(5):
            running.stdout.readline()
        assert len([one for one in upstreams.seen if one["path"] == "/v1/part/orphan"]) == arrived
    (record, *_) = [one for one in remit.audit(decision="deny") if one["path"] == "/v1/part/orphan"]
    assert record["reason"] == "parent_ended"
    assert remit.run("helper", "true", options=child(parent)).returncode == 5


def test_a_child_ends_with_its_parent(remit: Instance, parent: str) -> None:
    with remit.running("helper", "sh", "-c", "echo up; exec sleep 1000", options=child(parent)) as running:
        assert running.stdout is not None
        running.stdout.readline()
        mine = remit.newest()["id"]
        remit.cli("stop", parent)
        assert running.wait(30) != 0
    wait_for(lambda: mine not in [one["id"] for one in remit.tasks()], "the child to have ended", 45)
    assert remit.run("helper", "true", options=child(parent)).returncode == 5
