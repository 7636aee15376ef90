"""Administration: alerts, backends. The policy's life: `policy`; tenants, teams, users and keys: `identity`; usage and the ledger: `usage`."""

from __future__ import annotations

from typing import Any

from litestar import get
from litestar.params import FromQuery

from router.alerts import book as alert_book
from router.alerts.shown import shown as shown_alert
from router.embedding import candidates
from router.http.context import HttpRequest, gateway_of, own_tenant, principal_of


@get("/admin/alerts", tags=["usage"], summary="The newest alerts on budgets, and whether they were delivered")
async def get_alerts(request: HttpRequest, tenant: FromQuery[str | None] = None, limit: FromQuery[int] = 100) -> dict[str, Any]:
    """What receivers are told, or could not be told yet. A tenant sees its own."""
    gateway, principal = gateway_of(request), principal_of(request)
    scope, rows = own_tenant(principal, tenant), max(1, min(limit, 1000))
    found = await gateway.database.read(lambda connection: alert_book.listed(connection, scope, rows))
    return {"data": [shown_alert(alert) for alert in found]}


@get("/admin/backends", tags=["operations"], summary="What is configured, and whether it is ready")
async def get_backends(request: HttpRequest) -> dict[str, Any]:
    gateway = gateway_of(request)
    active = gateway.policy.current
    return {
        "data": [
            {
                "name": name,
                "kind": active.policy.backends[name].spec.kind,
                "provider": backend.provider,
                "model": backend.model,
                "capabilities": backend.capabilities,
                "price": active.price(name),
                "health": health,
                "circuit": active.circuit(name),
                "rate_limit": active.rate_limits.get(name),
            }
            for (name, backend), health in zip(active.backends.items(), active.health.values(), strict=True)
        ],
        "embedders": [
            {
                "name": name,
                "provider": each.embedder.provider,
                "model": each.embedder.model,
                "clearance": each.clearance,
                "price": each.price,
                "health": each.embedder.health(),
            }
            for name, each in candidates(gateway, active).items()
        ],
    }


handlers = (get_alerts, get_backends)
