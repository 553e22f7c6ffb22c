"""the first tables"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from ari_app.store.migrations.append_only import make_refusal, refuse_changes

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "agent_states",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("agent", sa.String(length=8), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("was", sa.String(length=16), nullable=False),
        sa.Column("now", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("call_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent_states")),
    )
    with op.batch_alter_table("agent_states", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_agent_states_agent"), ["agent"], unique=False)

    op.create_table(
        "agents",
        sa.Column("number", sa.String(length=8), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("sip_ha1", sa.String(length=32), nullable=False),
        sa.Column("pin_hash", sa.String(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("state_since", sa.Float(precision=53), nullable=False),
        sa.Column("call_id", sa.String(), nullable=True),
        sa.Column("wrap_up_until", sa.Float(precision=53), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_agents")),
    )
    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.create_index(
            "uq_agents_call",
            ["call_id"],
            unique=True,
            sqlite_where=sa.text("call_id IS NOT NULL"),
            postgresql_where=sa.text("call_id IS NOT NULL"),
        )

    op.create_table(
        "callbacks",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("number", sa.String(), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callbacks")),
    )
    op.create_table(
        "calls",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("caller_number", sa.String(), nullable=True),
        sa.Column("called_number", sa.String(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calls")),
    )
    with op.batch_alter_table("calls", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_calls_at"), ["at"], unique=False)

    op.create_table(
        "law_firms",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("short_name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_law_firms")),
        sa.UniqueConstraint("name", name=op.f("uq_law_firms_name")),
    )
    op.create_table(
        "parties",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("title", sa.String(length=2), nullable=False),
        sa.Column("mobile", sa.String(length=11), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_parties")),
    )
    with op.batch_alter_table("parties", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_parties_mobile"), ["mobile"], unique=False)

    op.create_table(
        "recordings",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("store", sa.String(length=16), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.Column("channels", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("call_id", "store", name=op.f("pk_recordings")),
    )
    op.create_table(
        "endings",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("hung_up_by", sa.String(length=8), nullable=False),
        sa.Column("agent", sa.String(), nullable=True),
        sa.Column("answered_after_s", sa.Float(precision=53), nullable=True),
        sa.Column("wait_s", sa.Float(precision=53), nullable=False),
        sa.Column("talk_s", sa.Float(precision=53), nullable=False),
        sa.Column("after_closing_s", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(["call_id"], ["calls.id"], name=op.f("fk_endings_call_id")),
        sa.PrimaryKeyConstraint("call_id", name=op.f("pk_endings")),
    )
    op.create_table(
        "identities",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("verified", sa.Boolean(), nullable=False),
        sa.Column("missing", sa.String(), nullable=False),
        sa.Column("party_id", sa.Integer(), nullable=True),
        sa.Column("lawyer_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["call_id"], ["calls.id"], name=op.f("fk_identities_call_id")),
        sa.PrimaryKeyConstraint("call_id", "n", name=op.f("pk_identities")),
    )
    op.create_table(
        "lawyers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("licence", sa.String(length=17), nullable=False),
        sa.Column("mobile", sa.String(length=11), nullable=False),
        sa.Column("firm_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["firm_id"], ["law_firms.id"], name=op.f("fk_lawyers_firm_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lawyers")),
        sa.UniqueConstraint("licence", name=op.f("uq_lawyers_licence")),
    )
    with op.batch_alter_table("lawyers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_lawyers_mobile"), ["mobile"], unique=False)

    op.create_table(
        "offers",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("event", sa.String(length=16), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("agent", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(["call_id"], ["calls.id"], name=op.f("fk_offers_call_id")),
        sa.PrimaryKeyConstraint("call_id", "n", "event", name=op.f("pk_offers")),
    )
    with op.batch_alter_table("offers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_offers_agent"), ["agent"], unique=False)

    op.create_table(
        "prompts_heard",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("side", sa.String(length=8), nullable=False),
        sa.Column("prompt", sa.String(), nullable=False),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.Column("whole", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["call_id"], ["calls.id"], name=op.f("fk_prompts_heard_call_id")),
        sa.PrimaryKeyConstraint("call_id", "n", name=op.f("pk_prompts_heard")),
    )
    op.create_table(
        "transitions",
        sa.Column("call_id", sa.String(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("heard", sa.String(), nullable=False),
        sa.Column("next", sa.String(), nullable=False),
        sa.Column("actions", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["call_id"], ["calls.id"], name=op.f("fk_transitions_call_id")),
        sa.PrimaryKeyConstraint("call_id", "n", name=op.f("pk_transitions")),
    )
    op.create_table(
        "cases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("number", sa.String(), nullable=False),
        sa.Column("serial_last5", sa.String(length=5), nullable=False),
        sa.Column("court", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.Column("amount_fen", sa.Integer(), nullable=False),
        sa.Column("party_id", sa.Integer(), nullable=False),
        sa.Column("lawyer_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["lawyer_id"], ["lawyers.id"], name=op.f("fk_cases_lawyer_id")),
        sa.ForeignKeyConstraint(["party_id"], ["parties.id"], name=op.f("fk_cases_party_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cases")),
        sa.UniqueConstraint("number", name=op.f("uq_cases_number")),
    )
    with op.batch_alter_table("cases", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_cases_lawyer_id"), ["lawyer_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_cases_party_id"), ["party_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_cases_serial_last5"), ["serial_last5"], unique=False)

    op.create_table(
        "milestones",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("case_id", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(length=16), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name=op.f("fk_milestones_case_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_milestones")),
    )
    with op.batch_alter_table("milestones", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_milestones_case_id"), ["case_id"], unique=False)

    make_refusal()
    refuse_changes(*LEDGER)


LEDGER = (
    "calls", "transitions", "identities", "offers", "prompts_heard", "endings", "recordings", "callbacks",
    "agent_states",
)  # fmt: skip
