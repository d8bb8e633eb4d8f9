"""An explanation runs the rules of real requests, and names every step."""

import ipaddress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from explained import explained

from remit.core import approval, grant
from remit.core.decision import Candidate, Opinion
from remit.core.errors import Invalid, NotFound
from remit.core.grant import Scope
from remit.core.names import Address
from remit.core.reason import STEPS, Reason
from remit.core.snapshot import Revoked, Snapshot
from remit.core.task import State, Task
from remit.policy import compile as compiler
from remit.policy import explain, manifests

API = "remit.dev/v1alpha1"


def manifest(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}


RULES = compiler.rules(
    manifests.from_json(
        [
            manifest("Role", "r", capabilities=["c", "open", "near", "wide"], policies=["p"]),
            manifest("Role", "broken", capabilities=["gone"]),
            manifest("Capability", "c", hosts=["a.com"], methods=["GET", "DELETE"], paths=["/x/**"], credential="k"),
            manifest("Capability", "wide", hosts=["*.wide.com"], credential="k"),
            manifest("Capability", "open", hosts=["b.com", "8.8.4.4", "10.0.0.1"], websocket=True),
            manifest("Capability", "near", hosts=["10.0.0.2"], addresses=["10.0.0.0/24"]),
            manifest("Credential", "k", hosts=["a.com"], inject={"header": {"name": "Authorization"}}),
            manifest("Policy", "p", rego='package remit.p\ndeny contains {"msg": "no deletes"} if input.request.method == "DELETE"\n'),
        ]
    )
)  # fmt: skip
SNAPSHOT = Snapshot(version="1", rules=RULES, sealed={"k": b"x"})


def told(method: str, url: str, snapshot: Snapshot = SNAPSHOT, role: str = "r", **headers: str) -> dict[str, Any]:
    return explained(snapshot, role, method, url, headers)


def outcomes(answer: dict[str, Any]) -> dict[str, str]:
    return {step["step"]: step["outcome"] for step in answer["steps"]}


NODE, OTHER = ipaddress.ip_address("8.8.4.4"), ipaddress.ip_address("8.8.8.1")


@pytest.mark.parametrize(
    ("url", "found", "own", "reason", "said"),
    [
        ("https://8.8.4.4/", (), frozenset({NODE}), "address_refused", "8.8.4.4 is this node's own address"),
        ("https://8.8.4.4/", (), frozenset({OTHER}), "permitted", "8.8.4.4 is dialled"),
        ("https://8.8.4.4/", (), None, "permitted", "8.8.4.4 is dialled, if it is not the node's own: the node does not say"),
        ("https://b.com/", (NODE,), frozenset({NODE}), "address_refused", "8.8.4.4 is this node's own address"),
        ("https://b.com/", (NODE,), frozenset({OTHER}), "permitted", "8.8.4.4 is dialled"),
        ("https://b.com/", (ipaddress.ip_address("10.0.0.9"),), frozenset(), "address_refused", "10.0.0.9 is a special-use"),
        ("https://b.com/", (), frozenset({NODE, ipaddress.ip_address("8.8.8.8")}), "permitted", "only for a real request"),
    ],
)  # fmt: skip
def test_an_address_that_is_known_without_a_look_up_is_screened_as_the_node_does(
    url: str, found: tuple[Address, ...], own: frozenset[Address] | None, reason: str, said: str
) -> None:
    answer = explained(SNAPSHOT, "r", "GET", url, {}, found=found, own=own)
    assert answer["reason"] == reason
    assert said in next(step["detail"] for step in answer["steps"] if step["step"] == "address")


SUPPOSED = ("token", "task", "flow", "address", "audit")


def test_a_permit_passes_every_step_that_can_be_known() -> None:
    answer = told("GET", "https://a.com/x/y?z=1")
    assert (answer["decision"], answer["reason"], answer["capability"], answer["credential"]) == (
        "permit",
        "permitted",
        "c",
        "k",
    )
    assert outcomes(answer) == {step: "supposed" if step in SUPPOSED else "pass" for step in STEPS}
    assert [step["step"] for step in answer["steps"]] == list(STEPS)


