"""A remembered opinion is the one that a fresh evaluation would give: never another task's, query's, port's or version's."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from remit.core.decision import Opinion
from remit.core.snapshot import Policy
from remit.policy import rego
from remit.policy.memo import Memo

# Every way to read the input that people write, over a small space of paths so that collisions are likely.
_PATHS = ("input.request.path", 'input.request["path"]', "input.request.port", "input.identity.task", "input.request.query",
          "input.request.headers.accept", 'input["request"]["method"]', "input.capability.credential", "r.host", "i.role",
          "input.request.headers", "input.request.websocket")  # fmt: skip
_VALUES = ('"a"', '"b"', '""', "443", "true", "null", '"t-aaaaaaaaaa"', "1")
_CONDITIONS = st.one_of(
    st.builds("{} == {}".format, st.sampled_from(_PATHS), st.sampled_from(_VALUES)),
    st.builds("{} == {}".format, st.sampled_from(_PATHS), st.sampled_from(_PATHS)),
    st.builds("not {}".format, st.sampled_from(_PATHS)),
    st.builds('{} in {{"a", 443, null}}'.format, st.sampled_from(_PATHS)),
    st.builds('sprintf("%v", [{}]) == "a"'.format, st.sampled_from(_PATHS)),
    st.builds("f({})".format, st.sampled_from(_PATHS)),
    st.builds("some x in {}; x == {}".format, st.sampled_from(_PATHS), st.sampled_from(_VALUES)),
    st.builds("every x in [{}] {{ x != {} }}".format, st.sampled_from(_PATHS), st.sampled_from(_VALUES)),
    st.builds("count({{x | x := {}}}) == 1".format, st.sampled_from(_PATHS)),
    st.builds("object.get({}, \"accept\", \"a\") == {}".format, st.just("input.request.headers"), st.sampled_from(_VALUES)),
    st.builds("helper with input.request.path as {}".format, st.sampled_from(_VALUES)),
    st.builds("input.request.headers[{}]".format, st.sampled_from(_PATHS)),
    st.builds("x := {}; x == {}".format, st.sampled_from(_PATHS), st.sampled_from(_VALUES)),
)  # fmt: skip
_HEAD = 'import rego.v1\nimport input.request as r\nimport input.identity as i\nf(x) if x == "a"\nhelper if input.request.path == "a"\n'


@st.composite
def modules(draw: st.DrawFn, name: str) -> Policy:
    rules = []
    for number in range(draw(st.integers(1, 3))):
        body = "; ".join(draw(st.lists(_CONDITIONS, min_size=1, max_size=3)))
        kind = draw(st.sampled_from(("deny", "hold")))
        said = draw(st.sampled_from((f'"{number}"', f'sprintf("%v", [{draw(st.sampled_from(_PATHS))}])')))
        rules.append(f"{kind} contains {said} if {{ {body} }}")
    if draw(st.booleans()):
        rules.append(f'obligations := {{"audit": {{"n": sprintf("%v|", [{draw(st.sampled_from(_PATHS))}])}}}}')
    text = f"package remit.{name}\n{_HEAD}" + "\n".join(rules) + "\n"
    return Policy(name=name, module=text, package=f"remit.{name}")


_TEXT = st.sampled_from(["a", "b", "", "t-aaaaaaaaaa", "1", "443", "true"])
_DOCUMENTS = st.fixed_dictionaries(
    {
        "identity": st.fixed_dictionaries({"task": _TEXT, "role": _TEXT}),
        "request": st.fixed_dictionaries(
            {"path": _TEXT, "port": st.sampled_from([443, 80, 1]), "query": _TEXT, "method": _TEXT, "host": _TEXT, "websocket": st.booleans(),
             "headers": st.fixed_dictionaries({}, optional={"accept": _TEXT, "a": _TEXT})}
        ),
        "capability": st.fixed_dictionaries({"credential": st.none() | _TEXT}),
    }
)  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(one=modules("p"), two=modules("q"), documents=st.lists(_DOCUMENTS, min_size=2, max_size=10))
def test_a_remembered_opinion_is_a_fresh_one(one: Policy, two: Policy, documents: list[dict[str, Any]]) -> None:
    bundle = rego.Bundle()
    reads = {policy.name: bundle.add(policy) for policy in (one, two)}
    assume(not any(rego.lint(policy.module) for policy in (one, two)))
    memo = Memo(reads)
    for names in (("p",), ("p", "q"), ("q",)):
        for document in documents:
            fresh = rego.Bundle([one, two]).evaluate(names, json.dumps(document))
            assert bundle.evaluate(names, json.dumps(document)) == fresh
            key = memo.key(names, document)
            assert key is not None, "only constant paths are read"
            known = memo.get(key)
            assert known is None or known == fresh
            memo.put(key, fresh)


def reads(body: str) -> frozenset[tuple[str, ...]] | None:
    return rego.Bundle().add(Policy(name="p", module=f"package remit.p\nimport rego.v1\n{body}\n", package="remit.p"))


@pytest.mark.parametrize(
    "body",
    [
        "deny contains 1 if input.x == 1; time.now_ns() > 0",
        'deny contains 1 if time.weekday(1) == "Monday"',
        "deny contains 1 if input",
        "deny contains input if true",
        "deny contains 1 if input.usage.count > 3",
        "deny contains 1 if input.time.hour > 3",
        "deny contains 1 if input[input.key] == 1",
        "deny contains 1 if { some k; input[k] == 1 }",
        "deny contains 1 if { x := input; x.y == 1 }",
        'deny contains 1 if object.get(input, ["a"], 1) == 1',
        'deny contains 1 if walk(input, [["a"], 1])',
        'deny contains 1 if rand.intn("a", 3) == 1',
        'deny contains uuid.rfc4122("a")',
        "f(x) := x.a\ndeny contains 1 if f(input) == 1",
        "import input as everything\ndeny contains 1 if everything.a",
        "deny contains 1 if helper\nhelper if { some x in input; x == 1 }",
        "deny contains 1 if { every k, v in input { k != v } }",
        "deny contains [x | x := input[_]]",
    ],
)
def test_what_depends_on_more_than_named_paths_is_not_remembered(body: str) -> None:
    assert reads(body) is None


def test_the_longest_constant_path_is_what_is_read() -> None:
    assert reads('deny contains 1 if { input.a["b"][`c`].d == 1; input.e[input.f.g].h; some x in input.i.j }') == {
        ("a", "b", "c", "d"), ("e",), ("f", "g"), ("i", "j"),
    }  # fmt: skip


def test_values_that_json_tells_apart_are_told_apart() -> None:
    memo = Memo({"p": frozenset({("a", "b")})})
    values: list[Any] = [1, True, "1", None, 1.0, 0, False, "", [], {}, [1], {"0": 1}, "absent"]
    documents: list[Any] = [{"a": {"b": value}} for value in values] + [{"a": {}}, {"a": 1}]
    keys = [memo.key(("p",), document) for document in documents]
    assert keys[-1] == keys[-2]  # absent either way, and undefined to the policy either way
    assert len(set(keys[:-1])) == len(documents) - 1


def test_what_is_not_known_broken_or_long_has_no_key() -> None:
    memo = Memo({"p": frozenset({("a",)}), "q": None})
    assert memo.key(("p",), {"a": "x"}) is not None
    assert memo.key(("p", "q"), {"a": "x"}) is None
    assert memo.key(("gone",), {"a": "x"}) is None
    assert memo.key(("p",), {"a": "x" * 513}) is None


def test_failures_are_not_remembered_and_the_oldest_is_forgotten_first() -> None:
    memo = Memo({"p": frozenset({("a",)})})
    memo.put("k", Opinion(failure="no"))
    assert memo.get("k") is None
    for number in range(8193):
        memo.put(number, Opinion())
    assert memo.get(0) is None
    assert memo.get(8192) == Opinion()
