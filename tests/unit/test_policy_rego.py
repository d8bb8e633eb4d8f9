"""Policies refuse when they object, and when they cannot be asked."""

import json
import time
from typing import Any

import pytest

from remit.core.decision import Opinion
from remit.core.snapshot import Policy
from remit.policy import complexity, rego


def policy(body: str, name: str = "p") -> Policy:
    return Policy(name=name, module=f"package remit.{name}\nimport rego.v1\n{body}\n", package=f"remit.{name}")


def judged(body: str, document: dict[str, Any]) -> Opinion:
    return rego.Bundle([policy(body)]).evaluate(["p"], json.dumps(document))


def flaws(body: str) -> str:
    return "; ".join(map(str, rego.lint(policy(body).module)))


DOCUMENT = {"request": {"method": "GET", "host": "api.a.com", "path": "/x"}, "address": "10.1.2.3"}


@pytest.mark.parametrize(
    ("body", "denials"),
    [
        ('deny contains {"msg": "no"} if input.request.method == "GET"', ["no"]),
        ('deny contains "plain" if true', ["plain"]),
        ("deny := true", ["true"]),
        ("deny := null", ["null"]),
        ("deny := 0", ["0"]),
        ('deny := ""', [""]),
        ('deny := {"msg": "one"}', ["one"]),
        ('deny[x] := "y" if { x := "k" }', ['{"k": "y"}']),
        ("default deny := false", []),
        ('deny contains {"msg": {"a": 1}} if true', ['{"a": 1}']),
        ('deny contains {"msg": "no"} if input.request.method == "PUT"', []),
        ('deny contains "n" if regex.match("^api", input.request.host)', ["n"]),
        ('deny contains "n" if glob.match("*.a.com", ["."], input.request.host)', ["n"]),
        ('deny contains "n" if glob.match("*.com", ["."], input.request.host)', []),
        ('deny contains "n" if glob.match("*.com", null, input.request.host)', ["n"]),
        ('deny contains "n" if net.cidr_contains("10.0.0.0/8", input.address)', ["n"]),
        ('deny contains "n" if net.cidr_contains("10.0.0.0/8", "::ffff:10.0.0.1")', ["n"]),
        ('deny contains "n" if net.cidr_contains("::ffff:10.0.0.0/104", "10.0.0.1")', ["n"]),
        ('deny contains "n" if net.cidr_contains("10.0.0.0/8", "2001:db8::1")', []),
        ('deny contains "n" if net.cidr_contains("10.0.0.0/8", "10.0.0.0/7")', []),
        ('deny contains sprintf("a%sb", ["\\n\\u001b\\u202e"]) if true', ["a   b"]),
    ],
)
def test_what_a_policy_says_is_heard(body: str, denials: list[str]) -> None:
    opinion = judged(body, DOCUMENT)
    assert opinion.failure is None
    assert [said for _, said in opinion.denials] == denials


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ('obligations := {"launch": {}} if true', "unknown obligation 'launch'"),
        ('obligations := {"audit": 1} if true', "obligation audit is not an object"),
        ('obligations := {"headers": {"authorization": "x"}} if true', "may not set 'authorization'"),
        ('obligations := {"headers": {"cookie": "x"}} if true', "may not set 'cookie'"),
        ('obligations := {"headers": {"x-remit-pin": "x"}} if true', "may not set 'x-remit-pin'"),
        ('obligations := {"headers": {"X-A": "x"}} if true', "may not set 'X-A'"),
        ('obligations := {"headers": {"range": "bytes=0-1"}} if true', "may not set 'range'"),
        ('obligations := {"headers": {":path": "x"}} if true', "may not set ':path'"),
        ('obligations := {"headers": {"x-a": "a\\r\\nb"}} if true', "is not printable text"),
        ('obligations := {"headers": {"x-a": 1}} if true', "is not printable text"),
        ('obligations := {"audit": {"a": "é"}} if true', "is not printable text"),
        ('obligations := {"audit": {sprintf("k%d", [x]): "v" | some x in numbers.range(1, 17)}}', "more than 16"),
        ('obligations := "x" if true', "obligations is not an object"),
        ("deny contains 1 if nope(1)", "found nope"),
        ("deny contains 1 if { 1 / 0 == 1 }", "divide by zero"),
        ("deny := 1\ndeny := 2", "conflicts"),
        ('deny contains 1 if net.cidr_contains("10.0.0.0/8", input.request.host)', "cannot be evaluated"),
        ("a := b\nb := a\ndeny contains a", "cannot be evaluated"),
    ],
)
def test_what_cannot_be_done_or_understood_is_a_failure(body: str, failure: str) -> None:
    opinion = judged(body, DOCUMENT)
    assert failure in (opinion.failure or "")
    assert opinion.failure is not None
    assert len(opinion.failure) < 600
    assert opinion.failure.isprintable()


