"""Operators and their tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "operators",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("uid", sa.Integer, unique=True),
        sa.Column("created", sa.String, nullable=False),
    )
    op.create_table(
        "operator_tokens",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("operator", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False, unique=True),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("expires", sa.String, nullable=False),
    )
    op.create_index("operator_tokens_operator", "operator_tokens", ["operator"])
