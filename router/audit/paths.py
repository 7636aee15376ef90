"""The path of one request, put together for an auditor: the decision, the attempts, who looked at it; and the decision made once more."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, or_, select

from adapters.types import Capabilities
from policies.decide import BackendState, Decision, State, decide
from policies.load import PolicyError, load_policy
from router import policy_store
from router.audit.log import CHAIN
from router.audit.reading import AuditEntry, shown_entry
from router.audit.recording import Place, StateNow
from router.audit.tables import audit_log, decision_capabilities, decisions
from router.money import reports
from router.policy_in_force import known_price

MOST_ENTRIES = 1_000


class RecordedDecision(Struct, frozen=True, kw_only=True):
    """What was recorded of one request. `decision` is None where it was refused before anything was decided; it holds no text of the request."""

    request_id: str
    tenant: str
    key_id: str
    user_id: str | None
    created_at: float
    policy_version: int
    dialect: str
    data_class: str
    outcome: str
    error: str | None
    backend: str
    input_hash: str
    decision: Decision | None
    state: StateNow | None
    citations: tuple[Place, ...]
    moderation: dict[str, int]


class DecisionPath(Struct, frozen=True):
    """Everything that is known of one request, without its prompt: `attempts` are its ledger rows, `audit` the entries that name it."""

    decision: RecordedDecision
    attempts: tuple[dict[str, Any], ...]
    audit: tuple[AuditEntry, ...]


class Replay(Struct, frozen=True):
    """The recorded decision made anew from its policy version, features, state and seed. `problem` says why that cannot be."""

    request_id: str
    equal: bool
    recorded: Decision | None
    replayed: Decision | None
    problem: str | None = None


def recorded(connection: Connection, request_id: str, tenant: str | None = None) -> RecordedDecision | None:
    """What was recorded of a request; None where nothing is (any more), or where it is another tenant's."""
    query = select(decisions).where(decisions.c.request_id == request_id)
    if tenant is not None:
        query = query.where(decisions.c.tenant == tenant)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        return None
    fields = {name: row[name] for name in RecordedDecision.__struct_fields__}
    fields["decision"] = None if row["decision"] is None else msgspec.json.decode(row["decision"], type=Decision)
    fields["state"] = None if row["state"] is None else msgspec.json.decode(row["state"], type=StateNow)
    fields["citations"] = msgspec.json.decode(row["citations"], type=tuple[Place, ...])
    fields["moderation"] = msgspec.json.decode(row["moderation"], type=dict[str, int])
    return RecordedDecision(**fields)


def path_of(connection: Connection, request_id: str, tenant: str | None = None) -> DecisionPath | None:
    """The whole path of a request; None as `recorded`."""
    found = recorded(connection, request_id, tenant)
    if found is None:
        return None
    attempts = reports.ledger_rows(connection, tenant=found.tenant, request_id=request_id, limit=MOST_ENTRIES)
    named = or_(audit_log.c.request_id == request_id, audit_log.c.object_id == request_id)
    query = select(audit_log).where(audit_log.c.chain == CHAIN, audit_log.c.tenant == found.tenant, named).order_by(audit_log.c.seq).limit(MOST_ENTRIES)
    entries = tuple(shown_entry(row) for row in connection.execute(query).mappings())
    return DecisionPath(found, tuple(sorted(attempts, key=lambda row: str(row["started_at"]))), entries)


def replay(connection: Connection, request_id: str, source: str) -> Replay | None:
    """Decide once more as it was decided then. None where nothing is recorded of the request. The kinds of backend must be loaded."""
    found = recorded(connection, request_id)
    if found is None:
        return None
    was = found.decision
    if was is None or found.state is None:
        return Replay(request_id, False, was, None, "nothing was decided: the request was refused before")
    version = policy_store.get_version(connection, found.policy_version)
    if version is None:
        return Replay(request_id, False, was, None, f"there is no policy version {found.policy_version} any more")
    content = connection.execute(select(decision_capabilities.c.content).where(decision_capabilities.c.id == found.state.capabilities)).scalar()
    if content is None:
        return Replay(request_id, False, was, None, "what the backends could do is not recorded any more")
    try:
        policy = load_policy(version.text, source, price_of=known_price)
    except PolicyError as error:
        return Replay(request_id, False, was, None, f"policy version {version.version} cannot be loaded any more: {error}")
    able = msgspec.json.decode(content, type=dict[str, Capabilities])
    state = State(
        backends={
            name: BackendState(
                capabilities=able[name],
                ready=now.ready,
                reason=now.reason,
                upper_cost_usd=now.upper_cost_usd,
                least_cost_usd=now.least_cost_usd,
                input_tokens=now.input_tokens,
            )
            for name, now in found.state.backends.items()
        },
        remaining_usd=found.state.remaining_usd,
        allowed_models=found.state.allowed_models,
        seed=was.seed,
        thresholds=found.state.thresholds,
    )
    again = decide(policy, was.features, state)
    return Replay(request_id, again == was, was, again)
