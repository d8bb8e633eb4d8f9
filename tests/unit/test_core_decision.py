"""The order of a decision: the first reason that applies is the one that is given."""

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from remit.core import decision, paths
from remit.core.capability import Approval, Capability, Index, Protocol
from remit.core.claims import Claims
from remit.core.credential import Credential
from remit.core.decision import Candidate, Opinion, Permit
from remit.core.injections.header import HeaderInjection
from remit.core.reason import MEANING, STEPS, Reason, Refusal
from remit.core.request import Request
from remit.core.snapshot import Revoked, Role, Rules, Snapshot
from remit.core.task import State, Task

TASK = Task(id="t-aaaaaaaaaa", role="r", state=State.RUNNING, cell=7, created=datetime(2026, 1, 1, tzinfo=UTC))
CLAIMS = Claims(trust_domain="d", role="r", task="t-aaaaaaaaaa", jti="j", issued=0, expires=1)
REQUEST = Request(
    method="GET", protocol=Protocol.HTTPS, host="a.com", port=443, path="/x", query="", target="/x", websocket=False,
    flow="100.64.0.7:1024", cell=7, headers={},
)  # fmt: skip
CAPABILITY = Capability(name="c", hosts=("a.com",), credentials=("k",), matchers=(paths.compiled("/**"),))
CREDENTIAL = Credential(name="k", secret="s", injection=HeaderInjection(header="x-key"), hosts=("a.com",))
PUBLIC = ip_address("1.1.1.1")


def known(
    *, task: Task | None = TASK, capability: Capability = CAPABILITY, credential: Credential | None = CREDENTIAL,
    role_invalid: str | None = None, revoked: Revoked = Revoked(), role_known: bool = True,
) -> Snapshot:  # fmt: skip
    role = Role(name="r", capabilities=(capability,), index=Index((capability,)), invalid=role_invalid)
    return Snapshot(
        version="1",
        rules=Rules(roles={"r": role} if role_known else {}, capabilities={"c": capability}, credentials={"k": credential} if credential else {}),
        tasks={task.id: task} if task else {},
        revoked=revoked,
    )  # fmt: skip


def candidate(snapshot: Snapshot) -> Candidate:
    found = decision.admit(snapshot, CLAIMS, REQUEST)
    assert isinstance(found, Candidate), found
    return found


@pytest.mark.parametrize(
    ("facts", "claims", "request_", "reason"),
    [
        ({"task": None}, {}, {}, Reason.TASK_UNKNOWN),
        ({"task": replace(TASK, state=State.REVOKED)}, {}, {}, Reason.TASK_REVOKED),
        ({"task": replace(TASK, state=State.ENDED)}, {}, {}, Reason.TASK_REVOKED),
        ({"task": replace(TASK, state=State.EXITED)}, {}, {}, Reason.TASK_ENDED),
        ({"task": replace(TASK, state=State.FAILED)}, {}, {}, Reason.TASK_ENDED),
        ({"task": replace(TASK, state=State.STOPPED)}, {}, {}, Reason.TASK_ENDED),
        ({}, {"role": "admin"}, {}, Reason.TOKEN_INVALID),
        ({}, {"task": "t-bbbbbbbbbb"}, {}, Reason.TASK_UNKNOWN),
        ({}, {}, {"cell": 8}, Reason.FLOW_MISMATCH),
        ({"task": replace(TASK, state=State.REVOKED)}, {"role": "admin"}, {"cell": 8}, Reason.TASK_REVOKED),
        ({"role_known": False}, {}, {}, Reason.ROLE_INVALID),
        ({"role_invalid": "is broken"}, {}, {}, Reason.ROLE_INVALID),
        ({}, {}, {"host": "b.com"}, Reason.NO_CAPABILITY),
        ({}, {}, {"port": 80}, Reason.NO_CAPABILITY),
        ({}, {}, {"websocket": True}, Reason.NO_CAPABILITY),
        ({"capability": replace(CAPABILITY, invalid="broken")}, {}, {}, Reason.NO_CAPABILITY),
        ({"revoked": Revoked(capabilities=frozenset({"c"}))}, {}, {}, Reason.CAPABILITY_REVOKED),
        ({"credential": None}, {}, {}, Reason.CREDENTIAL_UNAVAILABLE),
        ({"credential": replace(CREDENTIAL, invalid="broken")}, {}, {}, Reason.CREDENTIAL_UNAVAILABLE),
    ],
)  # fmt: skip
def test_who_may_not_ask_is_refused_for_the_first_reason(
    facts: dict[str, Any], claims: dict[str, Any], request_: dict[str, Any], reason: Reason
) -> None:
    found = decision.admit(known(**facts), replace(CLAIMS, **claims), replace(REQUEST, **request_))
    assert isinstance(found, Refusal)
    assert found.reason is reason
    assert found.detail


def test_a_pending_task_has_authority() -> None:
    assert isinstance(decision.admit(known(task=replace(TASK, state=State.PENDING)), CLAIMS, REQUEST), Candidate)


