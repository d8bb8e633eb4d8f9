"""Operators and their tokens in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from remit.core.errors import Conflict
from remit.core.principal import Operator, OperatorToken


@dataclass(slots=True)
class OperatorRows:
    operators: dict[str, Operator] = field(default_factory=dict)
    tokens: dict[str, OperatorToken] = field(default_factory=dict)

    def copy(self) -> OperatorRows:
        return OperatorRows(operators=dict(self.operators), tokens=dict(self.tokens))


class MemoryOperators:
    """Implements `control.ports_operators.Operators`."""

    def __init__(self, rows: OperatorRows) -> None:
        self._rows = rows

    def all(self) -> Sequence[Operator]:
        return [self._rows.operators[name] for name in sorted(self._rows.operators)]

    def get(self, name: str) -> Operator | None:
        return self._rows.operators.get(name)

    def by_uid(self, uid: int) -> Operator | None:
        return next((one for one in self._rows.operators.values() if one.uid == uid), None)

    def add(self, operator: Operator) -> None:
        taken = operator.uid is not None and self.by_uid(operator.uid) is not None
        if taken or operator.name in self._rows.operators:
            raise Conflict(f"operator {operator.name}, or its uid, exists already")
        self._rows.operators[operator.name] = operator

    def remove(self, name: str) -> bool:
        self.remove_tokens(name)
        return self._rows.operators.pop(name, None) is not None

    def tokens(self, name: str) -> Sequence[OperatorToken]:
        found = [token for token in self._rows.tokens.values() if token.operator == name]
        return sorted(found, key=lambda token: (token.created, token.id))

    def token(self, digest: str) -> OperatorToken | None:
        return next((token for token in self._rows.tokens.values() if token.digest == digest), None)

    def add_token(self, token: OperatorToken) -> None:
        self._rows.tokens[token.id] = token

    def remove_tokens(self, name: str) -> int:
        mine = self.tokens(name)
        for token in mine:
            del self._rows.tokens[token.id]
        return len(mine)
