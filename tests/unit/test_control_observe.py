"""A role that observes: what its rules refuse passes, bare and recorded; what is not a rule's to say is as strict as ever."""

import dataclasses
from typing import Any

import pytest
from deciding import MANIFESTS, NOW, TASK, World, asking, knowing

from remit.control.decide import Denied, Permitted
from remit.core.decision import Opinion
from remit.core.snapshot import Revoked
from remit.core.task import State, Task
from remit.policy import compile as compiler
from remit.policy import manifests

OBSERVING = compiler.rules(
    manifests.parse(MANIFESTS.replace("capabilities: [c]", "mode: observe, capabilities: [c]"), "m")
)
NO = Opinion(denials=(("p", "no"),), headers={"x-team": "red"}, notes={"a": "b"})


def observing(**changes: Any) -> Any:
    return knowing(**{"rules": OBSERVING, **changes})


async def passes(world: World, evidence: Any, reason: str, detail: str) -> dict[str, Any]:
    answer = await world.decider.check(evidence)
    assert isinstance(answer, Permitted), answer
    assert answer.headers == (), "neither a credential nor a header of a policy"
    (record,) = world.records()
    assert (record["decision"], record["reason"], record["credential"]) == ("permit", "permitted", None)
    assert record["would_deny"] == reason
    assert detail in record["would_deny_detail"]
    return record


async def test_what_no_capability_covers_passes() -> None:
    record = await passes(World(observing()), asking(target="/v2"), "no_capability", "role r does not cover")
    assert record["capability"] == "(observed)"


async def test_what_a_policy_objects_to_passes_without_its_credential_and_headers() -> None:
    record = await passes(World(observing(), opinion=NO), asking(), "policy_denied", "p: no")
    assert (record["capability"], record["notes"]) == ("c", {"a": "b"})


async def test_what_a_human_would_be_asked_passes() -> None:
    await passes(World(observing(), opinion=Opinion(holds=(("p", "look"),))), asking(), "approval_required", "look")


async def test_the_first_reason_is_the_one_that_is_told() -> None:
    await passes(World(observing(), opinion=NO), asking(target="/v2"), "no_capability", "does not cover")


async def test_what_is_permitted_has_its_credential_and_no_would_deny() -> None:
    world = World(observing())
    answer = await world.decider.check(asking())
    assert isinstance(answer, Permitted)
    assert answer.headers == ((b"authorization", b"Bearer s3cret"),)
    assert "would_deny" not in world.records()[0]


PARENT = Task(id="t-bbbbbbbbbb", role="r", state=State.RUNNING, cell=2, created=NOW)
CHILD = dataclasses.replace(PARENT, id=TASK, cell=1, parent=PARENT.id)
HANDED_ON: dict[str, Any] = {
    "tasks": {TASK: CHILD, PARENT.id: PARENT},
    "rules": dataclasses.replace(
        OBSERVING, roles={"r": dataclasses.replace(OBSERVING.roles["r"], delegates=frozenset({"r"}))}
    ),
}


@pytest.mark.parametrize(
    ("world", "evidence", "reason"),
    [
        (World(observing(), found=("169.254.169.254",)), asking(target="/v2"), "address_refused"),
        (World(observing(), found=("10.0.0.1",), opinion=NO), asking(), "address_refused"),
        (World(observing(), found=()), asking(target="/v2"), "name_unresolved"),
        (World(observing()), asking(target="/v2", sni="b.com"), "name_mismatch"),
        (World(observing()), asking(target="/v2", destination="8.8.8.8:443"), "destination_mismatch"),
        (World(observing()), asking(target="/v2", token=b"bad"), "token_invalid"),
        (World(observing(cell=2)), asking(target="/v2"), "flow_mismatch"),
        (World(observing(state=State.REVOKED)), asking(target="/v2"), "task_revoked"),
        (World(observing(revoked=Revoked(everything=True))), asking(target="/v2"), "everything_revoked"),
        (World(observing(revoked=Revoked(roles=frozenset({"r"})))), asking(target="/v2"), "role_revoked"),
        (World(observing(revoked=Revoked(capabilities=frozenset({"c"})))), asking(), "capability_revoked"),
        (World(observing(), opinion=Opinion(failure="broke")), asking(), "policy_failed"),
        (World(observing(), opinion=Opinion(failure="broke")), asking(target="/v2"), "policy_failed"),
        (World(observing()), asking(target="/v2%2fx"), "no_capability"),
        (World(observing(**HANDED_ON)), asking(target="/v2"), "no_capability"),
        (World(observing(**HANDED_ON), opinion=NO), asking(), "policy_denied"),
        (World(observing(), secrets={}), asking(), "credential_unavailable"),
    ],
)
async def test_what_is_refused_all_the_same(world: World, evidence: Any, reason: str) -> None:
    answer = await world.decider.check(evidence)
    assert isinstance(answer, Denied)
    assert answer.refusal.reason == reason
    assert "would_deny" not in world.records()[0]


async def test_without_its_record_nothing_passes() -> None:
    world = World(observing())
    world.journal.full = True
    answer = await world.decider.check(asking(target="/v2"))
    assert isinstance(answer, Denied)
    assert answer.refusal.reason == "audit_unavailable"


async def test_a_budget_holds_for_what_passes() -> None:
    spent = MANIFESTS.replace("capabilities: [c]", "mode: observe, capabilities: [c], budgets: [{requests: 1}]")
    world = World(observing(rules=compiler.rules(manifests.parse(spent, "m"))))
    assert isinstance(await world.decider.check(asking(target="/v2")), Permitted)
    answer = await world.decider.check(asking(target="/v2"))
    assert isinstance(answer, Denied)
    assert answer.refusal.reason == "budget_exhausted"


async def test_a_revocation_while_the_record_is_written_wins() -> None:
    world = World(observing())
    revoked = dataclasses.replace(observing(state=State.REVOKED), version="2", epoch=2)
    world.journal.meanwhile = lambda: world.knowledge.replace(revoked)
    answer = await world.decider.check(asking(target="/v2"))
    assert isinstance(answer, Denied)
    assert answer.refusal.reason == "task_revoked"
