"""Policies refuse when they object, and when they cannot be asked."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.core.decision import Opinion
from remit.core.snapshot import Policy
from remit.policy import memo, rego


def policy(body: str, name: str = "p") -> Policy:
    module = f"package remit.{name}\nimport rego.v1\n{body}\n"
    return Policy(name=name, module=module, package=f"remit.{name}", invalid="; ".join(rego.lint(name, module)) or None)


def judged(body: str, document: dict[str, Any]) -> Opinion:
    found = policy(body)
    return rego.Bundle({"p": found}).evaluate(["p"], json.dumps(document))


DOCUMENT = {"request": {"method": "GET", "host": "api.a.com", "path": "/x"}, "address": "10.1.2.3"}


@pytest.mark.parametrize(
    ("body", "denials"),
    [
        ('deny contains {"msg": "no"} if input.request.method == "GET"', ["no"]),
        ('deny contains "plain" if true', ["plain"]),
        ("deny := true", ["true"]),
        ("default deny := false", []),
        ('deny contains {"msg": "no"} if input.request.method == "PUT"', []),
        ('deny contains "n" if regex.match("^api", input.request.host)', ["n"]),
        ('deny contains "n" if glob.match("*.a.com", ["."], input.request.host)', ["n"]),
        ('deny contains "n" if glob.match("*.com", ["."], input.request.host)', []),
        ('deny contains "n" if net.cidr_contains("10.0.0.0/8", input.address)', ["n"]),
        ('deny contains "n" if net.cidr_contains("10.0.0.0/8", "::ffff:10.0.0.1")', ["n"]),
        ('deny contains sprintf("a%sb", ["\\n\\u001b"]) if true', ["a  b"]),
    ],
)  # fmt: skip
def test_what_a_policy_says_is_heard(body: str, denials: list[str]) -> None:
    opinion = judged(body, DOCUMENT)
    assert opinion.failure is None
    assert [said for _, said in opinion.denials] == denials


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ('obligations := {"launch": {}} if true', "unknown obligation 'launch'"),
        ('obligations := {"headers": {"authorization": "x"}} if true', "may not set 'authorization'"),
        ('obligations := {"headers": {"x-remit-pin": "x"}} if true', "may not set 'x-remit-pin'"),
        ('obligations := {"headers": {"x-a": "a\\r\\nb"}} if true', "is not printable text"),
        ('obligations := "x" if true', "obligations is not an object"),
        ("deny contains 1 if nope(1)", "could not find function nope"),
    ],
)
def test_what_cannot_be_done_or_understood_is_a_failure(body: str, failure: str) -> None:
    assert failure in (judged(body, DOCUMENT).failure or "")


def test_a_policy_that_is_not_there_or_an_input_too_large_is_a_failure() -> None:
    bundle = rego.Bundle({})
    assert "does not exist" in (bundle.evaluate(["gone"], "{}").failure or "")
    assert "over" in (bundle.evaluate([], json.dumps("x" * rego.MAX_INPUT)).failure or "")


def test_obligations_reach_the_decision() -> None:
    body = 'obligations := {"audit": {"ticket": "T-1"}, "headers": {"x-change": "T-1"}} if input.request.path == "/x"'
    opinion = judged(body, DOCUMENT)
    assert (opinion.notes, opinion.headers) == ({"ticket": "T-1"}, {"x-change": "T-1"})


@pytest.mark.parametrize(
    "body",
    [
        "deny contains 1 if input.x == 1; time.now_ns() > 0",
        "deny contains 1 if input",
        "deny contains input if true",
        "deny contains 1 if input.usage.count > 3",
        "deny contains 1 if input[input.key] == 1",
        "deny contains 1 if rand.intn(\"a\", 3) == 1",
        "f(x) := x.a\ndeny contains 1 if f(input) == 1",
    ],
)  # fmt: skip
def test_what_depends_on_more_than_named_paths_is_not_remembered(body: str) -> None:
    assert memo.Memo({"p": policy(body)}).key(("p",), DOCUMENT) is None


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "a", "1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=4,
)
_BODIES = [
    'deny contains "1" if input.a == input.b.a',
    'deny contains "2" if input["a"]["b"]',
    'deny contains "3" if { some x in input.a; x == input.b }',
    'deny contains "4" if not input.a',
    'deny contains "5" if count(object.keys(input.b)) > 1',
    'r := input.a\ndeny contains "6" if r.b == 1',
    'deny contains "7" if { some k; input.a[k] == input.b[k] }',
]


@given(body=st.sampled_from(_BODIES), documents=st.lists(st.fixed_dictionaries({}, optional={"a": _VALUES, "b": _VALUES, "c": _VALUES}), min_size=2, max_size=8))  # fmt: skip
def test_a_remembered_opinion_is_the_one_a_fresh_evaluation_gives(body: str, documents: list[dict[str, Any]]) -> None:
    found = policy(body)
    bundle, remembered = rego.Bundle({"p": found}), memo.Memo({"p": found})
    for document in documents:
        fresh = bundle.evaluate(["p"], json.dumps(document))
        key = remembered.key(("p",), document)
        assert key is not None
        known = remembered.get(key)
        assert known is None or known == fresh
        remembered.put(key, fresh)
