"""What every route reads from its request: the worker's services, who asks, and the request's id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from litestar import Request
from litestar.datastructures import State

from router.http.errors import ApiError

if TYPE_CHECKING:
    from policies.access import Principal
    from router.gateway import Gateway

HttpRequest: TypeAlias = Request[Any, Any, State]


def gateway_of(request: HttpRequest) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def principal_of(request: HttpRequest) -> Principal:
    """The authenticated caller; every route behind the key has one."""
    principal: Principal = request.state.principal
    return principal


def request_id_of(request: HttpRequest) -> str:
    request_id: str = request.state.request_id
    return request_id


def own_tenant(principal: Principal, tenant: str | None) -> str | None:
    """The tenant whose objects a principal may look at: the platform's any (None: all), everybody else their own. Raises `ApiError` 404 for another."""
    if principal.platform:
        return tenant
    if tenant is not None and tenant != principal.tenant:
        raise ApiError(404, "tenant_not_found", f"No tenant {tenant[:80]!r}.", param="tenant")
    return principal.tenant
