"""Keys that sign audit heads: the one that is trusted, and those that were refused."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_keys",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("since", sa.String, nullable=False),
        sa.Column("trusted", sa.Boolean, nullable=False),
    )
