"""holds by the phones' own key, and whether both sides of a talk could be heard"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from ari_app.store.migrations.append_only import refuse_changes

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "holds",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("who", sa.String(length=8), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("began", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("call_id", "who", "at", name=op.f("pk_holds")),
    )
    op.create_table(
        "talk_sounds",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("agent", sa.String(length=8), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("line", sa.String(length=16), nullable=False),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.Column("caller_db", sa.Float(precision=53), nullable=True),
        sa.Column("agent_db", sa.Float(precision=53), nullable=True),
        sa.Column("unheard", sa.String(length=8), nullable=False),
        sa.PrimaryKeyConstraint("call_id", "agent", name=op.f("pk_talk_sounds")),
    )
    refuse_changes("holds", "talk_sounds")
