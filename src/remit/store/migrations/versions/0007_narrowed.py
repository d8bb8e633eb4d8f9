"""Tasks may be given a part of their role's capabilities; null: all of them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("capabilities", sa.JSON(none_as_null=True)))
