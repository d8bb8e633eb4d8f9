"""A child has a part of its parent's authority, as it is now, and the reason is told where it would have more."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import pytest

from remit.core import decision, delegation, observe, paths
from remit.core.capability import Approval, Capability, Index, Protocol
from remit.core.claims import Claims
from remit.core.paths import Ambiguity
from remit.core.reason import Reason, Refusal
from remit.core.request import Request
from remit.core.snapshot import Revoked, Role, Rules, Snapshot
from remit.core.task import State, Task

CAPABILITY = Capability(name="c", hosts=("a.com",), matchers=(paths.compiled("/**"),))
PARENT = Task(id="t-aaaaaaaaaa", role="p", state=State.RUNNING, cell=1, created=datetime(2026, 1, 1, tzinfo=UTC))
CHILD = replace(PARENT, id="t-bbbbbbbbbb", role="q", cell=2, parent=PARENT.id)
CLAIMS = Claims(trust_domain="d", role="q", task=CHILD.id, jti="j", issued=0, expires=1, parent=PARENT.id)
REQUEST = Request(
    method="GET", protocol=Protocol.HTTPS, host="a.com", port=443, path="/x", query="", target="/x", websocket=False,
    flow="100.64.0.2:1024", cell=2, headers={},
)  # fmt: skip


def role(name: str, *capabilities: Capability, **more: Any) -> Role:
    return Role(name=name, capabilities=capabilities, index=Index(capabilities), **more)


def known(
    *, parent: Task | None = PARENT, above: Capability | None = CAPABILITY, below: Capability = CAPABILITY,
    revoked: Revoked = Revoked(), child: Task = CHILD, **more: Any,
) -> Snapshot:  # fmt: skip
    rights = {"delegates": frozenset({"q"}), **more}
    roles = {"p": role("p", *((above,) if above else ()), **rights), "q": role("q", below)}
    return Snapshot(
        rules=Rules(roles=roles), tasks={one.id: one for one in (parent, child) if one is not None}, revoked=revoked
    )


def test_a_child_within_its_parent_is_admitted_and_its_chain_is_told() -> None:
    found = decision.admit(known(), CLAIMS, REQUEST)
    assert isinstance(found, decision.Candidate)
    assert delegation.chain(found.above) == {"parent": PARENT.id, "chain": [PARENT.id]}


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"parent": None}, Reason.PARENT_ENDED),
        ({"parent": replace(PARENT, state=State.REVOKED)}, Reason.PARENT_ENDED),
        ({"parent": replace(PARENT, state=State.EXITED)}, Reason.PARENT_ENDED),
        ({"revoked": Revoked(roles=frozenset({"p"}))}, Reason.PARENT_ENDED),
        ({"invalid": "is broken"}, Reason.PARENT_ENDED),
        ({"delegates": frozenset({"other"})}, Reason.NOT_DELEGATED),
        ({"max_depth": 0}, Reason.NOT_DELEGATED),
        ({"policies": ("strict",)}, Reason.NOT_DELEGATED),
        ({"four_eyes": True}, Reason.NOT_DELEGATED),
        ({"above": None}, Reason.NOT_DELEGATED),
        ({"above": replace(CAPABILITY, hosts=("b.com",))}, Reason.NOT_DELEGATED),
        ({"above": replace(CAPABILITY, methods=frozenset({"POST"}))}, Reason.NOT_DELEGATED),
        ({"above": replace(CAPABILITY, matchers=(paths.compiled("/y"),))}, Reason.NOT_DELEGATED),
        ({"above": replace(CAPABILITY, ports=frozenset({8443}))}, Reason.NOT_DELEGATED),
        ({"above": replace(CAPABILITY, protocol=Protocol.HTTP)}, Reason.NOT_DELEGATED),
        ({"above": replace(CAPABILITY, credentials=("k",))}, Reason.NOT_DELEGATED),
        ({"above": replace(CAPABILITY, approval=Approval.ASK)}, Reason.NOT_DELEGATED),
        ({"below": replace(CAPABILITY, addresses=(ip_network("10.0.0.0/8"),))}, Reason.NOT_DELEGATED),
        (
            {"above": replace(CAPABILITY, name="w"), "revoked": Revoked(capabilities=frozenset({"w"}))},
            Reason.NOT_DELEGATED,
        ),
        ({"child": replace(CHILD, parent=CHILD.id)}, Reason.TOKEN_INVALID),
    ],
)
def test_what_the_parent_may_not_the_child_may_not(facts: dict[str, Any], reason: Reason) -> None:
    found = decision.admit(known(**facts), CLAIMS, REQUEST)
    assert isinstance(found, Refusal), found
    assert found.reason is reason


def test_a_token_of_the_parent_is_worth_nothing_in_the_cell_of_its_child() -> None:
    stolen = replace(CLAIMS, role="p", task=PARENT.id, parent=None)
    found = decision.admit(known(), stolen, REQUEST)
    assert isinstance(found, Refusal)
    assert found.reason is Reason.FLOW_MISMATCH


def test_tasks_in_a_circle_have_no_authority() -> None:
    first, second = replace(PARENT, role="q", parent=CHILD.id), CHILD
    circle = role("q", CAPABILITY, delegates=frozenset({"q"}), max_depth=8)
    snapshot = Snapshot(rules=Rules(roles={"q": circle}), tasks={first.id: first, second.id: second})
    found = decision.admit(snapshot, CLAIMS, REQUEST)
    assert isinstance(found, Refusal)
    assert found.reason is Reason.NOT_DELEGATED


def test_a_role_that_is_wider_as_written_is_named_with_what_is_wider() -> None:
    wide = replace(CAPABILITY, methods=frozenset({"GET"}))
    found = delegation.beyond(role("p", wide, delegates=frozenset({"q"})), role("q", CAPABILITY))
    assert found is not None
    assert "capability c is not within role p" in found.detail
    assert delegation.beyond(role("p", CAPABILITY, delegates=frozenset({"q"})), role("q", wide)) is None


OTHER = replace(CAPABILITY, name="d", hosts=("b.com",), matchers=CAPABILITY.matchers)
ELSEWHERE = replace(REQUEST, host="b.com")


def narrowed(*, held: frozenset[str] | None = None, given: frozenset[str] | None = None, **more: Any) -> Snapshot:
    """Two tasks of roles that have both capabilities, of which they were given these."""
    roles = {
        "p": role("p", CAPABILITY, OTHER, delegates=frozenset({"q"})),
        "q": role("q", CAPABILITY, OTHER, **more),
    }
    tasks = (replace(PARENT, capabilities=held), replace(CHILD, capabilities=given))
    return Snapshot(rules=Rules(roles=roles), tasks={one.id: one for one in tasks})


@pytest.mark.parametrize("more", [{}, {"ask_uncovered": True}, {"observe": True}])
def test_what_a_task_was_not_given_it_has_not_and_nobody_is_asked(more: dict[str, Any]) -> None:
    snapshot = narrowed(given=frozenset({"c"}), **more)
    assert isinstance(decision.admit(snapshot, CLAIMS, REQUEST), decision.Candidate)
    found = decision.admit(snapshot, CLAIMS, ELSEWHERE)
    assert isinstance(found, Refusal)
    assert (found.reason, "d: was not given to this task" in found.detail) == (Reason.NO_CAPABILITY, True)
    alone = replace(snapshot.tasks[CHILD.id], parent=None)
    known = replace(snapshot, tasks={alone.id: alone})
    assert observe.uncovered(known, replace(CLAIMS, parent=None), ELSEWHERE, found) is None


def test_what_a_parent_was_not_given_its_child_has_not() -> None:
    snapshot = narrowed(held=frozenset({"c"}))
    assert isinstance(decision.admit(snapshot, CLAIMS, REQUEST), decision.Candidate)
    found = decision.admit(snapshot, CLAIMS, ELSEWHERE)
    assert isinstance(found, Refusal)
    assert found.reason is Reason.NOT_DELEGATED


def test_a_task_that_was_given_little_hands_on_no_more() -> None:
    roles = narrowed().rules.roles
    both, one = frozenset({"c", "d"}), frozenset({"c"})
    for held, given, fits in (
        (None, None, True),
        (both, None, True),
        (one, None, False),
        (one, one, True),
        (one, both, False),
    ):
        found = delegation.beyond(roles["p"], roles["q"], held=held, given=given)
        assert (found is None) is fits, (held, given, found)


def handing_on(**more: Any) -> Snapshot:
    """A parent that has `d` only to hand it on, above a child that has it."""
    own = frozenset({"c", "(delegate)"})
    roles = {
        "p": role("p", CAPABILITY, OTHER, delegates=frozenset({"q"}), own=own, **more),
        "q": role("q", OTHER),
    }
    return Snapshot(rules=Rules(roles=roles), tasks={PARENT.id: PARENT, CHILD.id: CHILD})


@pytest.mark.parametrize("more", [{}, {"ask_uncovered": True}, {"observe": True}])
def test_what_a_task_has_only_to_hand_on_it_may_not_use_but_its_child_may(more: dict[str, Any]) -> None:
    snapshot = handing_on(**more)
    mine = replace(CLAIMS, role="p", task=PARENT.id, parent=None)
    assert isinstance(decision.admit(snapshot, mine, replace(REQUEST, cell=1)), decision.Candidate)
    asked = replace(ELSEWHERE, cell=1)
    found = decision.admit(snapshot, mine, asked)
    assert isinstance(found, Refusal)
    assert (found.reason, "only to delegate it" in found.detail) == (Reason.DELEGATE_ONLY, True)
    assert observe.uncovered(snapshot, mine, asked, found) is None
    assert isinstance(decision.admit(snapshot, CLAIMS, ELSEWHERE), decision.Candidate)
    assert delegation.beyond(snapshot.rules.roles["p"], snapshot.rules.roles["q"]) is None


def test_what_was_not_given_is_not_handed_on() -> None:
    snapshot = handing_on()
    parent = replace(PARENT, capabilities=frozenset({"c"}))
    snapshot = replace(snapshot, tasks={parent.id: parent, CHILD.id: CHILD})
    mine = replace(CLAIMS, role="p", task=PARENT.id, parent=None)
    found = decision.admit(snapshot, mine, replace(ELSEWHERE, cell=1))
    assert isinstance(found, Refusal)
    assert found.reason is Reason.NO_CAPABILITY
    found = decision.admit(snapshot, CLAIMS, ELSEWHERE)
    assert isinstance(found, Refusal)
    assert found.reason is Reason.NOT_DELEGATED


NETWORK = ip_network("10.0.0.0/9")
WIDE = replace(
    CAPABILITY, hosts=("*.a.com", "b.com"), ports=frozenset({443, 8443}), methods=frozenset({"GET", "HEAD"}),
    paths=("/v1/**", "/x"), credentials=("k",), addresses=(NETWORK,), ambiguous=frozenset({Ambiguity.EMPTY_SEGMENT}),
    websocket=True, approval=Approval.ASK, matchers=CAPABILITY.matchers,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hosts": ("x.a.com", "*.y.a.com", "b.com")}, None),
        ({"hosts": ("a.com",)}, "host a.com"),
        ({"hosts": ("*.b.com",)}, "host *.b.com"),
        ({"hosts": ("*.com",)}, "host *.com"),
        ({"ports": frozenset({443})}, None),
        ({"ports": frozenset({443, 80})}, "port 80"),
        ({"methods": frozenset({"GET"})}, None),
        ({"methods": frozenset({"GET", "DELETE"})}, "method DELETE"),
        ({"methods": frozenset()}, "method any"),
        ({"paths": ("/v1/a/*", "/x")}, None),
        ({"paths": ("/v2/**",)}, "path /v2/**"),
        ({"paths": ("/x/**",)}, "path /x/**"),
        ({"websocket": False}, None),
        ({"ambiguous": frozenset()}, None),
        ({"ambiguous": frozenset({Ambiguity.ENCODED_SLASH})}, "ambiguity encodedSlash"),
        ({"protocol": Protocol.HTTP}, "protocol http"),
        ({"protocol": Protocol.TCP}, "protocol tcp"),
        ({"invalid": "is broken"}, "one of them is invalid"),
        ({"credentials": ()}, "has it with credential k, not with no credential"),
        ({"credentials": ("k", "l")}, "has it with credential k, not with credential k or l"),
        ({"approval": Approval.ALWAYS_ASK}, None),
        ({"approval": Approval.NEVER}, "has it with approval ask, not never"),
        ({"addresses": ()}, None),
        ({"addresses": (ip_network("10.1.0.0/16"),)}, None),
        ({"addresses": (ip_network("10.0.0.0/8"),)}, "does not reach addresses 10.0.0.0/8"),
        ({"addresses": (ip_network("10.128.0.0/9"),)}, "does not reach addresses 10.128.0.0/9"),
        ({"addresses": (ip_network("::a00:0/110"),)}, "does not reach addresses ::a00:0/110"),
    ],
)  # fmt: skip
def test_a_capability_is_wider_in_one_dimension(change: dict[str, Any], why: str | None) -> None:
    found = delegation.narrower(WIDE, replace(WIDE, name="n", matchers=WIDE.matchers, **change))
    assert (found and found.detail) == (why and f"n within c: {why}")


def test_what_only_the_child_has_makes_it_wider() -> None:
    plain = replace(WIDE, websocket=False, credentials=(), matchers=WIDE.matchers)
    for change, why in (({"websocket": True}, "websocket"), ({"credentials": ("k",)}, "no credential, not")):
        found = delegation.narrower(plain, replace(plain, matchers=plain.matchers, **change))
        assert found is not None
        assert why in found.detail
    unread = replace(WIDE, protocol=Protocol.TCP, matchers=WIDE.matchers)
    assert delegation.narrower(unread, replace(unread, methods=frozenset(), paths=("/**",))) is None, "nobody reads it"


@pytest.mark.parametrize(
    ("parent", "child", "held", "given", "fits"),
    [
        (False, False, None, None, True),
        (True, True, None, None, True),
        (False, True, None, None, False),
        (False, True, None, frozenset({"c"}), True),
        (True, True, frozenset({"c"}), None, False),
    ],
)
def test_who_may_ask_for_more_has_a_parent_that_may(
    parent: bool, child: bool, held: frozenset[str] | None, given: frozenset[str] | None, fits: bool
) -> None:
    above = role("p", CAPABILITY, delegates=frozenset({"q"}), ask_uncovered=parent)
    found = delegation.beyond(above, role("q", CAPABILITY, ask_uncovered=child), held=held, given=given)
    assert (found and found.detail) == (None if fits else "role q may ask for more, role p may not")


@pytest.mark.parametrize(
    ("above", "max_depth", "why"),
    [
        (1, 1, None),
        (2, 1, "role r delegates 1 levels deep, this is level 2"),
        (2, 2, None),
        (3, 2, "role r delegates 2 levels deep, this is level 3"),
        (delegation.MAX_DEPTH, 99, None),
        (delegation.MAX_DEPTH + 1, 99, f"more than {delegation.MAX_DEPTH} tasks stand above task t-"),
    ],
)
def test_a_chain_is_as_deep_as_everybody_in_it_allows(above: int, max_depth: int, why: str | None) -> None:
    one = role("r", CAPABILITY, delegates=frozenset({"r"}), max_depth=max_depth)
    ids = [f"t-{letter * 10}" for letter in "abcdefghijkl"[: above + 1]]
    tasks = [
        replace(PARENT, id=own, role="r", cell=number, parent=ids[number - 2] if number > 1 else None)
        for number, own in enumerate(ids, start=1)
    ]
    found = delegation.lineage(Snapshot(rules=Rules(roles={"r": one}), tasks={t.id: t for t in tasks}), tasks[-1], one)
    if why is None:
        assert not isinstance(found, Refusal)
        assert [each.task.id for each in found] == ids[-2::-1]
        assert delegation.chain(found)["chain"] == ids[:-1]
    else:
        assert isinstance(found, Refusal)
        assert (found.reason, found.detail.startswith(why)) == (Reason.NOT_DELEGATED, True)


def test_what_a_task_was_given_adds_nothing_to_what_its_role_may_use_itself() -> None:
    keeps = role("q", CAPABILITY, OTHER, own=frozenset({"c"}))
    assert delegation.usable(keeps, None) == frozenset({"c"})
    assert delegation.usable(keeps, frozenset({"c", "d"})) == frozenset({"c"})
    assert delegation.usable(keeps, frozenset({"d"})) == frozenset()
    assert delegation.usable(role("q", CAPABILITY), None) is None
