"""Rego, through regorus: the only module that knows which engine runs the policies.

What the engine needs to be safe (each was found by breaking it): input goes in as JSON text, never as a dict (a lone
surrogate in one ends the process); what it raises can be outside `Exception`; unknown functions and recursion show
only on evaluation, recursion as the end of the process; its `net.cidr_contains` does not see the IPv4 address in a
mapped one. `lint` never evaluates anything. `Bundle` does, and a module can still loop or allocate: it belongs into a
process that can be killed (`node.policy_worker`). A document that is undefined, or an evaluation that fails, is a
failure and so a denial.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any

import regorus

from remit.core.decision import Opinion
from remit.core.snapshot import Policy
from remit.policy import ast, complexity, verdict

MAX_INPUT = 64 << 10
MAX_TREE = 32 << 20
FORBIDDEN = ("http.", "net.lookup", "opa.", "rego.", "trace", "print")
"""Builtins (prefixes) that a policy may not call: they reach outside, or tell about the process."""
ENTRY = frozenset({"deny", "hold", "obligations"})
"""The rules that are asked."""
_PACKAGE = re.compile(r"(?:\s|#[^\n]*\n)*package\s+(remit(?:\.[A-Za-z_][A-Za-z0-9_]*)+)\s*(?:#[^\n]*)?(?:\n|$)")
_ROW = re.compile(r"-->[^\n]*?:(\d+):\d+\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Flaw:
    """What keeps a module from being used. `row` counts from 1; 0 where it is not of one line."""

    row: int
    expected: str
    nearest: str = ""

    def __str__(self) -> str:
        near = f" (did you mean {self.nearest}?)" if self.nearest else ""
        return f"{f'line {self.row}: ' if self.row else ''}{self.expected}{near}"


@dataclass(frozen=True, slots=True)
class Analysis:
    """`tree` is None where the module does not parse."""

    package: str
    flaws: tuple[Flaw, ...]
    tree: ast.Tree | None = None

    @property
    def reads(self) -> frozenset[ast.Path] | None:
        """The input paths under whose values a result may be remembered; None where it must not be."""
        return self.tree.reads if self.tree is not None and not self.flaws and self.tree.memorable else None


def package(module: str) -> str | None:
    """`remit.…` of the module's package statement, or None where it has none. Reads text only."""
    found = _PACKAGE.match(module)
    return found[1] if found else None


def lint(module: str) -> tuple[Flaw, ...]:
    """What keeps a module from being used; empty where nothing does. Parses it, evaluates nothing."""
    return analysis(module).flaws


@lru_cache(maxsize=2048)
def analysis(module: str) -> Analysis:
    """All that can be known of a module without running it."""
    objection = complexity.objection(module)
    if objection is not None:
        return Analysis("", (Flaw(*objection),))
    where = package(module)
    if where is None:
        return Analysis("", (Flaw(1, 'expected a package below "remit", such as: package remit.example'),))
    try:
        engine = _engine(where, module)
        text = engine.get_ast_as_json()
        if len(text) > MAX_TREE:
            return Analysis(where, (Flaw(0, "expected a simpler module: its syntax tree is too large"),))
        tree = ast.parse(text)
    except BaseException as error:
        row, said = _said(error)
        return Analysis(where, (Flaw(row, said),))
    return Analysis(where, tuple(_flaws(where, tree)), tree)


