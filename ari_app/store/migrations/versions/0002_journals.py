"""how far each local journal was applied; agents' states numbered by the desk"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "journals",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("applied", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journals")),
    )
    if op.get_bind().dialect.name != "sqlite":  # where an integer key holds 64 bits already
        op.alter_column(
            "agent_states", "id", type_=sa.BigInteger(), existing_type=sa.Integer(), existing_nullable=False
        )