def test_a_policy_that_is_not_there_or_broken_or_asked_too_much_is_a_failure() -> None:
    broken = Policy(
        name="b", module="package remit.b\ndeny := false", package="remit.b", invalid="its manifest is broken"
    )
    bundle = rego.Bundle([broken])
    assert "does not exist" in (bundle.evaluate(["gone"], "{}").failure or "")
    assert "its manifest is broken" in (bundle.evaluate(["b"], "{}").failure or "")
    assert "over" in (bundle.evaluate([], json.dumps("x" * rego.MAX_INPUT)).failure or "")
    assert "cannot be evaluated" in (rego.Bundle([policy("deny := false")]).evaluate(["p"], "not json").failure or "")


def test_a_lone_surrogate_in_the_input_is_a_failure_and_the_next_input_is_heard() -> None:
    bundle = rego.Bundle([policy('deny contains "x" if input.a == "a"')])
    assert bundle.evaluate(["p"], json.dumps({"a": "\ud800"})).failure
    assert bundle.evaluate(["p"], json.dumps({"a": "a"})).denials == (("p", "x"),)


def test_nothing_of_one_input_stays_for_the_next() -> None:
    bundle = rego.Bundle(
        [policy('deny contains input.a if input.a\nobligations := {"audit": {"n": input.b}} if input.b')]
    )
    assert bundle.evaluate(["p"], '{"a": "1", "b": "x"}').notes == {"n": "x"}
    assert bundle.evaluate(["p"], "{}") == Opinion()


def test_obligations_reach_the_decision_and_may_not_contradict() -> None:
    body = 'obligations := {"audit": {"ticket": "T-1"}, "headers": {"x-change": "T-1"}} if input.request.path == "/x"'
    opinion = judged(body, DOCUMENT)
    assert (opinion.notes, opinion.headers) == ({"ticket": "T-1"}, {"x-change": "T-1"})
    other = policy('obligations := {"headers": {"x-change": "T-2"}}', "q")
    both = rego.Bundle([policy(body), other]).evaluate(["p", "q"], json.dumps(DOCUMENT))
    assert both.failure == "q: obligation headers.x-change contradicts another policy's"
    assert both.headers == {}


def test_a_flood_of_messages_is_cut_and_still_denies() -> None:
    opinion = judged(
        'deny contains sprintf("%d%s", [x, input.long]) if some x in numbers.range(1, 500)', {"long": "x" * 999}
    )
    assert len(opinion.denials) == 16
    assert {len(said) for _, said in opinion.denials} == {400}