class Bundle:
    """The modules of a set of policies, each in an engine of its own so that none can see or break another."""

    def __init__(self, policies: Iterable[Policy] = (), now_ns: Callable[[], int] | None = None) -> None:
        """`now_ns`: what policies are told when they ask for the time of a hypothetical; None: the time it is."""
        self._now_ns = now_ns
        self._policies: dict[str, Policy] = {}
        self._broken: dict[str, str] = {}
        self._engines: dict[str, Any] = {}
        for policy in policies:
            self.add(policy)

    def add(self, policy: Policy) -> frozenset[ast.Path] | None:
        """Take `policy` in, in place of one of the same name. What its results may be remembered under, or None."""
        self._policies[policy.name] = policy
        self._engines.pop(policy.name, None)
        found = analysis(policy.module)
        broken = policy.invalid or "; ".join(str(flaw) for flaw in found.flaws)
        if not broken:
            try:
                self._engines[policy.name] = _engine(found.package, policy.module, self._now_ns)
            except BaseException as error:
                broken = _said(error)[1]
        self._broken[policy.name] = broken
        return None if broken else found.reads

    def clear(self) -> None:
        """Forget every policy."""
        self._policies.clear()
        self._broken.clear()
        self._engines.clear()

    def evaluate(self, names: Iterable[str], given: str) -> Opinion:
        """What the named policies say of `given` (JSON text). Never raises."""
        if len(given) > MAX_INPUT:
            return Opinion(failure=f"the input of the policies is over {MAX_INPUT} bytes")
        said = verdict.Verdict()
        for name in names:
            document = self._document(name, given)
            failure = document if isinstance(document, str) else said.hear(name, document)
            if failure is not None:
                return Opinion(failure=f"{name}: {failure}")
        return said.opinion()

    def _document(self, name: str, given: str) -> dict[str, Any] | str:
        if name not in self._policies:
            return "the policy does not exist"
        if self._broken[name]:
            return f"cannot be used: {self._broken[name]}"
        query = f"data.{package(self._policies[name].module)}"
        try:
            engine = self._engines[name]
            engine.set_input_json(given)
            answer = json.loads(engine.eval_query_as_json(query))
            value = answer["result"][0]["expressions"][0]["value"]
        except Exception as error:
            return f"cannot be evaluated: {_said(error)[1]}"
        except BaseException as error:
            self.add(self._policies[name])  # a panic leaves the engine in a state that nobody knows
            return f"cannot be evaluated: {_said(error)[1]}"
        return value if isinstance(value, dict) else "its document is undefined"


def _flaws(where: str, tree: ast.Tree) -> Iterable[Flaw]:
    own = {name for function in tree.functions for name in (function, f"data.{where}.{function}")}
    for call, row in sorted(tree.calls.items(), key=lambda item: (item[1], item[0])):
        if call.startswith(FORBIDDEN):
            yield Flaw(row, f"expected no call of {call[:80]}: policies reach nothing outside their input")
        elif call not in own and call.partition(".")[0] not in tree.functions and call not in _builtins():
            near = get_close_matches(call[:80], [*_builtins(), *tree.functions], n=1)
            yield Flaw(row, f"expected a function that exists, found {call[:80]}", near[0] if near else "")
    circle = ast.recursive(tree.functions)
    if circle is not None:
        yield Flaw(0, f"expected no recursion: {circle[:80]} calls itself")
    for name in sorted(ENTRY & tree.functions.keys()):
        yield Flaw(0, f"expected {name} to be a rule, not a function: nothing calls it")
    if "allow" in tree.rules:
        yield Flaw(0, "expected no rule allow: capabilities allow, policies deny, hold or oblige", "deny")
    if not tree.rules & ENTRY:
        near = [n for rule in tree.rules for n in get_close_matches(rule, sorted(ENTRY), n=1)]
        yield Flaw(0, "expected a rule named deny, hold or obligations", near[0] if near else "")


def _engine(where: str, module: str, now_ns: Callable[[], int] | None = None) -> Any:
    engine = regorus.Engine()
    if now_ns is not None:
        engine.add_extension("time.now_ns", 0, now_ns)
    engine.add_extension("net.cidr_contains", 2, _cidr_contains)
    name = engine.add_policy("policy.rego", module)
    if name != f"data.{where}":
        raise ValueError(f"the package is {name}, its text says {where}")
    return engine


@cache
def _builtins() -> frozenset[str]:
    engine = regorus.Engine()
    engine.add_policy("builtins.rego", "package builtins\nnames := opa.runtime().builtins")
    names: list[str] = json.loads(engine.eval_rule_as_json("data.builtins.names"))
    return frozenset(name for name in names if not name.startswith(("__", *FORBIDDEN)))


def _cidr_contains(network: str, inner: str) -> bool:
    outer, held = _range(network), _range(inner)
    return bool(outer.version == held.version and held.subnet_of(outer))


def _range(text: str) -> Any:
    """A range, as IPv4 where it is one that is written as mapped IPv6 (RFC 4291 §2.5.5.2)."""
    found = ipaddress.ip_network(text, strict=False)
    if isinstance(found, ipaddress.IPv6Network) and found.network_address.ipv4_mapped and found.prefixlen >= 96:
        return ipaddress.ip_network(f"{found.network_address.ipv4_mapped}/{found.prefixlen - 96}")
    return found


def _said(error: BaseException) -> tuple[int, str]:
    """(row or 0, the engine's sentence) without its backtrace and without the text around the mistake."""
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error
    text = str(error).partition("Stack backtrace")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    row = _ROW.search(text)
    sentence = said[0] if said else lines[-1] if lines else type(error).__name__
    return int(row[1]) if row else 0, verdict.printable(sentence)
