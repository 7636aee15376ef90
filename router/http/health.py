"""Operations: liveness, readiness, metrics."""

from __future__ import annotations

from typing import Any

from litestar import MediaType, Response, get

from router.http.context import HttpRequest, gateway_of
from router.telemetry import CONTENT_TYPE


@get("/health/live", tags=["operations"], summary="Is the process alive?")
async def live() -> dict[str, str]:
    """200 as long as the worker answers at all."""
    return {"status": "ok"}


@get(["/health/ready", "/health"], tags=["operations"], summary="Can it serve?")
async def ready(request: HttpRequest) -> Response[dict[str, Any]]:
    """200 when the database answers and a policy is in force, else 503; with the state of every backend."""
    gateway = gateway_of(request)
    problem = await gateway.database_problem()
    active = gateway.policy.current
    backends = {name: {"ready": health.ready, "reason": health.reason} for name, health in active.health.items()}
    body: dict[str, Any] = {"status": "ready" if problem is None else "not_ready", "policy_version": active.version, "backends": backends}
    if problem is not None:
        body["reason"] = problem
    return Response(body, status_code=200 if problem is None else 503)


@get("/metrics", tags=["operations"], summary="Prometheus metrics", media_type=MediaType.TEXT)
async def metrics(request: HttpRequest) -> Response[bytes]:
    """All workers' metrics. Needs an operator's key: spend and backends are nobody else's business."""
    gateway = gateway_of(request)
    return Response(gateway.metrics.render(), media_type=CONTENT_TYPE)
