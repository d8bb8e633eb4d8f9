"""A snapshot travels whole, shows any change, and carries broken documents as rules that refuse."""

import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from remit.core.capability import Protocol
from remit.core.errors import Invalid
from remit.core.snapshot import Revoked
from remit.core.task import State, Task
from remit.policy import compile as compiler
from remit.policy import manifests, snapshot

API = "remit.dev/v1alpha1"


def manifest(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}


HEADER = {"header": {"name": "Authorization", "format": "Bearer {secret}"}}
DOCUMENTS = [
    manifest("Role", "r", capabilities=["c"], policies=["p"], env={"A": "b"}, limits={"memory": "1Gi", "time": "1h30m"}),
    manifest("Capability", "c", hosts=["a.com", "*.b.com"], methods=["GET"], paths=["/x/*"], credential="k", addresses=["10.0.0.0/8"]),
    manifest("Credential", "k", hosts=["a.com", "*.b.com"], inject=HEADER, placeholder={"env": "T", "value": "x"}),
    manifest("Policy", "p", rego="package remit.p\ndeny := false\n"),
    manifest("Policy", "all", rego="package remit.all\ndeny := false\n", everywhere=True),
]  # fmt: skip
TASK = Task(
    id="t-aaaaaaaaaa", role="r", state=State.RUNNING, cell=7, created=datetime(2026, 1, 2, 3, tzinfo=UTC),
    command=("sh", "-c", "x" * 5000), operator="root", parent="t-bbbbbbbbbb", capabilities=frozenset({"c"}),
)  # fmt: skip


def sent(documents: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "epoch": 3, "documents": DOCUMENTS if documents is None else documents, "tasks": [TASK],
        "revoked": Revoked(capabilities=frozenset({"c"})), "keys": {"kid": b"x" * 32}, "sealed": {"k": b"\x00\xff"},
    }  # fmt: skip
    return json.loads(json.dumps(snapshot.dump(**{**fields, **changes})))


def test_it_arrives_as_it_was_sent() -> None:
    received = snapshot.load(sent(), None)
    assert received.epoch == 3
    assert received.rules == compiler.rules(manifests.from_json(DOCUMENTS))
    assert received.keys == {"kid": b"x" * 32}
    assert received.sealed == {"k": b"\x00\xff"}
    assert received.revoked.capabilities == {"c"}
    task = received.tasks["t-aaaaaaaaaa"]
    assert (task.role, task.cell, task.parent, task.operator, task.created) == (
        "r",
        7,
        "t-bbbbbbbbbb",
        "root",
        TASK.created,
    )
    assert task.command == ("sh", "-c", "x" * 200)


def test_rules_are_compiled_as_written() -> None:
    rules = snapshot.load(sent(), None).rules
    role, capability = rules.roles["r"], rules.capabilities["c"]
    assert role.policies == ("all", "p")
    assert (role.limits.memory_bytes, role.limits.time_s, role.limits.processes) == (1 << 30, 5400.0, 512)
    assert role.environment == {"A": "b"}
    match = role.index.match(
        protocol=Protocol.HTTPS, host="x.b.com", port=443, method="GET", path="/x/y", websocket=False
    )
    assert match.capability is capability
    assert [item.invalid for group in (rules.roles, rules.capabilities, rules.policies) for item in group.values()] == [
        None
    ] * 4


def test_compiled_rules_are_kept_while_the_documents_are_the_same() -> None:
    first = snapshot.load(sent(), None)
    second = snapshot.load(sent(epoch=4, tasks=[]), first)
    assert second.rules is first.rules
    assert second.tasks == {}
    third = snapshot.load(sent(DOCUMENTS[:4]), first)
    assert third.rules is not first.rules
    assert "all" not in third.rules.policies


def test_the_order_of_documents_and_their_status_do_not_change_the_digest() -> None:
    shuffled = [{**document, "status": {"n": n}} for n, document in enumerate(reversed(DOCUMENTS))]
    assert sent(shuffled)["digest"] == sent()["digest"]
    assert compiler.digest(manifests.from_json(DOCUMENTS)) == sent()["digest"]


def rehashed(document: dict[str, Any]) -> dict[str, Any]:
    body = {key: value for key, value in document.items() if key != "version"}
    return {"version": snapshot._version(body), **body}


def altered(path: list[Any], value: Any) -> dict[str, Any]:
    document = copy.deepcopy(sent())
    at: Any = document
    for step in path[:-1]:
        at = at[step]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [(["epoch"], 4), (["version"], "x"), (["version"], ...), (["documents", 0, "spec", "capabilities"], []), (["keys"], {}),
     (["tasks", 0, "state"], "exited"), (["revoked", "capabilities"], []), (["extra"], 1)],
)  # fmt: skip
def test_any_change_on_the_way_is_seen(path: list[Any], value: Any) -> None:
    with pytest.raises(Invalid, match="does not have the hash"):
        snapshot.load(altered(path, value), None)


