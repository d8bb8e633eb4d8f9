"""Repositories over one open transaction: rows in, values of `core` and `control` out."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import IntegrityError

from remit.control.ports_control import Acknowledged, AuditKey, Document, Head, Revocation, RevocationKind, SealedSecret
from remit.core import budget, prefixes
from remit.core.errors import Conflict
from remit.core.expiry import Nearness
from remit.core.flow import MAX_CELL
from remit.core.task import ALIVE, TRANSITIONS, State, Task
from remit.store import tables
from remit.store.approvals import Approvals, Grants
from remit.store.operators import Operators

HEADS_KEPT = 10_000
"""One a second while the log grows: about three hours of a busy node, a kilobyte each at most."""
AT_ONCE = 500
"""Values in one statement: SQLite takes 32,766 unless it was built for more (sqlite.org/limits.html)."""
_ACKNOWLEDGED = "audit-acknowledged"


class Documents:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def all(self) -> Sequence[Document]:
        t = tables.documents
        return [row.document for row in self._connection.execute(select(t).order_by(t.c.kind, t.c.name))]

    def get(self, kind: str, name: str) -> Document | None:
        t = tables.documents
        row = self._connection.execute(select(t).where(t.c.kind == kind, t.c.name == name)).one_or_none()
        return row.document if row is not None else None

    def put(self, document: Document, now: datetime) -> None:
        values = {"document": dict(document), "updated": now}
        statement = upsert(tables.documents).values(kind=document["kind"], name=document["metadata"]["name"], **values)
        self._connection.execute(statement.on_conflict_do_update(index_elements=["kind", "name"], set_=values))

    def remove(self, kind: str, name: str) -> bool:
        t = tables.documents
        return self._connection.execute(delete(t).where(t.c.kind == kind, t.c.name == name)).rowcount > 0


class Tasks:
    """Implements `control.ports.Tasks`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, task: Task) -> None:
        try:
            self._connection.execute(insert(tables.tasks).values(**_task_row(task)))
        except IntegrityError as error:
            raise Conflict(f"task {task.id} or its cell {task.cell} exists already") from error

    def get(self, prefix: str) -> Task:
        return _task(tables.only(self._connection, tables.tasks, prefixes.TASK, prefix))

    def save(self, task: Task) -> None:
        t = tables.tasks
        changed = self._connection.execute(update(t).where(t.c.id == task.id).values(**_task_row(task))).rowcount
        if not changed:
            raise prefixes.TASK.missing(task.id)

    def all(self, *, alive_only: bool = False) -> Sequence[Task]:
        t = tables.tasks
        query = select(t).order_by(t.c.created, t.c.id)
        if alive_only:
            query = query.where(t.c.state.in_([state.value for state in ALIVE]))
        return [_task(row) for row in self._connection.execute(query)]

    def prune(self, tasks: Collection[str], *, ended_before: datetime, kept: Collection[str]) -> int:
        t = tables.tasks
        over = [state.value for state, moves in TRANSITIONS.items() if not moves]
        old = set(self._connection.scalars(select(t.c.id).where(t.c.ended < ended_before)))
        due, gone = sorted({*tasks, *(old - set(kept))}), 0
        for start in range(0, len(due), AT_ONCE):
            some = due[start : start + AT_ONCE]
            gone += self._connection.execute(delete(t).where(t.c.state.in_(over), t.c.id.in_(some))).rowcount
        return gone


class Revocations:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def all(self) -> Sequence[Revocation]:
        t = tables.revocations
        return [
            Revocation(kind=RevocationKind(row.kind), name=row.name, time=row.time, operator=row.operator)
            for row in self._connection.execute(select(t).order_by(t.c.time, t.c.kind, t.c.name))
        ]

    def add(self, revocation: Revocation) -> bool:
        statement = upsert(tables.revocations).values(
            kind=revocation.kind.value,
            name=revocation.name,
            time=revocation.time,
            operator=revocation.operator,
        )
        return self._connection.execute(statement.on_conflict_do_nothing()).rowcount > 0

    def remove(self, kind: RevocationKind, name: str) -> bool:
        t = tables.revocations
        return self._connection.execute(delete(t).where(t.c.kind == kind.value, t.c.name == name)).rowcount > 0


class SealedSecrets:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def all(self) -> Sequence[SealedSecret]:
        t = tables.sealed_secrets
        return [_secret(row) for row in self._connection.execute(select(t).order_by(t.c.name))]

    def get(self, name: str) -> SealedSecret | None:
        t = tables.sealed_secrets
        row = self._connection.execute(select(t).where(t.c.name == name)).one_or_none()
        return _secret(row) if row is not None else None

    def put(self, secret: SealedSecret) -> None:
        values = {
            "blob": secret.blob,
            "updated": secret.updated,
            "version": secret.version,
            "created": secret.created,
            "expires": secret.expires,
            "told": secret.told.value,
        }
        statement = upsert(tables.sealed_secrets).values(name=secret.name, **values)
        self._connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))

    def remove(self, name: str) -> bool:
        t = tables.sealed_secrets
        return self._connection.execute(delete(t).where(t.c.name == name)).rowcount > 0