@pytest.mark.parametrize("crowd", [["p"], ["p", "q"]])
def test_what_a_human_should_be_asked_is_not_crowded_out(crowd: list[str]) -> None:
    each = 'hold contains {"msg": sprintf("unusual: %s", [part])} if some part in split(input.query, "&")'
    known = rego.Bundle([policy(each), policy(each, "q"), policy('hold contains "a payment" if true', "z")])

    def asked(parts: int) -> Opinion:
        query = "&".join(f"k{n}=1" for n in range(parts))
        return known.evaluate([*crowd, "z"], json.dumps({"query": query}))

    few = asked(15 // len(crowd))
    assert few.failure is None and few.holds[-1] == ("z", "a payment")
    assert "more than 16 reasons to hold it" in str(asked(16).failure)


def test_reasons_that_begin_alike_are_not_one() -> None:
    held = [judged("hold contains input.query if true", {"query": "x" * 400 + end}).holds for end in ("", "a", "b")]
    assert [len(said) for ((_, said),) in held] == [400] * 3
    assert len(set(held)) == 3
    assert held[0] == (("p", "x" * 400),)


def test_a_denial_is_one_however_many_reasons_there_are_to_hold() -> None:
    opinion = judged('deny contains "no" if true\nhold contains n if some n in numbers.range(1, 40)', DOCUMENT)
    assert opinion.failure is None
    assert opinion.denials == (("p", "no"),)


def test_modules_do_not_see_each_other() -> None:
    spy = policy('deny contains "seen" if data.remit.q.secret', "p")
    bundle = rego.Bundle([spy, policy("secret := 1\ndeny := false", "q")])
    assert bundle.evaluate(["p", "q"], "{}") == Opinion()


@pytest.mark.parametrize(
    ("body", "flaw"),
    [
        ("deny contains 1 if http.send({})", "line 3: expected no call of http.send"),
        ("deny contains opa.runtime()", "no call of opa.runtime"),
        ('deny contains net.lookup_ip_addr("a")', "no call of net.lookup_ip_addr"),
        ("deny contains 1 if print(1)", "no call of print"),
        ('deny contains 1 if {\n  input.x\n  startwith(input.y, "a")\n}', "line 5: expected a function that exists, found startwith (did you mean startswith?)"),
        ("f(x) := f(x)\ndeny contains f(1)", "f calls itself"),
        ("f(x) := g(x)\ng(x) := data.remit.p.f(x)\ndeny contains f(1)", "calls itself"),
        ("deny(x) := 1", "expected deny to be a rule"),
        ("allow if true\ndeny := false", "no rule allow"),
        ("denies contains 1", "expected a rule named deny, hold or obligations (did you mean deny?)"),
        ("deny contains 1 if {", "expect"),
    ],
)  # fmt: skip
def test_a_flaw_is_found_without_evaluating(body: str, flaw: str) -> None:
    assert flaw in flaws(body)


@pytest.mark.parametrize(
    "text",
    ["", "deny := true", "package x\ndeny := true", "package remit\ndeny := true", 'package remit["a"]\ndeny := true',
     "# package remit.a\npackage evil\ndeny := true", "package remitx.a\ndeny := true", "import rego.v1"],
)  # fmt: skip
def test_a_module_without_a_package_below_remit_is_refused(text: str) -> None:
    assert 'expected a package below "remit"' in str(rego.lint(text)[0])
    assert rego.package(text) is None


@pytest.mark.parametrize("text", ["package remit.a", "# note\n\npackage remit.a.b # why\n", "\tpackage  remit.a\r\n"])
def test_a_package_is_read_past_comments(text: str) -> None:
    assert rego.package(text) is not None


BOMBS = {
    "nested arrays": "deny := " + "[" * 40 + "]" * 40,
    "nested objects": "deny := " + '{"x":' * 40 + "1" + "}" * 40,
    "nested calls over lines": "deny := " + "f(\n" * 3000 + "1" + ")" * 3000,
    "a chain of minus over lines": "deny := " + "-\n" * 1900 + "1",
    "a chain of plus over lines": "deny := 1" + "\n+1" * 1900,
    "a chain of plus hidden by commas": "deny := 1" + "\n+ f(1, 2)" * 1000,
    "a chain of in": "deny := x" + "\nin x" * 1900,
    "a chain of dots": "deny := a" + ".b" * 400,
    "many nested arrays": "deny := [" + ",\n".join("[" * 11 + "1" + "]" * 11 for _ in range(500)) + "]",
    "too long": "deny := false\n" + "# x\n" * 30000,
    "a long line": "deny := false # " + "x" * 2000,
    "an open string": 'deny := "',
    "another alphabet": "deny := ü",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_text_that_would_hang_or_end_the_engine_is_not_shown_to_it(bomb: str) -> None:
    began = time.monotonic()
    (flaw,) = rego.lint(f"package remit.p\n{bomb}\n")
    assert flaw.expected.startswith("expected")
    assert complexity.objection(f"package remit.p\n{bomb}\n") == (flaw.row, flaw.expected)
    assert time.monotonic() - began < 2


def test_ordinary_modules_are_far_below_the_limits() -> None:
    rules = "\n".join(
        f'deny contains {{"msg": sprintf("no %s", [input.request.path])}} if {{\n'
        f'  input.request.method in {{"POST", "PUT"}}\n  not startswith(input.request.path, "/a{n}")\n'
        f'  some x in input.request.headers\n  x != "y"\n}}'
        for n in range(200)
    )
    assert rego.lint(f"package remit.p\n{rules}\n") == ()
    hosts = ",\n".join(f'"h{n}.example.com"' for n in range(1500))
    assert (
        rego.lint(f"package remit.p\nhosts := {{\n{hosts}\n}}\ndeny contains 1 if input.request.host in hosts\n") == ()
    )
