"""Versions of secrets, and when they end."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sealed_secrets", sa.Column("version", sa.Integer, nullable=False, server_default="1"))
    op.add_column("sealed_secrets", sa.Column("created", sa.String))
    op.add_column("sealed_secrets", sa.Column("expires", sa.String))
    op.add_column("sealed_secrets", sa.Column("told", sa.String, nullable=False, server_default="ok"))
