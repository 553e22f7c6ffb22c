"""the desk: where an agent sits and why one pauses"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Agents' states
    op.add_column("agents", sa.Column("phone", sa.String(length=8), nullable=True))
    op.add_column("agents", sa.Column("pause_code", sa.String(length=4), nullable=True))
    op.add_column("agents", sa.Column("wrong_pins", sa.Integer(), server_default="0", nullable=False))
    op.add_column("agents", sa.Column("locked_until", sa.Float(precision=53), nullable=True))
    op.execute("UPDATE agents SET phone = number WHERE state <> 'signed_out'")
    op.create_index("uq_agents_phone", "agents", ["phone"], unique=True)
    op.add_column("agent_states", sa.Column("phone", sa.String(length=8), nullable=True))
    op.add_column("agent_states", sa.Column("code", sa.String(length=4), nullable=True))
    op.create_table(
        "duty_notes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("agent", sa.String(length=8), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("what", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=4), nullable=True),
        sa.Column("call_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_duty_notes")),
    )
    op.create_index(op.f("ix_duty_notes_agent"), "duty_notes", ["agent"], unique=False)

    for table in LEDGER:
        refuse_changes(table)


LEDGER: tuple[str, ...] = ("duty_notes",)
"""The ledger's tables that are made here."""


def refuse_changes(table: str) -> None:
    """The ledger is append-only: the database itself refuses UPDATE and DELETE on `table`."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION ledger_is_append_only()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        )
