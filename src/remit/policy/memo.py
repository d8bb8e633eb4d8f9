"""Remembered opinions, each under everything it depends on.

The key is the exact value at every input path that the applying policies read (`policy.ast`), and the set of policies;
a memo is for one version of the rules and is thrown away with it. Attacks: an answer for another task, query, port or
version of the rules; a memory filled with one agent's paths.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

from remit.core.decision import Opinion
from remit.policy import ast

CAPACITY = 8192
MAX_TEXT = 512
"""Characters of one text in a key: a longer one is not worth its memory."""


class Memo:
    """For one version of the rules. `reads`: by policy, see `rego.Analysis.reads`; a policy not in it is not known.

    Failures are never remembered.
    """

    def __init__(self, reads: Mapping[str, frozenset[ast.Path] | None]) -> None:
        self._reads = dict(reads)
        self._plans: dict[tuple[str, ...], tuple[ast.Path, ...] | None] = {}
        self._kept: OrderedDict[Hashable, Opinion] = OrderedDict()

    def key(self, names: tuple[str, ...], given: Mapping[str, Any]) -> Hashable | None:
        """The key of an evaluation, or None where its result must not be remembered."""
        if names not in self._plans:
            self._plans[names] = self._plan(names)
        plan = self._plans[names]
        if plan is None:
            return None
        try:
            return (names, *(_value(given, path) for path in plan))
        except OverflowError:
            return None

    def get(self, key: Hashable) -> Opinion | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: Hashable, opinion: Opinion) -> None:
        if opinion.failure is None:
            self._kept[key] = opinion
            if len(self._kept) > CAPACITY:
                self._kept.popitem(last=False)

    def _plan(self, names: tuple[str, ...]) -> tuple[ast.Path, ...] | None:
        paths: set[ast.Path] = set()
        for name in names:
            reads = self._reads.get(name)
            if reads is None:
                return None
            paths |= reads
        return tuple(sorted(paths))


def _value(given: Any, path: ast.Path) -> Hashable:
    """The value at a path, hashable and with its type (JSON's 1, true and 1.0 differ); absent is a value of its own."""
    for step in path:
        if not isinstance(given, Mapping) or step not in given:
            return ("absent",)
        given = given[step]
    return _frozen(given)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return ("object", *sorted((_frozen(key), _frozen(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return ("array", *(_frozen(item) for item in value))
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise OverflowError
    return (type(value).__name__, value)
