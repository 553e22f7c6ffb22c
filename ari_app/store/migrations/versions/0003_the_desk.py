"""the desk: where an agent sits and why one pauses"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from ari_app.store.migrations.append_only import refuse_changes

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
    op.drop_index("ix_agent_states_agent", table_name="agent_states")
    op.create_index("ix_agent_states_agent_now", "agent_states", ["agent", "now", "id"], unique=False)
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

    # Work orders, and stretches of a recording
    op.create_table(
        "work_orders",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("call_id", sa.String(), nullable=True),
        sa.Column("party_id", sa.Integer(), nullable=True),
        sa.Column("lawyer_id", sa.Integer(), nullable=True),
        sa.Column("case_id", sa.Integer(), nullable=True),
        sa.Column("need", sa.String(length=16), nullable=True),
        sa.Column("due_at", sa.Float(precision=53), nullable=False),
        sa.Column("must_answer", sa.String(length=16), nullable=False),
        sa.Column("opened_by", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work_orders")),
    )
    op.create_index(op.f("ix_work_orders_call_id"), "work_orders", ["call_id"], unique=False)
    op.create_index(op.f("ix_work_orders_case_id"), "work_orders", ["case_id"], unique=False)
    op.create_table(
        "work_order_changes",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("order_id", sa.String(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("now", sa.String(length=16), nullable=False),
        sa.Column("by", sa.String(length=16), nullable=False),
        sa.Column("must_answer", sa.String(length=16), nullable=True),
        sa.Column("note", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work_order_changes")),
    )
    op.create_index(op.f("ix_work_order_changes_order_id"), "work_order_changes", ["order_id"], unique=False)
    op.create_table(
        "segments",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.Column("spoken_s", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("call_id", "n", name=op.f("pk_segments")),
    )

    # Who talked with whom
    op.create_table(
        "talk_times",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("agent", sa.String(length=8), nullable=False),
        sa.Column("company", sa.String(length=8), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("until", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("call_id", "n", "agent", name=op.f("pk_talk_times")),
    )
    op.create_index(op.f("ix_talk_times_at"), "talk_times", ["at"], unique=False)

    # Tokens of the API
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String(length=8), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("agent", sa.String(length=8), nullable=True),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("revoked_at", sa.Float(precision=53), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_tokens_hash")),
    )

    # Acts upon the floor
    op.create_table(
        "audit",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("by", sa.String(length=16), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("act", sa.String(length=32), nullable=False),
        sa.Column("agent", sa.String(length=8), nullable=True),
        sa.Column("call_id", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("result", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_at"), "audit", ["at"], unique=False)

    # Leaders and mentors
    op.add_column("agents", sa.Column("role", sa.String(length=16), server_default="agent", nullable=False))
    op.create_table(
        "supervisions",
        sa.Column("session", sa.String(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("event", sa.String(length=8), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("who", sa.String(length=8), nullable=False),
        sa.Column("whom", sa.String(length=8), nullable=True),
        sa.Column("what", sa.String(length=16), nullable=False),
        sa.Column("call_id", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("session", "n", "event", name=op.f("pk_supervisions")),
    )
    op.create_index(op.f("ix_supervisions_at"), "supervisions", ["at"], unique=False)
    op.create_index(op.f("ix_supervisions_whom"), "supervisions", ["whom"], unique=False)

    # After the call: ratings, dispositions, what each call was about
    op.add_column("identities", sa.Column("case_id", sa.Integer(), nullable=True))
    op.create_table(
        "ratings",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("agent", sa.String(length=8), nullable=False),
        sa.Column("score", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("call_id", "n", name=op.f("pk_ratings")),
    )
    op.create_index(op.f("ix_ratings_at"), "ratings", ["at"], unique=False)
    op.create_index(op.f("ix_ratings_agent"), "ratings", ["agent"], unique=False)
    op.create_table(
        "dispositions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("agent", sa.String(length=8), nullable=False),
        sa.Column("need", sa.String(length=16), nullable=False),
        sa.Column("result", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dispositions")),
    )
    op.create_index(op.f("ix_dispositions_call_id"), "dispositions", ["call_id"], unique=False)
    op.create_index(op.f("ix_dispositions_agent"), "dispositions", ["agent"], unique=False)
    op.create_table(
        "matters",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("until", sa.Float(precision=53), nullable=False),
        sa.Column("agent", sa.String(length=8), nullable=True),
        sa.Column("party_id", sa.Integer(), nullable=True),
        sa.Column("lawyer_id", sa.Integer(), nullable=True),
        sa.Column("case_id", sa.Integer(), nullable=True),
        sa.Column("need", sa.String(length=16), nullable=True),
        sa.Column("second_of", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("call_id", name=op.f("pk_matters")),
    )
    for column in ("at", "party_id", "lawyer_id"):
        op.create_index(op.f(f"ix_matters_{column}"), "matters", [column], unique=False)

    # Callbacks that keep their place, and calls that are placed
    op.add_column("callbacks", sa.Column("since", sa.Float(precision=53), nullable=True))
    op.add_column("callbacks", sa.Column("window", sa.String(length=16), nullable=True))
    op.add_column("callbacks", sa.Column("role", sa.String(length=16), nullable=True))
    op.add_column("callbacks", sa.Column("need", sa.String(length=16), nullable=True))
    op.add_column("callbacks", sa.Column("party_id", sa.Integer(), nullable=True))
    op.add_column("callbacks", sa.Column("lawyer_id", sa.Integer(), nullable=True))
    op.create_table(
        "callback_events",
        sa.Column("callback_id", sa.String(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("event", sa.String(length=16), nullable=False),
        sa.Column("call_id", sa.String(), nullable=True),
        sa.Column("agent", sa.String(length=8), nullable=True),
        sa.Column("number", sa.String(), nullable=True),
        sa.Column("window", sa.String(length=16), nullable=True),
        sa.Column("until", sa.Float(precision=53), nullable=True),
        sa.Column("why", sa.String(length=16), nullable=True),
        sa.PrimaryKeyConstraint("callback_id", "n", name=op.f("pk_callback_events")),
    )
    op.create_index(op.f("ix_callback_events_call_id"), "callback_events", ["call_id"], unique=False)
    op.create_table(
        "outbound",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("agent", sa.String(length=8), nullable=False),
        sa.Column("number", sa.String(), nullable=False),
        sa.Column("callback_id", sa.String(), nullable=True),
        sa.Column("case_id", sa.Integer(), nullable=True),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("need", sa.String(length=16), nullable=True),
        sa.Column("party_id", sa.Integer(), nullable=True),
        sa.Column("lawyer_id", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("call_id", name=op.f("pk_outbound")),
    )
    op.create_index(op.f("ix_outbound_agent"), "outbound", ["agent"], unique=False)
    op.create_index(op.f("ix_outbound_callback_id"), "outbound", ["callback_id"], unique=False)

    # Routing
    op.create_table(
        "agent_skills",
        sa.Column("agent", sa.String(length=8), nullable=False),
        sa.Column("skill", sa.String(length=16), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["agent"], ["agents.number"], name=op.f("fk_agent_skills_agent_agents")),
        sa.PrimaryKeyConstraint("agent", "skill", name=op.f("pk_agent_skills")),
    )
    op.create_table(
        "queue_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("desk", sa.String(length=64), nullable=False),
        sa.Column("event", sa.String(length=8), nullable=False),
        sa.Column("call_id", sa.String(), nullable=True),
        sa.Column("agent", sa.String(length=8), nullable=True),
        sa.Column("since", sa.Float(precision=53), nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue_events")),
    )
    op.create_index(op.f("ix_queue_events_at"), "queue_events", ["at"], unique=False)
    op.create_index(op.f("ix_queue_events_call_id"), "queue_events", ["call_id"], unique=False)

    refuse_changes(*LEDGER)


LEDGER: tuple[str, ...] = (
    "duty_notes", "work_orders", "work_order_changes", "segments", "audit", "supervisions", "ratings", "dispositions",
    "matters", "queue_events", "callback_events", "outbound", "talk_times",
)  # fmt: skip
"""The ledger's tables that are made here."""