@pytest.mark.parametrize(
    ("opinion", "reason"),
    [
        (Opinion(), None),
        (Opinion(notes={"a": "b"}, headers={"x": "y"}), None),
        (Opinion(denials=(("p", "no"),)), Reason.POLICY_DENIED),
        (Opinion(holds=(("p", "wait"),)), None),
        (Opinion(denials=(("p", "no"),), holds=(("p", "wait"),)), Reason.POLICY_DENIED),
        (Opinion(denials=(("p", "no"),), failure="late"), Reason.POLICY_FAILED),
        (Opinion(failure=""), Reason.POLICY_FAILED),
    ],
)
def test_any_objection_refuses_and_a_failure_is_one_and_a_hold_is_asked_about(
    opinion: Opinion, reason: Reason | None
) -> None:
    found = decision.judge(candidate(known()), opinion)
    assert (found.reason if found else None) is reason


@pytest.mark.parametrize(
    ("found", "facts", "opinion", "reason"),
    [
        (("1.1.1.1",), {}, Opinion(), None),
        ((), {}, Opinion(), Reason.NAME_UNRESOLVED),
        (("10.0.0.1",), {}, Opinion(), Reason.ADDRESS_REFUSED),
        (("1.1.1.1", "169.254.169.254"), {}, Opinion(), Reason.ADDRESS_REFUSED),
        (("10.0.0.1",), {"capability": replace(CAPABILITY, addresses=(ip_network("10.0.0.0/8"),))}, Opinion(), None),
        (("169.254.169.254",), {"capability": replace(CAPABILITY, addresses=(ip_network("169.254.0.0/16"),))}, Opinion(), Reason.ADDRESS_REFUSED),
        (("1.1.1.1",), {"revoked": Revoked(credentials=frozenset({"k"}))}, Opinion(), Reason.CREDENTIAL_REVOKED),
        (("10.0.0.1",), {"revoked": Revoked(credentials=frozenset({"k"}))}, Opinion(), Reason.ADDRESS_REFUSED),
        (("1.1.1.1",), {"credential": replace(CREDENTIAL, hosts=("b.com",))}, Opinion(), Reason.CREDENTIAL_NOT_PINNED),
        (("1.1.1.1",), {"credential": replace(CREDENTIAL, hosts=("*.a.com",))}, Opinion(), Reason.CREDENTIAL_NOT_PINNED),
        (("1.1.1.1",), {}, Opinion(headers={"x-key": "forged"}), Reason.POLICY_FAILED),
        (("1.1.1.1",), {}, Opinion(headers={"x-other": "fine"}), None),
    ],
)  # fmt: skip
def test_a_permit_needs_an_address_and_a_credential_that_fit(
    found: tuple[str, ...], facts: dict[str, Any], opinion: Opinion, reason: Reason | None
) -> None:
    snapshot = known(**facts)
    granted = decision.grant(snapshot, candidate(snapshot), opinion, tuple(map(ip_address, found)))
    if reason is None:
        assert isinstance(granted, Permit)
        assert str(granted.address) == found[0]
    else:
        assert isinstance(granted, Refusal)
        assert granted.reason is reason


def test_every_reason_has_its_meaning_and_reasons_come_in_the_order_of_the_steps() -> None:
    assert set(MEANING) == set(Reason)
    assert {meaning.step for meaning in MEANING.values()} <= set(STEPS)
    assert all(meaning.title and (meaning.next or reason is Reason.PERMITTED) for reason, meaning in MEANING.items())
    assert all(meaning.status >= 400 for reason, meaning in MEANING.items() if reason is not Reason.PERMITTED)


def test_a_name_that_leads_back_to_the_node_is_refused_unless_the_capability_names_it() -> None:
    found = (ip_address("2606:4700::1"), PUBLIC)
    refused = decision.grant(known(), candidate(known()), Opinion(), found, frozenset({PUBLIC}))
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.ADDRESS_REFUSED
    assert "this node's own address" in refused.detail
    named = known(capability=replace(CAPABILITY, addresses=(ip_network("1.1.1.1/32"),)))
    assert isinstance(decision.grant(named, candidate(named), Opinion(), found, frozenset({PUBLIC})), Permit)


@pytest.mark.parametrize(
    "what",
    [
        {"protocol": Protocol.TCP},
        {"protocol": Protocol.TLS},
        {"path": "/a//b"},
        {"path": "/a%2fb"},
        {"host": "delegate.remit.alt"},
    ],
)
def test_nobody_is_asked_about_what_nobody_could_say_the_extent_of(what: dict[str, Any]) -> None:
    role = Role(name="r", ask_uncovered=True)
    snapshot = Snapshot(version="1", rules=Rules(roles={"r": role}), tasks={TASK.id: TASK})
    other = {"protocol": Protocol.HTTPS, "host": "b.com", "path": "/x", **what}
    found = decision.admit(snapshot, CLAIMS, replace(REQUEST, **other))
    assert isinstance(found, Refusal)
    assert found.reason is Reason.NO_CAPABILITY
    plain = decision.admit(snapshot, CLAIMS, replace(REQUEST, host="b.com"))
    assert isinstance(plain, Candidate)
    assert (plain.capability.approval, plain.capability.paths) == (Approval.ASK, ("/x",))