@pytest.mark.parametrize(
    ("method", "url", "reason", "step"),
    [
        ("DELETE", "https://a.com/x", Reason.POLICY_DENIED, "policy"),
        ("POST", "https://a.com/x", Reason.NO_CAPABILITY, "capability"),
        ("GET", "https://a.com/other", Reason.NO_CAPABILITY, "capability"),
        ("GET", "https://a.com:8443/x", Reason.NO_CAPABILITY, "capability"),
        ("GET", "http://a.com/x", Reason.NO_CAPABILITY, "capability"),
        ("GET", "https://a.com/x/../y", Reason.PATH_AMBIGUOUS, "names"),
        ("GET", "https://a_b.com/", Reason.NAME_INVALID, "names"),
        ("GET", "https://127.1/", Reason.NAME_INVALID, "names"),
        ("TRACE", "https://a.com/x", Reason.METHOD_INVALID, "names"),
        ("GET", "https://10.0.0.1/", Reason.ADDRESS_REFUSED, "address"),
        ("GET", "https://x.wide.com/", Reason.CREDENTIAL_NOT_PINNED, "credential"),
    ],
)
def test_a_refusal_names_its_step_and_what_follows_is_not_reached(
    method: str, url: str, reason: Reason, step: str
) -> None:
    answer = told(method, url)
    assert (answer["decision"], answer["reason"]) == ("deny", reason.value)
    assert answer["next"]
    found = outcomes(answer)
    assert found[step] == "stop"
    assert all(found[later] == "not_reached" for later in STEPS[STEPS.index(step) + 1 :])
    assert all(found[earlier] in ("pass", "supposed") for earlier in STEPS[: STEPS.index(step)])


def test_an_address_that_stands_in_the_url_is_screened() -> None:
    assert outcomes(told("GET", "https://8.8.4.4/"))["address"] == "pass"
    assert outcomes(told("GET", "https://10.0.0.2/"))["address"] == "pass"


def test_what_is_revoked_or_missing_is_told() -> None:
    revoked = Snapshot(version="1", rules=RULES, sealed={"k": b"x"}, revoked=Revoked(capabilities=frozenset({"c"})))
    assert told("GET", "https://a.com/x", revoked)["reason"] == "capability_revoked"
    revoked = Snapshot(version="1", rules=RULES, sealed={"k": b"x"}, revoked=Revoked(credentials=frozenset({"k"})))
    assert told("GET", "https://a.com/x", revoked)["reason"] == "credential_revoked"
    assert told("GET", "https://a.com/x", Snapshot(version="1", rules=RULES))["reason"] == "credential_unavailable"
    assert told("GET", "https://a.com/x", role="broken")["reason"] == "role_invalid"


def test_headers_that_change_the_request_count() -> None:
    assert told("GET", "https://b.com/", Upgrade="websocket")["decision"] == "permit"
    assert "WebSocket" in told("GET", "https://a.com/x", Upgrade="WebSocket")["detail"]


