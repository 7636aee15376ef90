"""What changes are called in the audit log: of a policy, of documents, of the ledger, of what the first start makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import yaml
from sqlalchemy import Connection, select

from config.database import STATE_LOCK, exclusively
from retrieval.store import Documents
from retrieval.values import Change
from router import policy_store
from router.audit.log import FILE, SYSTEM, Actor, AuditAction, AuditLog, Entry, Subject
from router.identity.tables import keys, tenants
from router.money.sealing import SealKey, begin_sealing
from router.policy_store import PolicyVersion

T = TypeVar("T")
V = TypeVar("V", PolicyVersion, PolicyVersion | None)


def recorded_documents(documents: Documents, audit: AuditLog, actor: Actor) -> Documents:
    """The same documents; whatever the actor changes in them is recorded with the change."""

    def noted(connection: Connection, change: Change) -> None:
        kind = "file" if change.kind.startswith("file.") else "vector_store"
        audit.append(connection, Entry(actor, change.kind, Subject(kind, change.id, change.tenant, dict(change.details))))

    return documents.noting(noted)


def recorded_corrections(audit: AuditLog, actor: Actor, provider: str) -> Callable[[Connection, int, int], None]:
    """For a reconciliation: the entry of what one of its transactions booked."""

    def noted(connection: Connection, corrections: int, cost: int) -> None:
        audit.append(connection, Entry(actor, "ledger.reconcile", Subject("ledger", provider, "", {"corrections": corrections, "cost": cost})))

    return noted


def recorded_policy(
    audit: AuditLog, actor: Actor, action: AuditAction, work: Callable[[Connection], V], *, comment: str | None = None
) -> Callable[[Connection], V]:
    """Work that makes another policy active, with its entry and one for every budget that it changes. Where it changes nothing there is none.

    `comment` says why, where the version itself does not.
    """

    def both(connection: Connection) -> V:
        exclusively(connection, STATE_LOCK)
        before = policy_store.active_version(connection)
        after = work(connection)
        if after is not None and (before is None or before.version != after.version):
            audit.append(connection, *policy_entries(actor, action, before, after, comment))
        return after

    return both


def policy_entries(actor: Actor, action: AuditAction, before: PolicyVersion | None, after: PolicyVersion, comment: str | None = None) -> list[Entry]:
    """The version that became active, and the tenants whose budgets it changes."""
    details: dict[str, Any] = {"hash": after.hash, "source": after.source, "before": None if before is None else before.version}
    reason = after.comment if comment is None else comment
    if reason:
        details["comment"] = reason
    found = [Entry(actor, action, Subject("policy", str(after.version), "", details))]
    was, now = {} if before is None else budgets_of(before.text), budgets_of(after.text)
    for tenant in sorted({*was, *now}):
        if was.get(tenant) != now.get(tenant):
            changed = {"before": was.get(tenant), "after": now.get(tenant), "policy_version": after.version}
            found.append(Entry(actor, "budget.change", Subject("budget", tenant, tenant, changed)))
    return found


def budgets_of(text: str) -> dict[str, dict[str, Any]]:
    """Each tenant's `budget_usd` as a policy's text has it; nothing where the text is no policy."""
    try:
        file = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    tenants_of = file.get("tenants") if isinstance(file, dict) else None
    named = tenants_of.items() if isinstance(tenants_of, dict) else ()
    return {str(name): table["budget_usd"] for name, table in named if isinstance(table, dict) and isinstance(table.get("budget_usd"), dict)}


def recorded_start(audit: AuditLog, seals: SealKey, work: Callable[[Connection], T]) -> Callable[[Connection], T]:
    """The work of a start, with entries for the policy it imports and for the tenants and keys it makes, revokes or lets live again.

    With the first one rows of the ledger are sealed, which has an entry of its own: nobody can later say that none were.
    """

    def both(connection: Connection) -> T:
        exclusively(connection, STATE_LOCK)
        policy, known, live = policy_store.active_version(connection), _tenants(connection), _keys(connection)
        result = work(connection)
        found: list[Entry] = []
        active = policy_store.active_version(connection)
        if active is not None and (policy is None or policy.version != active.version):
            found += policy_entries(FILE, "policy.import", policy, active)
        found += [Entry(SYSTEM, "tenant.create", Subject("tenant", name, name)) for name in sorted(_tenants(connection) - known)]
        for id, (tenant, role, revoked) in sorted(_keys(connection).items()):
            before = live.get(id)
            if before is None or before[2] != revoked:
                action: AuditAction = "key.create" if before is None else "key.revoke" if revoked else "key.restore"
                found.append(Entry(SYSTEM, action, Subject("key", id, tenant, {"role": role})))
        begin_sealing(connection, seals)  # its lock comes before the log's
        audit.append(connection, *found)
        return result

    return both


def _tenants(connection: Connection) -> set[str]:
    return set(connection.execute(select(tenants.c.name)).scalars())


def _keys(connection: Connection) -> dict[str, tuple[str, str, bool]]:
    columns = (keys.c.id, keys.c.tenant, keys.c.role, keys.c.revoked_at)
    return {row.id: (row.tenant, row.role, row.revoked_at is not None) for row in connection.execute(select(*columns))}
