"""Operators and their tokens as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select
from sqlalchemy.exc import IntegrityError

from remit.core.errors import Conflict
from remit.core.principal import Operator, OperatorKind, OperatorRole, OperatorToken
from remit.store import tables


class Operators:
    """Implements `control.ports_operators.Operators`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def all(self) -> Sequence[Operator]:
        t = tables.operators
        return [_operator(row) for row in self._connection.execute(select(t).order_by(t.c.name))]

    def get(self, name: str) -> Operator | None:
        t = tables.operators
        row = self._connection.execute(select(t).where(t.c.name == name)).one_or_none()
        return _operator(row) if row is not None else None

    def by_uid(self, uid: int) -> Operator | None:
        t = tables.operators
        row = self._connection.execute(select(t).where(t.c.uid == uid)).one_or_none()
        return _operator(row) if row is not None else None

    def add(self, operator: Operator) -> None:
        row = {
            "name": operator.name,
            "kind": operator.kind.value,
            "role": operator.role.value,
            "uid": operator.uid,
            "created": operator.created,
        }
        try:
            self._connection.execute(insert(tables.operators).values(**row))
        except IntegrityError as error:
            raise Conflict(f"operator {operator.name}, or its uid, exists already") from error

    def remove(self, name: str) -> bool:
        self.remove_tokens(name)
        t = tables.operators
        return self._connection.execute(delete(t).where(t.c.name == name)).rowcount > 0

    def tokens(self, name: str) -> Sequence[OperatorToken]:
        t = tables.operator_tokens
        rows = self._connection.execute(select(t).where(t.c.operator == name).order_by(t.c.created, t.c.id))
        return [_token(row) for row in rows]

    def token(self, digest: str) -> OperatorToken | None:
        t = tables.operator_tokens
        row = self._connection.execute(select(t).where(t.c.digest == digest)).one_or_none()
        return _token(row) if row is not None else None

    def add_token(self, token: OperatorToken) -> None:
        row = {
            "id": token.id,
            "operator": token.operator,
            "digest": token.digest,
            "created": token.created,
            "expires": token.expires,
        }
        self._connection.execute(insert(tables.operator_tokens).values(**row))

    def remove_tokens(self, name: str) -> int:
        t = tables.operator_tokens
        return self._connection.execute(delete(t).where(t.c.operator == name)).rowcount


def _operator(row: Row[Any]) -> Operator:
    return Operator(
        name=row.name,
        kind=OperatorKind(row.kind),
        role=OperatorRole(row.role),
        uid=row.uid,
        created=row.created,
    )


def _token(row: Row[Any]) -> OperatorToken:
    return OperatorToken(
        id=row.id,
        operator=row.operator,
        digest=row.digest,
        created=row.created,
        expires=row.expires,
    )
