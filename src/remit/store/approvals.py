"""Approvals and grants as rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, insert, select, update

from remit.core import grant as granting
from remit.core import prefixes
from remit.core.approval import Approval, State
from remit.core.grant import Grant
from remit.store import tables


class Approvals:
    """Implements `control.ports_approvals.Approvals`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, approval: Approval) -> None:
        self._connection.execute(insert(tables.approvals).values(**_row(approval)))

    def get(self, prefix: str) -> Approval:
        return _approval(tables.only(self._connection, tables.approvals, prefixes.APPROVAL, prefix))

    def save(self, approval: Approval) -> None:
        t = tables.approvals
        changed = self._connection.execute(update(t).where(t.c.id == approval.id).values(**_row(approval))).rowcount
        if not changed:
            raise prefixes.APPROVAL.missing(approval.id)

    def latest(self, fingerprint: str) -> Approval | None:
        t = tables.approvals
        newest = select(t).where(t.c.fingerprint == fingerprint).order_by(t.c.created.desc(), t.c.id.desc())
        found = self._rows(newest.limit(1))
        return found[0] if found else None

    def pending(self, task: str | None = None) -> Sequence[Approval]:
        t = tables.approvals
        waiting = select(t).where(t.c.state == State.PENDING.value).order_by(t.c.created, t.c.id)
        return self._rows(waiting if task is None else waiting.where(t.c.task == task))

    def recent(self, since: datetime) -> Sequence[Approval]:
        t = tables.approvals
        return self._rows(select(t).where(t.c.created >= since).order_by(t.c.created, t.c.id))

    def _rows(self, query: Select[Any]) -> list[Approval]:
        return [_approval(row) for row in self._connection.execute(query)]


class Grants:
    """Implements `control.ports_approvals.Grants`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, grant: Grant) -> None:
        values = {"id": grant.id, "approval": grant.approval, "created": grant.created}
        state = {"state": grant.state.value, "document": granting.as_json(grant)}
        self._connection.execute(insert(tables.grants).values(**values, **state))

    def get(self, identity: str) -> Grant:
        t = tables.grants
        row = self._connection.execute(select(t).where(t.c.id == identity)).one_or_none()
        if row is None:
            raise prefixes.GRANT.missing(identity)
        return granting.from_json(row.document)

    def save(self, grant: Grant) -> None:
        t = tables.grants
        values = {"state": grant.state.value, "document": granting.as_json(grant)}
        if not self._connection.execute(update(t).where(t.c.id == grant.id).values(**values)).rowcount:
            raise prefixes.GRANT.missing(grant.id)

    def active(self) -> Sequence[Grant]:
        t = tables.grants
        active = select(t).where(t.c.state == granting.State.ACTIVE.value).order_by(t.c.created, t.c.id)
        return [granting.from_json(row.document) for row in self._connection.execute(active)]

    def of_approval(self, approval: str) -> Grant | None:
        t = tables.grants
        row = self._connection.execute(select(t).where(t.c.approval == approval)).one_or_none()
        return granting.from_json(row.document) if row is not None else None


def _row(approval: Approval) -> dict[str, Any]:
    return {
        "id": approval.id,
        "task": approval.question.task,
        "fingerprint": approval.question.fingerprint(),
        "question": granting.question_json(approval.question),
        "state": approval.state.value,
        "created": approval.created,
        "expires": approval.expires,
        "answered": approval.answered,
        "author": approval.author,
        "note": approval.note,
    }


def _approval(row: Row[Any]) -> Approval:
    return Approval(
        id=row.id,
        question=granting.read_question(row.question),
        state=State(row.state),
        created=row.created,
        expires=row.expires,
        answered=row.answered,
        author=row.author,
        note=row.note,
    )