@pytest.mark.parametrize(
    "url",
    ["", "a.com", "ftp://a.com/", "https://", "https://user@a.com/", "https://a.com:x/", "https://a.com/a b", "https://a.com/\n",
     "https://[::1", "https://é.com/", "https://a.com/" + "x" * 20000],
)  # fmt: skip
def test_what_is_no_url_is_invalid(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        told("GET", url)
    assert len(caught.value.detail) < 300


def test_an_unknown_role_is_not_found_and_the_nearest_is_named() -> None:
    with pytest.raises(NotFound, match=r"there is no role 'brokn' \(did you mean broken\?\)"):
        told("GET", "https://a.com/", role="brokn")


def test_the_two_halves_take_an_opinion_from_elsewhere() -> None:
    begun = explain.begin(SNAPSHOT, "r", "GET", "https://a.com/x", {})
    assert isinstance(begun, Candidate)
    assert explain.conclude(SNAPSHOT, begun, Opinion(failure="took too long")).as_json()["reason"] == "policy_failed"
    assert explain.conclude(SNAPSHOT, begun, Opinion()).as_json()["decision"] == "permit"


BELOW = compiler.rules(
    manifests.from_json(
        [
            manifest("Role", "top", capabilities=["a", "b"], delegates=["mid"], maxDepth=2, budgets=[{"requests": 5}]),
            manifest("Role", "mid", capabilities=["a", "b"], delegates=["low"]),
            manifest("Role", "low", capabilities=["a", "b"]),
            manifest("Capability", "a", hosts=["a.com"]),
            manifest("Capability", "b", hosts=["b.com"]),
        ]
    )
)


def test_what_each_task_above_says_is_told() -> None:
    first = Task(id="t-aaaaaaaaaa", role="top", state=State.RUNNING, cell=1, created=datetime(2026, 1, 1, tzinfo=UTC))
    second = replace(first, id="t-bbbbbbbbbb", role="mid", cell=2, parent=first.id, capabilities=frozenset({"a"}))
    third = replace(first, id="t-cccccccccc", role="low", cell=3, parent=second.id)
    snapshot = Snapshot(version="1", rules=BELOW, tasks={one.id: one for one in (first, second, third)})
    begun = explain.begin(snapshot, "low", "GET", "https://a.com/", {}, third)
    assert isinstance(begun, Candidate)
    begun = explain.with_usage(begun, [])
    assert [(one["budget"], one["limit"]) for one in begun.usage] == [("role/top/requests", 5)]
    answer = explain.conclude(snapshot, begun, Opinion()).as_json()
    assert answer["decision"] == "permit"
    assert [(one["task"], one["capability"]) for one in answer["above"]] == [(second.id, "a"), (first.id, "a")]
    refused = explain.begin(snapshot, "low", "GET", "https://b.com/", {}, third)
    assert isinstance(refused, explain.Explanation)
    answer = refused.as_json()
    assert (answer["decision"], answer["reason"]) == ("deny", "not_delegated")
    assert [(one["role"], one["capability"], one["detail"]) for one in answer["above"]] == [
        ("mid", None, "b: was not given to this task"),
        ("top", "b", "b covers it"),
    ]


ASKING = compiler.rules(
    manifests.from_json(
        [
            manifest("Role", "asks", capabilities=["ask", "each"]),
            manifest("Capability", "ask", hosts=["a.com"], approval="ask"),
            manifest("Capability", "each", hosts=["b.com"], approval="always-ask"),
        ]
    )
)
ASKED_AT = datetime(2026, 1, 1, tzinfo=UTC)
ASKER = Task(id="t-bbbbbbbbbb", role="asks", state=State.RUNNING, cell=1, created=ASKED_AT)


def asked_again(
    url: str, *grants: grant.Grant, now: datetime = ASKED_AT, running: Task | None = ASKER, method: str = "GET"
) -> dict[str, Any]:
    snapshot = Snapshot(version="1", rules=ASKING, tasks={ASKER.id: ASKER}, grants={ASKER.id: grants})
    begun = explain.begin(snapshot, "asks", method, url, {}, running)
    assert isinstance(begun, Candidate)
    return explain.conclude(snapshot, begun, Opinion(), now=now).as_json()


def granted(url: str, scope: Scope, **narrower: Any) -> grant.Grant:
    snapshot = Snapshot(version="1", rules=ASKING, tasks={ASKER.id: ASKER})
    begun = explain.begin(snapshot, "asks", "GET", url, {}, ASKER)
    assert isinstance(begun, Candidate)
    shown = approval.question(begun, Opinion())
    assert shown is not None
    made = {"identity": "g-aaaaaaaaaa", "approval": "a-aaaaaaaaaa", "author": "alice", "now": ASKED_AT}
    return grant.narrowed(shown, scope, **made, **narrower)


def test_a_grant_in_force_for_the_task_answers_what_a_human_would_be_asked() -> None:
    given = granted("https://a.com/x", Scope.PREFIX)
    answer = asked_again("https://a.com/x/y?z=1", given)
    assert (answer["decision"], answer["grant"]) == ("permit", given.id)
    (note,) = (step["detail"] for step in answer["steps"] if step["step"] == "approval")
    assert note == (
        "alice allowed it: GET https://a.com:443/x and below, any query, headers and body, until 2026-01-01 01:00:00Z"
        " (grant g-aaaaaaaaaa)"
    )


def test_a_grant_answers_nothing_else() -> None:
    given = granted("https://a.com/x", Scope.PREFIX)
    spent, revoked = grant.advance(given, grant.Event.SPEND), grant.advance(given, grant.Event.REVOKE)
    once = granted("https://b.com/x", Scope.ONCE)
    for answer in (
        asked_again("https://a.com/x"),
        asked_again("https://a.com/y", given),
        asked_again("https://a.com/x", given, method="POST"),
        asked_again("https://a.com/x", given, now=ASKED_AT + timedelta(hours=1)),
        asked_again("https://a.com/x", spent, revoked),
        asked_again("https://a.com/x", given, running=None),
        asked_again("https://b.com/y", once),
    ):
        assert (answer["decision"], answer["reason"], answer["grant"]) == ("hold", "approval_required", None)
    assert asked_again("https://b.com/x", once)["grant"] == once.id
    near = asked_again("https://a.com/y", given)["detail"]
    assert "grant g-aaaaaaaaaa has only GET https://a.com:443/x and below" in near
