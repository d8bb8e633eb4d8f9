"""The store of operators and their tokens, as the use cases see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from remit.core.principal import Operator, OperatorToken


class Operators(Protocol):
    """Operators by name, and the tokens that prove them. Removing an operator removes its tokens."""

    def all(self) -> Sequence[Operator]:
        """By name."""
        ...

    def get(self, name: str) -> Operator | None: ...

    def by_uid(self, uid: int) -> Operator | None: ...

    def add(self, operator: Operator) -> None:
        """`Conflict`: the name or the uid is taken."""
        ...

    def remove(self, name: str) -> bool:
        """Whether it was there."""
        ...

    def tokens(self, name: str) -> Sequence[OperatorToken]:
        """Those of one operator, oldest first."""
        ...

    def token(self, digest: str) -> OperatorToken | None: ...

    def add_token(self, token: OperatorToken) -> None: ...

    def remove_tokens(self, name: str) -> int:
        """How many there were."""
        ...