class Heads:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, head: Head) -> None:
        t = tables.audit_heads
        row = {"seq": head.seq, "hash": head.hash, "received": head.received, "fields": dict(head.fields)}
        self._connection.execute(upsert(t).values(**row).on_conflict_do_nothing())
        newest = select(func.max(t.c.id)).scalar_subquery()
        self._connection.execute(delete(t).where(t.c.id <= newest - HEADS_KEPT))

    def latest(self) -> Head | None:
        t = tables.audit_heads
        row = self._connection.execute(select(t).order_by(t.c.seq.desc(), t.c.id).limit(1)).one_or_none()
        return _head(row) if row is not None else None

    def all(self) -> Sequence[Head]:
        t = tables.audit_heads
        return [_head(row) for row in self._connection.execute(select(t).order_by(t.c.seq, t.c.id))]


class AuditKeys:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def all(self) -> Sequence[AuditKey]:
        t = tables.audit_keys
        rows = self._connection.execute(select(t).order_by(t.c.since, t.c.key))
        return [AuditKey(key=row.key, since=row.since, trusted=row.trusted) for row in rows]

    def put(self, key: AuditKey) -> None:
        row = {"key": key.key, "since": key.since, "trusted": key.trusted}
        statement = upsert(tables.audit_keys).values(**row)
        self._connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=row))


class Acknowledgements:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self) -> Acknowledged | None:
        t = tables.meta
        value = self._connection.scalar(select(t.c.value).where(t.c.key == _ACKNOWLEDGED))
        return Acknowledged(**json.loads(value)) if value is not None else None

    def put(self, acknowledged: Acknowledged) -> None:
        value = json.dumps(asdict(acknowledged))
        statement = upsert(tables.meta).values(key=_ACKNOWLEDGED, value=value)
        self._connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))


class Unit:
    """Implements `control.ports_control.Unit` on one connection in a transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.documents = Documents(connection)
        self.tasks = Tasks(connection)
        self.revocations = Revocations(connection)
        self.secrets = SealedSecrets(connection)
        self.heads = Heads(connection)
        self.audit_keys = AuditKeys(connection)
        self.acknowledgements = Acknowledgements(connection)
        self.operators = Operators(connection)
        self.approvals = Approvals(connection)
        self.grants = Grants(connection)

    def current_tasks(self, *, ended_since: datetime | None = None) -> Sequence[Task]:
        t = tables.tasks
        wanted: ColumnElement[bool] = t.c.state.in_(tables.HOLDS_CELL)
        if ended_since is not None:
            wanted |= t.c.ended >= ended_since
        return [_task(row) for row in self._connection.execute(select(t).where(wanted).order_by(t.c.created, t.c.id))]

    def epoch(self) -> int:
        return self._number("epoch")

    def advance_epoch(self, now: datetime) -> int:
        epoch = max(self.epoch() + 1, int(now.timestamp() * 1000))
        self._set_number("epoch", epoch)
        return epoch

    def next_cell(self) -> int:
        t = tables.tasks
        taken = set(self._connection.scalars(select(t.c.cell).where(t.c.state.in_(tables.HOLDS_CELL))))
        cell = self._number("cell")
        for _ in range(len(taken) + 1):
            cell = cell % MAX_CELL + 1
            if cell not in taken:
                break
        self._set_number("cell", cell)
        return cell

    def _number(self, key: str) -> int:
        value = self._connection.scalar(select(tables.meta.c.value).where(tables.meta.c.key == key))
        return int(value) if value is not None else 0

    def _set_number(self, key: str, value: int) -> None:
        statement = upsert(tables.meta).values(key=key, value=str(value))
        self._connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": str(value)}))


def _task_row(task: Task) -> Mapping[str, Any]:
    return {
        "id": task.id,
        "role": task.role,
        "state": task.state.value,
        "cell": task.cell,
        "created": task.created,
        "command": list(task.command),
        "parent": task.parent,
        "operator": task.operator,
        "ended": task.ended,
        "exit_code": task.exit_code,
        "budgets": [dict(budget.as_json(one)) for one in task.budgets],
        "capabilities": sorted(task.capabilities) if task.capabilities is not None else None,
    }


def _task(row: Row[Any]) -> Task:
    return Task(
        id=row.id,
        role=row.role,
        state=State(row.state),
        cell=row.cell,
        created=row.created,
        command=tuple(row.command),
        parent=row.parent,
        operator=row.operator,
        ended=row.ended,
        exit_code=row.exit_code,
        budgets=tuple(budget.from_json(one) for one in row.budgets),
        capabilities=frozenset(row.capabilities) if row.capabilities is not None else None,
    )


def _secret(row: Row[Any]) -> SealedSecret:
    return SealedSecret(
        name=row.name,
        blob=row.blob,
        updated=row.updated,
        version=row.version,
        created=row.created,
        expires=row.expires,
        told=Nearness(row.told),
    )


def _head(row: Row[Any]) -> Head:
    return Head(seq=row.seq, hash=row.hash, received=row.received, fields=row.fields)
