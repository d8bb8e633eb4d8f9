"""Approvals and grants."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "approvals",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("task", sa.String, nullable=False),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("question", sa.JSON, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("expires", sa.String, nullable=False),
        sa.Column("answered", sa.String),
        sa.Column("author", sa.String),
        sa.Column("note", sa.String, nullable=False),
    )
    op.create_index("approvals_fingerprint", "approvals", ["fingerprint", "created"])
    op.create_index("approvals_state", "approvals", ["state", "task"])
    op.create_index("approvals_created", "approvals", ["created"])
    op.create_table(
        "grants",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("approval", sa.String, nullable=False, unique=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
    )
    op.create_index("grants_state", "grants", ["state"])
