"""What the control plane does, on in-memory parts: all or nothing, acknowledged, recorded."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import control_plane
import pytest
from control_plane import API, CAPABILITY, CREDENTIAL, MANIFESTS, ROLE, Plane

from remit.control.ports_control import RevocationKind
from remit.core.errors import Conflict, Invalid, NotFound, Unavailable
from remit.core.task import State
from remit.policy import snapshot as snapshots


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    return control_plane.build(tmp_path)


async def ready(plane: Plane) -> Plane:
    await plane.services.manifests.apply(MANIFESTS, operator="ann")
    return plane


def actions(plane: Plane) -> list[str]:
    return [fields["action"] for _, fields in plane.node.records]


def in_force(plane: Plane) -> Any:
    return snapshots.load(plane.node.snapshots[-1], None)


# Manifests


async def test_applied_manifests_are_in_force_on_the_node_when_apply_returns(plane: Plane) -> None:
    done = await plane.services.manifests.apply(MANIFESTS, operator="ann")
    assert [(c.kind, c.name, c.change) for c in done.changes] == [
        ("Role", "devops", "created"),
        ("Capability", "github", "created"),
        ("Credential", "github-token", "created"),
    ]
    assert in_force(plane).rules.digest == done.digest
    assert plane.node.records[0][1]["operator"] == "ann"
    assert done.record == "r-0000000001"


async def test_one_mistake_refuses_the_whole_set_and_changes_nothing(plane: Plane) -> None:
    await ready(plane)
    before = (plane.services.manifests.all("Role"), len(plane.node.snapshots), len(plane.node.records))
    fine = {"apiVersion": API, "kind": "Role", "metadata": {"name": "fine"}, "spec": {}}
    broken = {"apiVersion": API, "kind": "Role", "metadata": {"name": "broken"}, "spec": {"capabilities": ["githb"]}}
    with pytest.raises(Invalid, match=r"exists, found \"githb\" \(did you mean github\?\)"):
        await plane.services.manifests.apply([fine, broken], operator="ann")
    assert (plane.services.manifests.all("Role"), len(plane.node.snapshots), len(plane.node.records)) == before


async def test_a_dry_run_tells_and_changes_nothing(plane: Plane) -> None:
    done = await plane.services.manifests.apply(MANIFESTS, operator="ann", dry_run=True)
    assert {c.change for c in done.changes} == {"created"}
    assert done.record is None
    assert plane.services.manifests.all("Role") == []
    assert plane.node.records == []


async def test_applying_the_same_again_is_neither_recorded_nor_published(plane: Plane) -> None:
    await ready(plane)
    seen = (len(plane.node.snapshots), len(plane.node.records))
    done = await plane.services.manifests.apply(MANIFESTS, operator="ann")
    assert {c.change for c in done.changes} == {"unchanged"}
    assert (len(plane.node.snapshots), len(plane.node.records)) == seen


async def test_nothing_is_applied_that_cannot_be_recorded(plane: Plane) -> None:
    plane.node.connected = False
    with pytest.raises(Unavailable, match="nothing was changed"):
        await plane.services.manifests.apply(MANIFESTS, operator="ann")
    assert plane.services.manifests.all("Role") == []


async def test_a_change_that_breaks_what_is_already_there_is_refused(plane: Plane) -> None:
    await ready(plane)
    moved = deepcopy(CAPABILITY)
    moved["spec"]["hosts"] = ["elsewhere.example.com"]  # type: ignore[index]
    with pytest.raises(Invalid, match="pinned"):
        await plane.services.manifests.apply([moved], operator="ann")


async def test_no_manifests_is_a_mistake(plane: Plane) -> None:
    with pytest.raises(Invalid, match="no manifests"):
        await plane.services.manifests.apply([], operator="ann")


async def test_a_manifest_that_is_named_by_another_cannot_be_removed(plane: Plane) -> None:
    await ready(plane)
    with pytest.raises(Conflict, match="Capability github is named by devops"):
        await plane.services.manifests.remove("Capability", "github", operator="ann")
    assert [d["metadata"]["name"] for d in plane.services.manifests.all("Capability")] == ["github"]
    await plane.services.manifests.remove("Role", "devops", operator="ann")
    await plane.services.manifests.remove("Capability", "github", operator="ann")
    assert actions(plane) == ["apply", "remove", "remove"]
    assert in_force(plane).rules.capabilities == {}


async def test_one_of_several_credentials_and_a_role_that_is_delegated_to_cannot_be_removed(plane: Plane) -> None:
    manifests = deepcopy(MANIFESTS)
    extra = next(one for one in manifests if one["kind"] == "Credential")
    second = deepcopy(extra)
    second["metadata"]["name"] = "second"
    second["spec"]["placeholder"] = {"env": "SECOND_TOKEN", "value": "second-placeholder"}
    capability = next(one for one in manifests if one["kind"] == "Capability")
    del capability["spec"]["credential"]
    capability["spec"]["credentials"] = [extra["metadata"]["name"], "second"]
    role = next(one for one in manifests if one["kind"] == "Role")
    below = deepcopy(role)
    below["metadata"]["name"] = "below"
    role["spec"]["delegates"] = ["below"]
    await plane.services.manifests.apply([*manifests, second, below], operator="ann")
    with pytest.raises(Conflict, match="Credential second is named by github"):
        await plane.services.manifests.remove("Credential", "second", operator="ann")
    with pytest.raises(Conflict, match="Role below is named by devops"):
        await plane.services.manifests.remove("Role", "below", operator="ann")


async def test_a_stored_manifest_that_this_version_cannot_read_stops_no_revocation(plane: Plane) -> None:
    await ready(plane)
    old = {"apiVersion": "remit.dev/v1alpha1", "kind": "Capability", "metadata": {"name": "old"}, "spec": {"was": 1}}
    with plane.store.unit() as unit:
        unit.documents.put(old, plane.clock.now())
    done = await plane.services.revoking.revoke(RevocationKind.CAPABILITY, "github", operator="ann")
    assert done.record
    assert (await plane.services.tasks.create("devops", ["true"], operator="ann")).task.role == "devops"
    assert in_force(plane).rules.capabilities["old"].invalid
    await plane.services.manifests.remove("Capability", "old", operator="ann")


async def test_an_unknown_name_is_answered_with_the_nearest(plane: Plane) -> None:
    await ready(plane)
    with pytest.raises(NotFound, match="did you mean devops"):
        plane.services.manifests.get("Role", "devop")


# Tasks


async def test_a_created_task_is_known_to_the_node_and_gets_what_its_cell_needs(plane: Plane) -> None:
    await ready(plane)
    made = await plane.services.tasks.create("devops", ["python", "agent.py"], operator="ann")
    known = in_force(plane).tasks[made.task.id]
    assert (known.state, known.cell, known.role) == (State.PENDING, made.task.cell, "devops")
    assert made.environment == {"GITHUB_TOKEN": "ghp_placeholder"}
    assert made.limits["memory_bytes"] == 2 << 30
    assert len(made.token.token) <= 400
    assert actions(plane)[-1] == "task.create"
    assert "agent.py" not in str(plane.node.records), "arguments may hold secrets"


async def test_a_task_of_an_unknown_role_is_not_created(plane: Plane) -> None:
    await ready(plane)
    with pytest.raises(NotFound, match="did you mean devops") as caught:
        await plane.services.tasks.create("devop", ["sh"], operator="ann")
    assert caught.value.hint == "remit get role"
    assert plane.services.tasks.all(alive_only=False) == []


async def test_a_task_that_the_node_does_not_acknowledge_has_failed(plane: Plane) -> None:
    await ready(plane)

    async def deaf(snapshot: object) -> None:
        raise Unavailable("the link broke")

    plane.node.publish = deaf  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await plane.services.tasks.create("devops", ["sh"], operator="ann")
    assert [t.state for t in plane.services.tasks.all(alive_only=False)] == [State.FAILED]


async def test_a_node_whose_word_was_lost_hears_that_the_task_has_failed(plane: Plane) -> None:
    await ready(plane)
    publish, heard = plane.node.publish, list[object]()

    async def cut_off(snapshot: Mapping[str, Any]) -> None:
        await publish(snapshot)
        heard.append(snapshot)
        if len(heard) == 1:
            raise Unavailable("the link broke")

    plane.node.publish = cut_off  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await plane.services.tasks.create("devops", ["sh"], operator="ann")
    async with asyncio.timeout(10):
        while len(heard) < 2:
            await asyncio.sleep(0)
    assert [task.state for task in in_force(plane).tasks.values()] == [State.FAILED]


async def test_a_task_goes_from_pending_to_running_to_exited(plane: Plane) -> None:
    await ready(plane)
    task = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    assert plane.services.tasks.started(task.id).state is State.RUNNING
    assert plane.services.tasks.started(task.id).state is State.RUNNING, "told twice"
    ended = plane.services.tasks.exited(task.id, 3)
    assert (ended.state, ended.exit_code, ended.ended) == (State.EXITED, 3, plane.clock.now())
    assert plane.services.tasks.exited(task.id, 4).exit_code == 3, "told twice: the first word stands"
    assert plane.services.tasks.all(alive_only=True) == []
    with pytest.raises(Conflict, match="exited"):
        plane.services.tasks.renew(task.id)


async def test_a_stopped_task_and_one_that_ended_before_its_start_was_told(plane: Plane) -> None:
    await ready(plane)
    one = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    plane.services.tasks.started(one.id)
    assert plane.services.tasks.exited(one.id, 143, stopped=True).state is State.STOPPED
    two = (await plane.services.tasks.create("devops", ["true"], operator="ann")).task
    assert plane.services.tasks.exited(two.id, 0).state is State.EXITED


async def test_a_revoked_task_cannot_start_and_gets_no_token(plane: Plane) -> None:
    await ready(plane)
    task = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    await plane.services.revoking.revoke(RevocationKind.TASK, task.id, operator="ann")
    with pytest.raises(Conflict):
        plane.services.tasks.started(task.id)
    with pytest.raises(Conflict, match="gets no token"):
        plane.services.tasks.renew(task.id)
    assert plane.services.tasks.exited(task.id, 137).state is State.ENDED


async def test_a_task_whose_cell_is_gone_loses_its_authority(plane: Plane) -> None:
    await ready(plane)
    lost = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    kept = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    assert plane.services.tasks.reconcile(frozenset()) == [], "both may still be starting"
    plane.clock.set_by(3600)
    assert plane.services.tasks.reconcile(frozenset()) == [], "somebody set the clock, and no time has passed"
    plane.clock.set_by(-7200)
    plane.clock.advance(31)
    young = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    assert [t.id for t in plane.services.tasks.reconcile(frozenset({kept.id}))] == [lost.id]
    assert plane.services.tasks.get(lost.id).state is State.FAILED
    assert plane.services.tasks.get(young.id).state is State.PENDING


async def test_the_node_hears_of_an_ended_task_for_ten_minutes_more(plane: Plane) -> None:
    await ready(plane)
    task = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    plane.services.tasks.exited(task.id, 0)
    assert [t["state"] for t in plane.publisher.current()["tasks"]] == ["exited"]
    plane.clock.advance(601)
    assert plane.publisher.current()["tasks"] == []


async def test_a_rotated_key_reaches_the_node_before_it_signs(plane: Plane) -> None:
    await ready(plane)
    old = set(in_force(plane).keys)
    kid, _ = await plane.services.tasks.rotate(operator="ann")
    assert set(in_force(plane).keys) == old | {kid}
    await plane.services.tasks.rotate(operator="ann", compromised=True)
    assert len(in_force(plane).keys) == 1
    assert not old & set(in_force(plane).keys)


async def test_a_rotation_that_the_node_does_not_hear_of_changes_no_signature(plane: Plane) -> None:
    await ready(plane)
    old = set(plane.issuer.public_keys())

    async def deaf(snapshot: object) -> None:
        raise Unavailable("the link broke")

    plane.node.publish = deaf  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await plane.services.tasks.rotate(operator="ann")
    assert plane.issuer._signing.kid in old


# Revocation


async def test_a_revoked_task_is_refused_by_the_node_its_flows_cut_and_the_action_recorded(plane: Plane) -> None:
    await ready(plane)
    task = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    plane.cells.flows[task.id] = 3
    done = await plane.services.revoking.revoke(RevocationKind.TASK, task.id[2:6], operator="bob")
    assert (done.name, done.flows_closed) == (task.id, 3)
    assert in_force(plane).tasks[task.id].state is State.REVOKED
    kind, fields = plane.node.records[-1]
    assert (kind, fields["action"], fields["operator"], fields["task"]) == ("operator", "revoke", "bob", task.id)
    again = await plane.services.revoking.revoke(RevocationKind.TASK, task.id, operator="bob")
    assert again.flows_closed == 0, "revoking twice is no error"


async def test_revoking_a_credential_cuts_the_tasks_that_could_use_it_and_no_other(plane: Plane) -> None:
    await ready(plane)
    plain = {"apiVersion": API, "kind": "Role", "metadata": {"name": "plain"}, "spec": {}}
    await plane.services.manifests.apply([plain], operator="ann")
    user = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    other = (await plane.services.tasks.create("plain", ["sh"], operator="ann")).task
    plane.cells.flows |= {user.id: 2, other.id: 5}
    for kind, name in ((RevocationKind.CREDENTIAL, "github-token"), (RevocationKind.CAPABILITY, "github")):
        plane.cells.flows[user.id] = 2
        done = await plane.services.revoking.revoke(kind, name, operator="ann")
        assert done.flows_closed == 2
    assert plane.cells.flows == {other.id: 5}
    assert in_force(plane).revoked.capabilities == {"github"}
    assert in_force(plane).revoked.credentials == {"github-token"}


async def test_a_child_starts_only_within_what_its_parent_was_given_and_is_not_revoked(plane: Plane) -> None:
    await ready(plane)
    plain = {"apiVersion": API, "kind": "Capability", "metadata": {"name": "plain"}, "spec": {"hosts": ["b.com"]}}
    spec = {"capabilities": ["github", "plain"], "delegates": ["devops", "both"], "maxDepth": 2}
    both = {"apiVersion": API, "kind": "Role", "metadata": {"name": "both"}, "spec": spec}
    await plane.services.manifests.apply([plain, both], operator="ann")
    create = plane.services.tasks.create
    parent = (await create("both", ["sh"], operator="ann", capabilities=["plain"])).task
    plane.services.tasks.started(parent.id)
    for role in ("devops", "both"):
        with pytest.raises(Conflict, match="capability github is not within role both"):
            await create(role, ["sh"], operator="ann", parent=parent.id)
    assert (await create("both", ["sh"], operator="ann", parent=parent.id, capabilities=["plain"])).task.parent
    await plane.services.revoking.revoke(RevocationKind.ROLE, "both", operator="ann")
    with pytest.raises(Conflict, match=r"revoked|not in force"):
        await create("both", ["sh"], operator="ann", parent=parent.id, capabilities=["plain"])


async def test_revoking_reaches_the_tasks_below_and_nobody_beside(plane: Plane) -> None:
    await ready(plane)
    above = {
        "kind": "Role",
        "metadata": {"name": "above"},
        "spec": {"capabilities": ["github"], "delegates": ["devops"]},
    }
    await plane.services.manifests.apply([{"apiVersion": API, **above}], operator="ann")
    create = plane.services.tasks.create
    parent = (await create("above", ["sh"], operator="ann")).task
    plane.services.tasks.started(parent.id)
    child = (await create("devops", ["sh"], operator="ann", parent=parent.id)).task
    beside = (await create("devops", ["sh"], operator="ann")).task
    for kind, name in ((RevocationKind.ROLE, "above"), (RevocationKind.TASK, parent.id)):
        plane.cells.flows |= {parent.id: 1, child.id: 2, beside.id: 4}
        assert (await plane.services.revoking.revoke(kind, name, operator="ann")).flows_closed == 3
        assert plane.cells.flows == {beside.id: 4}


async def test_what_is_open_is_cut_whole_where_the_node_has_not_heard_of_it(plane: Plane) -> None:
    """It could permit more after it was asked what is open."""
    await ready(plane)
    task = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    plane.cells.flows[task.id] = 2
    plane.node.open = {}

    async def unheard(snapshot: Mapping[str, Any]) -> None:
        raise Unavailable("the link broke")

    plane.node.publish = unheard  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="not yet in force"):
        await plane.services.revoking.revoke(RevocationKind.CAPABILITY, "github", operator="ann")
    assert plane.cells.flows == {}


async def test_a_task_whose_role_is_gone_is_taken_for_one_that_used_it(plane: Plane) -> None:
    await ready(plane)
    other = {"apiVersion": API, "kind": "Role", "metadata": {"name": "other"}, "spec": {"capabilities": ["github"]}}
    await plane.services.manifests.apply([other], operator="ann")
    task = (await plane.services.tasks.create("other", ["sh"], operator="ann")).task
    plane.cells.flows[task.id] = 2
    await plane.services.manifests.remove("Role", "other", operator="ann")
    done = await plane.services.revoking.revoke(RevocationKind.CAPABILITY, "github", operator="ann")
    assert done.flows_closed == 2


async def test_a_revocation_without_a_node_is_stored_and_says_so(plane: Plane) -> None:
    await ready(plane)
    plane.node.connected = False
    with pytest.raises(Unavailable, match=r"is stored, but not yet in force"):
        await plane.services.revoking.revoke(RevocationKind.CAPABILITY, "github", operator="ann")
    assert [r.name for r in plane.services.revoking.all()] == ["github"]
    assert plane.publisher.current()["revoked"]["capabilities"] == ["github"]


async def test_connections_are_cut_even_where_the_node_does_not_answer(plane: Plane) -> None:
    await ready(plane)
    task = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    plane.cells.flows[task.id] = 2
    plane.node.connected = False
    with pytest.raises(Unavailable):
        await plane.services.revoking.revoke(RevocationKind.CREDENTIAL, "github-token", operator="ann")
    assert plane.cells.flows == {}


async def test_one_task_that_cannot_be_cut_does_not_spare_the_others(plane: Plane) -> None:
    await ready(plane)
    tasks = [(await plane.services.tasks.create("devops", ["sh"], operator="ann")).task for _ in range(3)]
    plane.cells.flows |= {task.id: 1 for task in tasks}
    cut = plane.cells.cut

    async def sticky(task: str) -> int:
        if task == tasks[0].id:
            raise Unavailable("the forwarder does not answer")
        return await cut(task)

    plane.cells.cut = sticky  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match=tasks[0].id):
        await plane.services.revoking.revoke(RevocationKind.CAPABILITY, "github", operator="ann")
    assert set(plane.cells.flows) == {tasks[0].id}


async def test_a_revocation_whose_flows_cannot_be_cut_says_how_far_it_got(plane: Plane) -> None:
    await ready(plane)
    task = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    plane.cells.available = False
    with pytest.raises(Unavailable, match="refuses the next request; open connections could not be closed") as caught:
        await plane.services.revoking.revoke(RevocationKind.TASK, task.id, operator="ann")
    assert caught.value.hint == f"remit stop {task.id}"
    assert in_force(plane).tasks[task.id].state is State.REVOKED


async def test_what_is_restored_has_its_authority_back(plane: Plane) -> None:
    await ready(plane)
    await plane.services.revoking.revoke(RevocationKind.CAPABILITY, "github", operator="ann")
    await plane.services.revoking.restore(RevocationKind.CAPABILITY, "github", operator="ann")
    assert in_force(plane).revoked.capabilities == frozenset()
    with pytest.raises(NotFound, match="is not revoked"):
        await plane.services.revoking.restore(RevocationKind.CAPABILITY, "github", operator="ann")


async def test_only_the_connections_that_use_it_are_cut_where_the_node_knows_them(plane: Plane) -> None:
    await ready(plane)
    user = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    other = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    plane.cells.flows |= {user.id: 3, other.id: 5}
    plane.node.open = {(RevocationKind.CAPABILITY, "github"): {user.id: (1024, 1030)}}
    done = await plane.services.revoking.revoke(RevocationKind.CAPABILITY, "github", operator="ann")
    assert done.flows_closed == 2
    assert plane.cells.flows == {user.id: 1, other.id: 5}


async def test_a_revoked_role_cuts_all_its_tasks_and_starts_none(plane: Plane) -> None:
    await ready(plane)
    task = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    plane.cells.flows[task.id] = 2
    done = await plane.services.revoking.revoke(RevocationKind.ROLE, "devops", operator="ann")
    assert done.flows_closed == 2
    assert in_force(plane).revoked.roles == {"devops"}
    with pytest.raises(Conflict, match="role devops is revoked"):
        await plane.services.tasks.create("devops", ["sh"], operator="ann")
    await plane.services.revoking.restore(RevocationKind.ROLE, "devops", operator="ann")
    await plane.services.tasks.create("devops", ["sh"], operator="ann")


async def test_a_panic_cuts_everything_starts_nothing_and_is_lifted_only_with_a_reason(plane: Plane) -> None:
    await ready(plane)
    task = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    plane.cells.flows |= {task.id: 2, "t-unknown": 7}
    await plane.services.revoking.revoke(RevocationKind.CAPABILITY, "github", operator="ann")
    plane.cells.flows |= {task.id: 2, "t-unknown": 7}
    done = await plane.services.revoking.panic("keys leaked", operator="bob")
    assert (done.flows_closed, in_force(plane).revoked.everything) == (9, True)
    assert plane.node.records[-1][1]["why"] == "keys leaked"
    assert plane.services.status.read()["panic"] is True
    with pytest.raises(Conflict, match="everything is revoked"):
        await plane.services.tasks.create("devops", ["sh"], operator="ann")
    with pytest.raises(Invalid, match="a reason is needed"):
        await plane.services.revoking.lift(" ", operator="bob")
    assert in_force(plane).revoked.everything
    await plane.services.revoking.lift("rotated", operator="bob")
    assert not in_force(plane).revoked.everything
    assert in_force(plane).revoked.capabilities == {"github"}, "what was revoked on its own stays revoked"
    assert [fields["action"] for _, fields in plane.node.records][-2:] == ["panic", "panic.lift"]
    with pytest.raises(NotFound, match="no panic"):
        await plane.services.revoking.lift("again", operator="bob")


async def test_a_panic_cuts_even_where_the_node_does_not_answer(plane: Plane) -> None:
    await ready(plane)
    plane.cells.flows["t-aaaaaaaaaa"] = 2
    plane.node.connected = False
    with pytest.raises(Unavailable, match="the revocation of everything is stored, but not yet in force"):
        await plane.services.revoking.panic("keys leaked", operator="bob")
    assert plane.cells.flows == {"t-aaaaaaaaaa": 0}


@pytest.mark.parametrize("action", ["revoke", "restore"])
async def test_everything_is_revoked_and_restored_only_by_its_own_words(plane: Plane, action: str) -> None:
    with pytest.raises(Invalid, match="reason"):
        await getattr(plane.services.revoking, action)(RevocationKind.EVERYTHING, "*", operator="ann")


async def test_a_task_cannot_be_restored_nor_an_unknown_name_revoked(plane: Plane) -> None:
    await ready(plane)
    with pytest.raises(Invalid, match="cannot be restored"):
        await plane.services.revoking.restore(RevocationKind.TASK, "t-abcdefghij", operator="ann")
    with pytest.raises(NotFound, match="did you mean github"):
        await plane.services.revoking.revoke(RevocationKind.CAPABILITY, "githb", operator="ann")


async def test_an_ended_task_has_nothing_to_revoke(plane: Plane) -> None:
    await ready(plane)
    task = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    plane.services.tasks.exited(task.id, 0)
    with pytest.raises(Conflict, match="no authority to revoke"):
        await plane.services.revoking.revoke(RevocationKind.TASK, task.id, operator="ann")


# Secrets


async def test_a_secret_is_stored_sealed_and_never_recorded(plane: Plane) -> None:
    await ready(plane)
    await plane.services.secrets.put("github-token", b"hunter2", operator="ann")
    assert in_force(plane).sealed == {"github-token": b"sealed:2retnuh"}
    assert "hunter2" not in str(plane.node.records) + str(plane.node.snapshots)
    (stored,) = plane.services.secrets.all()
    assert (stored.name, stored.credentials) == ("github-token", ("github-token",))


async def test_a_secret_that_is_wanted_and_missing_is_named(plane: Plane) -> None:
    await ready(plane)
    assert plane.services.secrets.needed() == ["github-token"]
    await plane.services.secrets.put("github-token", b"x", operator="ann")
    assert plane.services.secrets.needed() == []
    with plane.store.unit() as unit:  # of an earlier version, which this one cannot read
        unit.documents.put({**CREDENTIAL, "metadata": {"name": "old"}, "spec": {}}, plane.clock.now())
    assert plane.services.secrets.needed() == [], "nobody knows which secret a broken credential wants"
    await plane.services.secrets.remove("github-token", operator="ann")
    assert in_force(plane).sealed == {}
    with pytest.raises(NotFound):
        await plane.services.secrets.remove("github-token", operator="ann")


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "../x", "a" * 64, "-a", "a\n"])
async def test_a_secret_needs_a_plain_name(plane: Plane, name: str) -> None:
    with pytest.raises(Invalid, match="name of a secret"):
        await plane.services.secrets.put(name, b"x", operator="ann")


async def test_secrets_are_bounded_one_by_one_and_together(plane: Plane) -> None:
    with pytest.raises(Invalid, match="empty"):
        await plane.services.secrets.put("a", b"", operator="ann")
    with pytest.raises(Invalid, match="longer"):
        await plane.services.secrets.put("a", b"x" * ((32 << 10) + 1), operator="ann")
    with pytest.raises(Conflict, match="together"):
        for n in range(200):
            await plane.services.secrets.put(f"s{n}", b"x" * (32 << 10), operator="ann")


# Explanations


async def test_explain_tells_what_would_be_decided(plane: Plane) -> None:
    await ready(plane)
    told = await plane.services.explaining.explain("devops", "POST", "https://api.github.com/x", {})
    assert (told["decision"], told["reason"]) == ("deny", "no_capability")
    assert "allows GET, not POST" in told["detail"]


async def test_explain_knows_what_the_node_would_dial(plane: Plane) -> None:
    await ready(plane)
    plane.node.fixed["api.github.com"] = (ipaddress.ip_address("8.8.4.4"),)

    async def told() -> tuple[str, str]:
        found = await plane.services.explaining.explain("devops", "GET", "https://api.github.com/x", {})
        return found["reason"], next(step["detail"] for step in found["steps"] if step["step"] == "address")

    assert (await told())[1] == "8.8.4.4 is dialled"
    plane.node.own = frozenset({ipaddress.ip_address("8.8.4.4")})
    reason, detail = await told()
    assert reason == "address_refused"
    assert "8.8.4.4 is this node's own address" in detail
    plane.node.connected = False
    assert "only for a real request" in (await told())[1]


RECORD = {
    "id": "r-0000000007",
    "seq": 7,
    "kind": "decision",
    "time": "2026-01-01T00:00:00Z",
    "task": "t-abcdefghij",
    "role": "devops",
    "method": "POST",
    "scheme": "https",
    "host": "api.github.com",
    "port": 443,
    "path": "/x",
}


async def test_why_tells_a_denial_as_a_story(plane: Plane) -> None:
    plane.audit.records.append({**RECORD, "decision": "deny", "reason": "no_capability", "detail": "not covered"})
    told = await plane.services.explaining.why("r-00")
    asked, decided, following = told["explanation"]
    assert asked == ("Task t-abcdefghij (role devops) asked for POST https://api.github.com/x at 2026-01-01T00:00:00Z.")
    assert decided == (
        "It was refused at capability, step 5 of 11, with reason no_capability "
        "(no capability of this role covers the request): not covered."
    )
    assert following.startswith("Next: Ask the operator for a capability")
    assert told["completion"] is None


@pytest.mark.parametrize(
    ("more", "below"),
    [
        ({"parent": "t-parent", "chain": ["t-top", "t-parent"]}, ", below t-parent, below t-top"),
        ({"parent": "t-parent"}, ", below t-parent"),
    ],
)
async def test_why_tells_below_whom_a_task_stands(plane: Plane, more: dict[str, object], below: str) -> None:
    denied = {"decision": "deny", "reason": "no_capability", "detail": "not covered"}
    plane.audit.records.append({**RECORD, **denied, **more})
    told = await plane.services.explaining.why("r-00")
    assert told["explanation"][0].startswith(f"Task t-abcdefghij (role devops{below}) asked for POST")


async def test_why_tells_how_a_permitted_request_ended(plane: Plane) -> None:
    ended = {"completed": "2026-01-01T00:00:01Z", "status": 200, "bytes_out": 10, "bytes_in": 20, "duration_ms": 30}
    permitted = {"decision": "permit", "reason": "permitted", "capability": "github", "credential": "github-token"}
    plane.audit.records.append({**RECORD, **permitted, **ended})
    told = await plane.services.explaining.why("r-00")
    assert told["explanation"][1:] == [
        "It was permitted by capability github, with credential github-token injected.",
        "The upstream answered 200 after 30 ms; 10 bytes went out, 20 came in.",
    ]
    assert told["completion"] == ended


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"repeated": True}, "20 came in. It said the credential again; the agent saw the placeholder."),
        ({"ending": "remit_answer_encoded"}, "The upstream's answer was refused, with reason answer_encoded."),
        (
            {"ending": "upstream_reset_before_response_started{connection_termination}"},
            "The upstream did not answer (connection termination); the agent was told so with 200.",
        ),
        (
            {"ending": "upstream_reset_after_response_started{protocol_error}"},
            "The upstream answered 200, and its answer broke off (protocol error); 10 bytes went out, 20 came in.",
        ),
    ],
)
async def test_why_tells_what_became_of_an_answer(plane: Plane, more: dict[str, object], told: str) -> None:
    ended = {"completed": "2026-01-01T00:00:01Z", "status": 200, "bytes_out": 10, "bytes_in": 20, "duration_ms": 30}
    permitted = {"decision": "permit", "reason": "permitted", "capability": "github", "credential": "github-token"}
    plane.audit.records.append({**RECORD, **permitted, **ended, **more})
    assert (await plane.services.explaining.why("r-00"))["explanation"][-1].endswith(told)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (
            {"kind": "completion", "record": "r-1", "status": 200, "bytes_out": 1, "bytes_in": 2, "duration_ms": 3},
            "This is the end of the request of record r-1, at T. The upstream answered 200 after 3 ms; 1 bytes went "
            "out, 2 came in. The whole story: remit why r-1",
        ),
        (
            {"kind": "reservation", "record": "r-1", "reserved": {"role/devops/bytesOut": 2048}, "cut": False},
            "The request of record r-1 was moving all the bytes that were set aside for it, so at T more were: now "
            "2048 of role/devops/bytesOut. It went on.",
        ),
        (
            {"kind": "reservation", "record": "r-1", "reserved": {"role/devops/bytesOut": 2048}, "cut": True},
            "The request of record r-1 was moving all the bytes that were set aside for it, so at T more were: now "
            "2048 of role/devops/bytesOut. There was no room for more, so it was cut.",
        ),
        (
            {"kind": "checkpoint", "part": 1, "parts": 2, "now": 5},
            "What was used of all budgets when this file of the log was begun, at T (part 1 of 2), so that a start "
            "need not add up the whole log. Nothing was asked for or decided.",
        ),
        (
            {"kind": "segment", "segment": 7, "format": "remit-audit-1"},
            "File 7 of the log begins here, at T; its hash ties it to the one before.",
        ),
    ],
    ids=lambda value: f"{value['kind']} {value.get('cut', '')}" if isinstance(value, dict) else "",
)
async def test_why_says_what_a_record_is_that_decided_nothing(
    plane: Plane, record: dict[str, object], told: str
) -> None:
    plane.audit.records.append({"id": "r-0000000009", "seq": 9, "time": "T", "task": None, **record})
    assert (await plane.services.explaining.why("r-0000000009"))["explanation"] == [told]


async def test_why_tells_who_revoked_the_task(plane: Plane) -> None:
    revoked = {"id": "r-0000000001", "seq": 1, "kind": "operator", "action": "revoke", "operator": "bob"}
    plane.audit.records.append({**revoked, "time": "2025-12-31T23:59:59Z", "task": "t-abcdefghij"})
    plane.audit.records.append({**RECORD, "decision": "deny", "reason": "task_revoked", "detail": "it was revoked"})
    told = await plane.services.explaining.why("r-0000000007")
    assert "bob revoked it at 2025-12-31T23:59:59Z (record r-0000000001)." in told["explanation"]


async def test_a_role_without_capabilities_gives_no_placeholders(plane: Plane) -> None:
    bare = deepcopy(ROLE)
    bare["spec"] = {"env": {"A": "b"}}  # type: ignore[assignment]
    await plane.services.manifests.apply([bare], operator="ann")
    made = await plane.services.tasks.create("devops", ["sh"], operator="ann")
    assert made.environment == {"A": "b"}


async def test_why_tells_of_a_hold_of_an_answer_and_of_what_it_allowed(plane: Plane) -> None:
    common = {"time": "T", "task": "t-aaaaaaaaaa", "role": "devops", "host": "a.com", "path": "/x", "method": "GET"}
    for record in (
        {**common, "id": "r-1", "seq": 1, "kind": "decision", "decision": "hold", "reason": "approval_required",
         "approval": "a-1", "detail": "capability c asks", "scheme": "https"},
        {**common, "id": "r-2", "seq": 2, "kind": "approval", "operator": "alice", "detail": "approval a-1 approved"},
        {**common, "id": "r-3", "seq": 3, "kind": "approval", "operator": "", "detail": "grant g-1 is expired"},
        {**common, "id": "r-4", "seq": 4, "kind": "decision", "decision": "permit", "reason": "permitted",
         "capability": "c", "grant": "g-1", "approved_by": "alice", "scheme": "https"},
    ):  # fmt: skip
        await plane.audit.add(record)
    told = [list((await plane.services.explaining.why(f"r-{n}"))["explanation"]) for n in (1, 2, 3, 4)]
    assert told[0][1] == "It waited for a human, under approval a-1: capability c asks."
    assert told[1] == ["alice did this at T: approval a-1 approved."]
    assert told[2] == ["This happened at T: grant g-1 is expired."]
    assert told[3][1] == "It was permitted by capability c, without a credential, as alice allowed (grant g-1)."
