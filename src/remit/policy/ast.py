"""What a Rego module reads, calls and defines, from its syntax tree.

An opinion may be remembered only under everything it depends on. The tree names every place where `input` is read: the
longest constant path from it is what the result can depend on (a dynamic step makes it depend on all below). Anything
that is not a function of the input (time, randomness) makes the module unfit for memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]

UNSTEADY = ("time.", "rand.", "uuid.", "http.", "net.lookup", "opa.", "print", "trace", "io.", "crypto.")
"""Builtins (prefixes) whose result is not a function of their arguments, or might not be."""
MAX_READS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """`reads`: constant paths below `input`, `()` for all of it. `calls`: dotted name → line of one such call.

    `rules`: names that the package's document has. `functions`: name → what its bodies call.
    """

    reads: frozenset[Path]
    calls: Mapping[str, int]
    rules: frozenset[str]
    functions: Mapping[str, frozenset[str]]

    @property
    def memorable(self) -> bool:
        """Whether a result may be remembered under the values at `reads`."""
        unsteady = any(call.startswith(UNSTEADY) for call in self.calls)
        whole = any(path[:1] in ((), ("time",), ("usage",)) for path in self.reads)
        return not unsteady and not whole and len(self.reads) <= MAX_READS


def parse(text: str) -> Tree:
    """From regorus' `get_ast_as_json`. Raises `ValueError` where its shape is not the one known here."""
    reads: set[Path] = set()
    calls: dict[str, int] = {}
    rules: set[str] = set()
    functions: dict[str, set[str]] = {}
    try:
        for module in json.loads(text):
            tree = module["ast"]
            package = ".".join(("data", *_reference(tree["package"]["refr"])[1]))
            package = f"data.{package}" if not package.startswith("data.") else package
            _walk(tree, reads, calls)
            for rule in tree["rules"]:
                name, function = _head(rule)
                if not function:
                    rules.add(name)
                    continue
                inner: dict[str, int] = {}
                _walk(rule, set(), inner)
                functions.setdefault(name, set()).update(inner)
    except (KeyError, TypeError, IndexError, AttributeError, StopIteration, RecursionError) as error:
        raise ValueError(f"the module's syntax tree has a shape that is not known: {error!r}") from error
    return Tree(
        reads=frozenset(reads),
        calls=calls,
        rules=frozenset(rules),
        functions={name: frozenset(inner) for name, inner in functions.items()},
    )


def recursive(functions: Mapping[str, frozenset[str]]) -> str | None:
    """A function that can call itself, directly or through others, or None. The engine overflows its stack on one."""
    for start in sorted(functions):
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for called in functions[waiting.pop()]:
                local = called.rpartition(".")[2]
                if local == start:
                    return start
                if local in functions and local not in seen:
                    seen.add(local)
                    waiting.append(local)
    return None


def _walk(node: Any, reads: set[Path], calls: dict[str, int]) -> None:
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if isinstance(current, list):
            waiting += current
            continue
        if not isinstance(current, dict):
            continue
        steps = _steps(current)
        if steps is not None:
            root, path, dynamic = steps
            if root == "input":
                reads.add(path)
            waiting += dynamic
            continue
        if "Call" in current:
            call = current["Call"]
            root, path = _reference(call["fcn"])
            calls.setdefault(".".join((root, *path)), int(call["span"]["line"]))
        waiting += current.values()


def _reference(node: dict[str, Any]) -> tuple[str, Path]:
    steps = _steps(node)
    if steps is None or steps[2]:
        raise ValueError("a name that is not constant")
    return steps[0], steps[1]


def _steps(node: dict[str, Any]) -> tuple[str, Path, list[Any]] | None:
    """(variable, longest constant path, what else was stepped through) of a reference, or None where it is none."""
    chain: list[tuple[str | None, Any]] = []
    current = node
    while True:
        if "Var" in current:
            break
        if "RefDot" in current:
            chain.append((str(current["RefDot"]["field"][1]), None))
            current = current["RefDot"]["refr"]
        elif "RefBrack" in current:
            index = current["RefBrack"]["index"]
            literal = index.get("String") or index.get("RawString")
            chain.append((None, index) if literal is None else (str(literal["value"]), None))
            current = current["RefBrack"]["refr"]
        else:
            return None
    path: list[str] = []
    dynamic: list[Any] = []
    constant = True
    for name, index in reversed(chain):
        constant = constant and name is not None
        if constant and name is not None:
            path.append(name)
        if index is not None:
            dynamic.append(index)
    return str(current["Var"]["value"]), tuple(path), dynamic


def _head(rule: dict[str, Any]) -> tuple[str, bool]:
    """(name of the rule, whether it is a function)."""
    if "Default" in rule:
        default = rule["Default"]
        return _name(default["refr"]), bool(default.get("args"))
    head = rule["Spec"]["head"]
    shape = next(iter(head))
    return _name(head[shape]["refr"]), shape == "Func"


def _name(refr: dict[str, Any]) -> str:
    return next(_roots(refr))


def _roots(node: dict[str, Any]) -> Iterator[str]:
    while "Var" not in node:
        node = next(iter(node.values()))["refr"]
    yield str(node["Var"]["value"])
