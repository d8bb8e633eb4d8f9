"""A decision from end to end, with fakes around it: the order of reasons, and what happens between record and answer."""

from __future__ import annotations

import json

import pytest
from deciding import MANIFESTS, World, asking, knowing

from remit.control.decide import Denied, Held, Permitted
from remit.control.ports import Entry
from remit.control.rationing import Exceeded
from remit.core.decision import Opinion
from remit.core.reason import Reason
from remit.core.request import Evidence
from remit.core.snapshot import Revoked, Snapshot
from remit.core.task import State
from remit.policy import compile as compiler
from remit.policy import manifests


async def test_a_permit_pins_the_address_carries_the_secret_and_has_its_record_first() -> None:
    world = World(knowing())
    answer = await world.decider.check(asking())
    assert isinstance(answer, Permitted)
    assert (answer.pin, answer.pin_port, answer.target) == ("8.8.8.8", 443, None)
    assert answer.headers == ((b"authorization", b"Bearer s3cret"),)
    (record,) = world.records()
    assert (record["decision"], record["path"], record["credential"]) == ("permit", "/v1/x", "k")
    assert "s3cret" not in json.dumps(world.records())
    assert "q=1" not in json.dumps(world.records())


OPINION_NO = Opinion(denials=(("p", "no"),))
CASES: dict[str, tuple[World, Evidence, str]] = {
    "nothing is known yet": (World(), asking(), "not_ready"),
    "no token": (World(knowing()), asking(token=b""), "token_missing"),
    "a token that does not verify": (World(knowing()), asking(token=b"bad"), "token_invalid"),
    "a task nobody knows": (World(knowing(tasks={})), asking(), "task_unknown"),
    "a task that ended": (World(knowing(State.EXITED)), asking(), "task_ended"),
    "a revoked task, whatever else is wrong": (World(knowing(State.REVOKED, cell=2)), asking(), "task_revoked"),
    "the token of another cell": (World(knowing(cell=2)), asking(), "flow_mismatch"),
    "a source that is no cell": (World(knowing()), asking(peer="10.0.0.1:1", direct_peer="10.0.0.1:1"), "flow_unknown"),
    "a source that the agent chose": (World(knowing()), asking(peer="100.64.0.2:1"), "flow_unknown"),
    "another name in the handshake": (World(knowing()), asking(sni="b.com"), "name_mismatch"),
    "a name with a final dot": (World(knowing()), asking(authority="api.a.com."), "name_invalid"),
    "another port": (World(knowing()), asking(authority="api.a.com:8443"), "name_mismatch"),
    "an address of the agent's": (World(knowing()), asking(destination="8.8.8.8:443"), "destination_mismatch"),
    "a method that is never forwarded": (World(knowing()), asking(method="TRACE"), "method_invalid"),
    "a path with two meanings": (World(knowing()), asking(target="/v1/../admin"), "path_ambiguous"),
    "a path no capability covers": (World(knowing()), asking(target="/v2"), "no_capability"),
    "a revoked capability": (
        World(knowing(revoked=Revoked(capabilities=frozenset({"c"})))),
        asking(),
        "capability_revoked",
    ),
    "a policy that objects": (World(knowing(), opinion=OPINION_NO), asking(), "policy_denied"),
    "a policy that fails": (World(knowing(), opinion=Opinion(failure="broke")), asking(), "policy_failed"),
    "a name without an address": (World(knowing(), found=()), asking(), "name_unresolved"),
    "one forbidden address among good ones": (
        World(knowing(), found=("8.8.8.8", "169.254.169.254")),
        asking(),
        "address_refused",
    ),
    "a revoked role": (World(knowing(revoked=Revoked(roles=frozenset({"r"})))), asking(), "role_revoked"),
    "everything revoked, whatever else is wrong": (
        World(knowing(State.REVOKED, cell=2, revoked=Revoked(everything=True))),
        asking(),
        "everything_revoked",
    ),
    "a revoked credential": (
        World(knowing(revoked=Revoked(credentials=frozenset({"k"})))),
        asking(),
        "credential_revoked",
    ),
    "a secret that is not there": (World(knowing(), secrets={}), asking(), "credential_unavailable"),
    "a policy before an address": (
        World(knowing(), opinion=OPINION_NO, found=("127.0.0.1",)),
        asking(),
        "policy_denied",
    ),
}


