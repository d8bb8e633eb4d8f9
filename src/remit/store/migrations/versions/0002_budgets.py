"""Tasks have budgets of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("budgets", sa.JSON, nullable=False, server_default="[]"))
