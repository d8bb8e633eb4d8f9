"""What a Rego module reads and calls, from its syntax tree.

A decision may be remembered only under everything it depends on. The tree names every place where `input` is read: the
longest constant path from it is what the result can depend on (a dynamic step makes it depend on all below). Anything
that is not a function of the input (time, randomness) makes the module unfit for memory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]

UNSTEADY = ("time.", "rand.", "uuid.", "http.", "net.lookup", "opa.", "print", "trace")
"""Builtins (prefixes) whose result is not a function of their arguments."""


@dataclass(frozen=True, slots=True)
class Tree:
    """`reads`: constant paths below `input`, `()` for all of it. `calls`: dotted names. `rules`: names of rules."""

    reads: frozenset[Path]
    calls: frozenset[str]
    rules: frozenset[str]

    @property
    def memorable(self) -> bool:
        """Whether a result may be remembered under the values at `reads`."""
        unsteady = any(call.startswith(UNSTEADY) for call in self.calls)
        return not unsteady and not any(path[:1] in ((), ("time",), ("usage",)) for path in self.reads)


def parse(text: str) -> Tree:
    """From regorus' `get_ast_as_json`. Raises `ValueError` where its shape is not the one known here."""
    reads: set[Path] = set()
    calls: set[str] = set()
    rules: set[str] = set()
    for module in json.loads(text):
        tree = module["ast"]
        for rule in tree["rules"]:
            name = _head(rule)
            if name:
                rules.add(name)
        _walk(tree, reads, calls)
    return Tree(frozenset(reads), frozenset(calls), frozenset(rules))


def _walk(node: Any, reads: set[Path], calls: set[str]) -> None:
    if isinstance(node, list):
        for item in node:
            _walk(item, reads, calls)
        return
    if not isinstance(node, dict):
        return
    steps = _steps(node)
    if steps is not None:
        root, path, inner = steps
        if root == "input":
            reads.add(path)
        for item in inner:
            _walk(item, reads, calls)
        return
    if "Call" in node:
        callee = _steps(node["Call"]["fcn"])
        if callee is None:
            raise ValueError("a call of something that has no name")
        calls.add(".".join((callee[0], *callee[1])))
    for value in node.values():
        _walk(value, reads, calls)


def _steps(node: dict[str, Any]) -> tuple[str, Path, list[Any]] | None:
    """(variable, constant path, dynamic parts that were stepped over) of a reference, or None where it is none."""
    if "Var" in node:
        return str(node["Var"]["value"]), (), []
    if "RefDot" in node:
        field, inner = node["RefDot"]["field"][1], _steps(node["RefDot"]["refr"])
        constant: str | None = str(field)
        dynamic: list[Any] = []
    elif "RefBrack" in node:
        index, inner = node["RefBrack"]["index"], _steps(node["RefBrack"]["refr"])
        constant = str(index["String"]["value"]) if "String" in index else None
        dynamic = [] if constant is not None else [index]
    else:
        return None
    if inner is None:
        return None
    root, path, met = inner
    if constant is None or met:
        return root, path, [*met, *(dynamic or [True])]
    return root, (*path, constant), []


def _head(rule: dict[str, Any]) -> str | None:
    spec = rule.get("Spec") or rule.get("Default")
    if spec is None:
        return None
    refr = spec.get("refr")
    if refr is None:
        head = next(iter(spec["head"].values()))
        refr = head.get("refr")
    steps = _steps(refr) if refr else None
    return steps[0] if steps else None