@pytest.mark.parametrize("sentence", CASES)
async def test_the_first_reason_that_applies_wins(sentence: str) -> None:
    world, evidence, reason = CASES[sentence]
    answer = await world.decider.check(evidence)
    assert isinstance(answer, Denied), sentence
    assert answer.refusal.reason == reason
    (record,) = world.records()
    assert (record["decision"], record["reason"]) == ("deny", reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (knowing(State.REVOKED), "task_revoked"),
        (knowing(revoked=Revoked(capabilities=frozenset({"c"}))), "capability_revoked"),
        (knowing(revoked=Revoked(credentials=frozenset({"k"}))), "credential_revoked"),
    ],
)
async def test_a_revocation_that_arrives_while_the_record_is_written_wins(change: Snapshot, reason: str) -> None:
    world = World(knowing())
    world.journal.meanwhile = lambda: world.knowledge.replace(change)
    answer = await world.decider.check(asking())
    assert isinstance(answer, Denied)
    assert answer.refusal.reason == reason
    assert [record["decision"] for record in world.records()] == ["permit", "deny"]


async def test_a_change_that_takes_nothing_away_is_decided_again_and_permitted() -> None:
    world = World(knowing())
    world.journal.meanwhile = lambda: world.knowledge.replace(knowing(epoch=2))
    assert isinstance(await world.decider.check(asking()), Permitted)


async def test_a_lease_that_runs_out_while_the_record_is_written_wins() -> None:
    world = World(knowing())
    world.journal.meanwhile = lambda: setattr(world, "time", 31)
    answer = await world.decider.check(asking())
    assert isinstance(answer, Denied)
    assert answer.refusal.reason == "control_plane_lost"


async def test_a_task_has_no_more_open_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remit.control.openings.AT_ONCE", 2)
    world = World(knowing())
    permitted = [await world.decider.check(asking()) for _ in range(2)]
    answer = await world.decider.check(asking())
    assert isinstance(answer, Denied)
    assert (answer.refusal.reason, answer.refusal.retry_after_s) == ("requests_exceeded", 1)
    assert isinstance(permitted[0], Permitted)
    world.openings.ended(permitted[0].record)
    assert isinstance(await world.decider.check(asking()), Permitted)


async def test_a_node_that_lost_its_control_plane_stops_after_its_lease() -> None:
    world = World(knowing())
    world.time = 29
    assert isinstance(await world.decider.check(asking()), Permitted)
    world.time = 31
    answer = await world.decider.check(asking())
    assert isinstance(answer, Denied)
    assert answer.refusal.reason == "control_plane_lost"


async def test_without_a_record_there_is_no_permit() -> None:
    world = World(knowing())
    world.journal.full = True
    answer = await world.decider.check(asking())
    assert isinstance(answer, Denied)
    assert answer.refusal.reason == "audit_unavailable"


async def test_a_cell_that_had_its_share_of_the_log_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def had_its_share(record: str, entry: Entry) -> None:
        raise Exceeded("too fast")

    world = World(knowing())
    monkeypatch.setattr(world.journal, "append", had_its_share)
    for asked in (asking(), asking(target="/elsewhere")):
        answer = await world.decider.check(asked)
        assert isinstance(answer, Denied)
        assert (answer.refusal.reason, answer.refusal.retry_after_s) == ("records_exceeded", 1)


async def test_what_was_injected_is_named_to_the_boundary_and_not_said() -> None:
    world = World(knowing(), secrets={"k": b"long-s3cret"})
    answer = await world.decider.check(asking())
    assert isinstance(answer, Permitted)
    found = world.hidden.answer(answer.hidden)
    assert found is not None
    assert found.body(b"long-s3cret", end=True) == b"remit-hidden"
    assert "long-s3cret" not in answer.hidden


async def test_a_credential_whose_answers_are_trusted_hides_nothing_and_the_record_says_so() -> None:
    text = MANIFESTS.replace("spec: {hosts: [api.a.com], inject", "spec: {scrub: false, hosts: [api.a.com], inject")
    rules = compiler.rules(manifests.parse(text, "m"))
    trusting, careful = World(knowing(rules=rules)), World(knowing())
    answer = await trusting.decider.check(asking())
    assert isinstance(answer, Permitted)
    assert answer.hidden == ""
    assert trusting.records()[0]["unscrubbed"] is True
    await careful.decider.check(asking())
    assert "unscrubbed" not in careful.records()[0]


async def test_a_secret_that_is_not_there_yet_is_waited_for_in_the_second_check_but_not_by_a_stream() -> None:
    world = World(knowing())
    world.secrets.lease = lambda permit: None  # type: ignore[method-assign]

    async def slow(permit: object, *, patient: bool = False) -> None:
        assert not patient
        return

    world.secrets.obtain = slow  # type: ignore[method-assign]
    assert await world.decider.check(asking()) == Held(question=None)
    assert world.records() == []
    refused = await world.decider.check(asking(headers={"content-type": "application/grpc+proto"}))
    assert isinstance(refused, Denied)
    assert refused.refusal.reason is Reason.CREDENTIAL_UNAVAILABLE
    assert "ask again" in refused.refusal.detail
