"""The first schema: manifests, tasks, revocations, sealed secrets, audit heads."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.create_table(
        "documents",
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("document", sa.JSON, nullable=False),
        sa.Column("updated", sa.String, nullable=False),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("cell", sa.Integer, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("command", sa.JSON, nullable=False),
        sa.Column("parent", sa.String),
        sa.Column("operator", sa.String, nullable=False),
        sa.Column("ended", sa.String),
        sa.Column("exit_code", sa.Integer),
    )
    op.create_index("tasks_created", "tasks", ["created"])
    op.create_index("tasks_state", "tasks", ["state"])
    op.create_index("tasks_ended", "tasks", ["ended"])
    live = sa.text("state IN ('pending', 'running', 'revoked')")
    op.create_index("tasks_cell", "tasks", ["cell"], unique=True, sqlite_where=live, postgresql_where=live)
    op.create_table(
        "revocations",
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("time", sa.String, nullable=False),
        sa.Column("operator", sa.String, nullable=False),
    )
    op.create_table(
        "sealed_secrets",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("blob", sa.LargeBinary, nullable=False),
        sa.Column("updated", sa.String, nullable=False),
    )
    op.create_table(
        "audit_heads",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("hash", sa.String, nullable=False),
        sa.Column("received", sa.String, nullable=False),
        sa.Column("fields", sa.JSON, nullable=False),
    )
    op.create_index("audit_heads_seq", "audit_heads", ["seq", "hash"], unique=True)
