"""Whose figures and identities a principal may look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.http.errors import ApiError

if TYPE_CHECKING:
    from policies.access import Principal


def tenant_scope(principal: Principal, tenant: str | None) -> str | None:
    """The tenant a principal may look at: the platform's keys any (None: all), everybody else their own. Raises `ApiError` 404 for another's."""
    if principal.platform:
        return tenant
    if tenant is not None and tenant != principal.tenant:
        raise ApiError(404, "tenant_not_found", f"No tenant {tenant!r}.", param="tenant")
    return principal.tenant
