"""Tables of the control plane's database. A change here needs a migration in `migrations/versions`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    select,
    text,
)
from sqlalchemy.types import TypeDecorator

from remit.core.expiry import Nearness
from remit.core.prefixes import Noun
from remit.core.task import State

metadata = MetaData()


class Moment(TypeDecorator[datetime]):
    """An aware time, kept as ISO 8601 text in UTC: SQLite has no type for it, and text sorts and reads well in a shell.

    Always with microseconds and the same offset, or it would not sort.
    """

    impl = String
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        return value.astimezone(UTC).isoformat(timespec="microseconds") if value is not None else None

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        return datetime.fromisoformat(value) if value is not None else None


HOLDS_CELL = (State.PENDING.value, State.RUNNING.value, State.REVOKED.value)
"""States in which a task's processes may exist, so that its cell number is taken."""

meta = Table(
    "meta",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("kind", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("document", JSON, nullable=False),
    Column("updated", Moment, nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", String, primary_key=True),
    Column("role", String, nullable=False),
    Column("state", String, nullable=False),
    Column("cell", Integer, nullable=False),
    Column("created", Moment, nullable=False),
    Column("command", JSON, nullable=False),
    Column("parent", String),
    Column("operator", String, nullable=False),
    Column("ended", Moment),
    Column("exit_code", Integer),
    Column("budgets", JSON, nullable=False, server_default="[]"),
    Column("capabilities", JSON(none_as_null=True)),
)
Index("tasks_created", tasks.c.created)
Index("tasks_state", tasks.c.state)
Index("tasks_ended", tasks.c.ended)
Index(
    "tasks_cell",
    tasks.c.cell,
    unique=True,
    sqlite_where=text("state IN ('pending', 'running', 'revoked')"),
    postgresql_where=text("state IN ('pending', 'running', 'revoked')"),
)

revocations = Table(
    "revocations",
    metadata,
    Column("kind", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("time", Moment, nullable=False),
    Column("operator", String, nullable=False),
)

sealed_secrets = Table(
    "sealed_secrets",
    metadata,
    Column("name", String, primary_key=True),
    Column("blob", LargeBinary, nullable=False),
    Column("updated", Moment, nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("created", Moment),
    Column("expires", Moment),
    Column("told", String, nullable=False, server_default=Nearness.FAR.value),
)

audit_heads = Table(
    "audit_heads",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("seq", Integer, nullable=False),
    Column("hash", String, nullable=False),
    Column("received", Moment, nullable=False),
    Column("fields", JSON, nullable=False),
)
Index("audit_heads_seq", audit_heads.c.seq, audit_heads.c.hash, unique=True)

audit_keys = Table(
    "audit_keys",
    metadata,
    Column("key", String, primary_key=True),
    Column("since", Moment, nullable=False),
    Column("trusted", Boolean, nullable=False),
)

operators = Table(
    "operators",
    metadata,
    Column("name", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("role", String, nullable=False),
    Column("uid", Integer, unique=True),
    Column("created", Moment, nullable=False),
)

operator_tokens = Table(
    "operator_tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("operator", String, nullable=False),
    Column("digest", String, nullable=False, unique=True),
    Column("created", Moment, nullable=False),
    Column("expires", Moment, nullable=False),
)
Index("operator_tokens_operator", operator_tokens.c.operator)

approvals = Table(
    "approvals",
    metadata,
    Column("id", String, primary_key=True),
    Column("task", String, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("question", JSON, nullable=False),
    Column("state", String, nullable=False),
    Column("created", Moment, nullable=False),
    Column("expires", Moment, nullable=False),
    Column("answered", Moment),
    Column("author", String),
    Column("note", String, nullable=False),
)
Index("approvals_fingerprint", approvals.c.fingerprint, approvals.c.created)
Index("approvals_state", approvals.c.state, approvals.c.task)
Index("approvals_created", approvals.c.created)

grants = Table(
    "grants",
    metadata,
    Column("id", String, primary_key=True),
    Column("approval", String, nullable=False, unique=True),
    Column("state", String, nullable=False),
    Column("created", Moment, nullable=False),
    Column("document", JSON, nullable=False),
)
Index("grants_state", grants.c.state)


def only(connection: Connection, table: Table, noun: Noun, prefix: str) -> Row[Any]:
    """The one row whose id begins with `prefix`. `NotFound`, or `Conflict` for several."""
    start = noun.start(prefix)
    query = select(table).where(table.c.id.like(f"{start}%")).limit(2)
    return noun.only(prefix, connection.execute(query).all() if start is not None else ())
