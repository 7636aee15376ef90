"""The tables of the audit log, of decisions and of stored prompts. Times are seconds since the epoch.

`audit_log` and `audit_checkpoints` are append only, and so is the ledger: triggers (`router.audit.triggers`) refuse every UPDATE, and every DELETE of
rows that no checkpoint covers.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, String, Table, Text, text

from router.audit.chain import Layout
from router.tables import metadata

audit_log = Table(
    "audit_log",
    metadata,
    Column("chain", String(32), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(40), nullable=False, unique=True),
    Column("at", Double, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("actor_role", String(16), nullable=False),
    Column("actor_user", String(64), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("object_kind", String(24), nullable=False),
    Column("object_id", Text, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("details", Text, nullable=False),
    Column("prev_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("ix_audit_log_tenant_seq", "tenant", "seq"),
    Index("ix_audit_log_action_seq", "action", "seq"),
    Index("ix_audit_log_actor_seq", "actor", "seq"),
    Index("ix_audit_log_request_id", "request_id"),
)
"""`tenant` is whose object it was, empty for the platform's own. `details` is JSON without prompts or secrets."""

LEDGER_CHAIN = "ledger"
"""The chain whose checkpoints cover rows of the ledger that were archived; a checkpoint's hash is that of the archive's file."""

audit_heads = Table(
    "audit_heads",
    metadata,
    Column("chain", String(32), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("mac", String(64), nullable=False),
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("chain", String(32), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", String(64), nullable=False),
    Column("until", Double),
    Column("at", Double, nullable=False),
    Column("mac", String(64), nullable=False),
)
"""Up to `seq` (or, in a table that is pruned by time, before `until`) rows may be removed, and the chain still verifies from there."""

ledger_seals = Table(
    "ledger_seals",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("chains", BigInteger, nullable=False),
    Column("unsealed", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Column("mac", String(32), nullable=False),
)
"""One row: how many chains there are, how many rows of the ledger were there before, and when sealing began."""

decisions = Table(
    "decisions",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("user_id", String(64)),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
    Column("policy_version", Integer, nullable=False),
    Column("dialect", String(32), nullable=False),
    Column("data_class", String(16), nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("error", Text),
    Column("backend", Text, nullable=False),
    Column("input_hash", String(64), nullable=False),
    Column("decision", Text),
    Column("state", Text),
    Column("citations", Text, nullable=False),
    Column("moderation", Text, nullable=False),
    Column("policy_hash", String(64), nullable=False, server_default=""),
    Column("model", Text, nullable=False, server_default=""),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("output_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cache_read_input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cache_creation_input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cost", BigInteger, nullable=False, server_default="0"),
    Column("latency_ms", Double),
    Column("first_ms", Double),
    Column("embedding", LargeBinary),
    Index("ix_decisions_created_at", "created_at"),
    Index("ix_decisions_embedded_user_id", "user_id", sqlite_where=text("embedding IS NOT NULL"), postgresql_where=text("embedding IS NOT NULL")),
)
"""One row for every request, with what came of it. `cost` is in picodollars; times are in milliseconds from the request's arrival.

`embedding` is the question's, in float16; it goes when its user is erased.
"""

decision_capabilities = Table(
    "decision_capabilities",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("content", Text, nullable=False),
)
"""What the backends of a policy could do, once for the many decisions that were made with it; `id` is the hash of the content."""

prompts = Table(
    "prompts",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("user_id", String(64)),
    Column("data_class", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
    Column("content", LargeBinary, nullable=False),
    Index("ix_prompts_user_id", "user_id"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("rater", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("user_id", String(64)),
    Column("score", Double, nullable=False),
    Column("comment", LargeBinary),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
    Index("ix_feedback_user_id", "user_id"),
)
"""What users thought of answers, from 0 to 1. `rater` is the user, or the key where it acts for none; of each the last word counts. Comments are sealed."""

COLUMNS = ("id", "at", "actor", "actor_role", "actor_user", "tenant", "action", "object_kind", "object_id", "outcome", "request_id", "details")
LAYOUT = Layout("audit", COLUMNS)
