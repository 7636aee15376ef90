"""What finance reads: the ledger's teams, users, audio tokens, list costs and price versions, and its sums by day."""

import hashlib
from datetime import UTC, datetime

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0010_reports"
down_revision = "0009_alerts"
branch_labels = None
depends_on = None

TEXTS = ("team", "user_id")
COUNTS = ("audio_input_tokens", "audio_output_tokens", "audio_cache_read_input_tokens", "list_cost")
DIMENSIONS = ("day", "tenant", "team", "user_id", "key_id", "provider", "backend", "model", "rule", "purpose")
SUMMED = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_output_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "audio_cache_read_input_tokens",
    "cost",
    "list_cost",
)
CORRECTS = "entry = 'correction'"
ESTIMATED = f"NOT {CORRECTS} AND usage_source = 'estimated'"
ROWS, REQUESTS = "COALESCE(ledger_openings.rows, 1)", "COALESCE(ledger_openings.requests, 1)"  # an opening row stands for many
COUNTED = {
    "requests": (f"entry = 'opening' OR NOT {CORRECTS} AND attempt = 1 AND purpose IN ('answer', 'embedding')", REQUESTS),
    "attempts": (f"NOT {CORRECTS}", ROWS),
    "errors": (f"NOT {CORRECTS} AND outcome IN ('error', 'timeout', 'crashed')", "1"),
    "estimated": (ESTIMATED, ROWS),
    "estimated_cost": (ESTIMATED, "cost"),
    "corrections": (CORRECTS, "1"),
    "correction_cost": (CORRECTS, "cost"),
}
MEASURES = (*COUNTED, *SUMMED)
LARGEST_COUNT = 10**12


def upgrade() -> None:
    for name in TEXTS:
        op.add_column("ledger", sa.Column(name, sa.String(40), nullable=False, server_default=""))
    for name in COUNTS:
        op.add_column("ledger", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("ledger", sa.Column("price_version", sa.Text, nullable=False, server_default=""))
    op.add_column("ledger", sa.Column("booked_at", sa.Double, nullable=False, server_default="0"))
    # Of what was booked before nobody knows what else it could have cost: nothing counts as avoided.
    op.execute("UPDATE ledger SET list_cost = cost, booked_at = ended_at")
    for name in SUMMED[:5]:  # a provider's nonsense, which earlier releases kept up to 64 bits, of which no sum could be made
        op.execute(f"UPDATE ledger SET {name} = {LARGEST_COUNT} WHERE {name} > {LARGEST_COUNT}")  # noqa: S608 - names of our own
    op.create_index("ix_ledger_ended_at", "ledger", ["ended_at", "id"])
    op.create_table(
        "usage_days",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("team", sa.String(40), nullable=False),
        sa.Column("user_id", sa.String(40), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in MEASURES),
        sa.PrimaryKeyConstraint("id", name="pk_usage_days"),
    )
    op.create_index("ix_usage_days_day", "usage_days", ["day", "tenant"])
    op.create_index("ix_usage_days_tenant_day", "usage_days", ["tenant", "day"])
    _fill(op.get_bind())


def _fill(connection: sa.Connection) -> None:
    """The sums of what is in the ledger. The database adds up; the ids of the lines are hashes, which SQLite cannot make.

    Of archived rows it is not known which failed or corrected others.
    """
    seconds = "CAST(ended_at AS BIGINT)" if connection.dialect.name == "sqlite" else "CAST(floor(ended_at) AS BIGINT)"
    names = [f"{seconds} / 86400", *DIMENSIONS[1:]]
    sums = [*(f"SUM(CASE WHEN {condition} THEN {value} ELSE 0 END)" for condition, value in COUNTED.values()), *(f"SUM({name})" for name in SUMMED)]
    rows = "ledger LEFT JOIN ledger_openings ON ledger_openings.id = ledger.id"
    query = f"SELECT {', '.join(names + sums)} FROM {rows} GROUP BY {', '.join(names)}"  # noqa: S608 - names of our own
    columns = ("id", *DIMENSIONS, *MEASURES)
    insert = sa.text(f"INSERT INTO usage_days ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})")  # noqa: S608
    lines = []
    for number, *rest in connection.execute(sa.text(query)).fetchall():
        day = datetime.fromtimestamp(number * 86_400, UTC).strftime("%Y-%m-%d")
        dimensions = (day, *rest[: len(DIMENSIONS) - 1])
        identity = hashlib.blake2b(msgspec.json.encode(dimensions), digest_size=16).hexdigest()
        lines.append(dict(zip(columns, (identity, *dimensions, *(int(value) for value in rest[len(DIMENSIONS) - 1 :])), strict=True)))
    for start in range(0, len(lines), 1000):
        connection.execute(insert, lines[start : start + 1000])


def downgrade() -> None:
    op.drop_table("usage_days")
    op.drop_index("ix_ledger_ended_at", "ledger")
    with op.batch_alter_table("ledger") as table:
        for name in (*TEXTS, *COUNTS, "price_version", "booked_at"):
            table.drop_column(name)