@pytest.mark.parametrize(
    ("path", "value"),
    [(["epoch"], "3"), (["epoch"], True), (["epoch"], -1), (["epoch"], ...), (["documents"], {}), (["documents"], [1]), (["digest"], "x"),
     (["tasks"], [1]), (["tasks", 0, "id"], "t-1"), (["tasks", 0, "cell"], 0), (["tasks", 0, "cell"], "1"), (["tasks", 0, "cell"], True),
     (["tasks", 0, "cell"], 1 << 40), (["tasks", 0, "state"], "happy"), (["tasks", 0, "role"], "../r"), (["tasks", 0, "created"], "2026-01-01T00:00:00"),
     (["tasks", 0, "parent"], "x"), (["revoked"], []), (["revoked", "capabilities"], "c"), (["revoked", "capabilities"], [1]), (["revoked", "credentials"], ...),
     (["keys", "kid"], "AAAA"), (["keys", "kid"], "%%%"), (["sealed", "k"], 1)],
)  # fmt: skip
def test_a_malformed_snapshot_is_refused_whole(path: list[Any], value: Any) -> None:
    document = altered(path, value)
    with pytest.raises(Invalid, match=r"malformed|digest|document 0 is of no kind"):
        snapshot.load(rehashed(document), None)


def broken(*changes: tuple[int, str, Any]) -> Any:
    documents = copy.deepcopy(DOCUMENTS)
    for n, field, value in changes:
        documents[n]["spec"][field] = value
    return snapshot.load(sent(documents), None).rules


def test_a_broken_capability_refuses_and_says_why() -> None:
    rules = broken((1, "methods", ["get"]))
    match = rules.roles["r"].index.match(
        protocol=Protocol.HTTPS, host="a.com", port=443, method="GET", path="/x/y", websocket=False
    )
    assert match.capability is None
    assert "is invalid" in match.near[0]
    assert 'expected an HTTP method in upper case, found "get"' in match.near[0]


def test_a_broken_credential_breaks_the_capability_that_needs_it() -> None:
    rules = broken((2, "inject", {}))
    assert "exactly one of header, basic, query" in (rules.credentials["k"].invalid or "")
    assert "credential k is invalid" in (rules.capabilities["c"].invalid or "")


@pytest.mark.parametrize(("everywhere", "applies"), [(False, False), (True, True), ("yes", True), (None, True)])
def test_a_broken_policy_stays_and_applies_where_it_may_have_been_meant_to(everywhere: object, applies: bool) -> None:
    rules = broken((3, "rego", 5), (3, "everywhere", everywhere), (0, "policies", []))
    assert rules.policies["p"].invalid
    assert ("p" in rules.roles["r"].policies) is applies


def test_a_policy_without_a_readable_name_still_applies_everywhere() -> None:
    documents = [*DOCUMENTS, {"apiVersion": API, "kind": "Policy", "metadata": 5, "spec": {"everywhere": True}}]
    rules = snapshot.load(sent(documents), None).rules
    assert rules.roles["r"].policies == ("?5", "all", "p")
    assert rules.policies["?5"].invalid


def test_a_broken_role_is_invalid_and_a_role_that_names_nothing_too() -> None:
    assert "is invalid" in (broken((0, "limits", 5)).roles["r"].invalid or "")
    assert broken((0, "capabilities", ["gone"])).roles["r"].invalid == "names what does not exist: capability gone"


def test_documents_that_are_there_twice_are_broken() -> None:
    rules = snapshot.load(sent([*DOCUMENTS, DOCUMENTS[1]]), None).rules
    assert rules.capabilities["c"].invalid == "Capability c is there twice"


def test_a_kind_that_is_not_known_here_is_not_ignored() -> None:
    with pytest.raises(Invalid, match="no kind that is known here"):
        snapshot.load(sent([*DOCUMENTS, manifest("Budget", "b")]), None)


@pytest.mark.parametrize("rego", ["package other\ndeny := false", "", "deny := [" * 5000])
def test_a_policy_that_would_hang_the_engine_is_not_parsed_on_the_node(rego: str) -> None:
    documents = copy.deepcopy(DOCUMENTS)
    documents[3]["spec"]["rego"] = rego
    assert snapshot.load(sent(documents), None).rules.policies["p"].invalid


def test_plain_http_never_has_a_credential() -> None:
    assert broken((1, "protocol", "http")).capabilities["c"].invalid == "a credential never travels in the clear"
