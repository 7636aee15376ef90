"""The endpoint matrix at work: which action a request's route needs, and whether its caller may.

One place for every route: none asks for itself. What a route is allowed to show of its tenant's objects is the route's own business.
"""

from __future__ import annotations

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.response.base import ASGIResponse
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, Receive, Scope, Send

from policies.access import Action, Principal, allowed, role_allows
from policies.access_matrix import ACCESS, OPEN, Endpoint, Open
from router.http.errors import ApiError

PREFLIGHT = "OPTIONS"
"""Answered here for every path, with the methods that it has and nothing else; any key will do. (The framework's own answer leaves out the methods of all
but one of a path's handlers.)"""


class RouteWithoutRow(RuntimeError):
    """A route has no row in the endpoint matrix, or a row has no route."""


def endpoints(app: Litestar) -> set[Endpoint]:
    """Every method and path template that the application answers."""
    routes = [route for route in app.routes if isinstance(route, HTTPRoute)]
    return {(method, route.path_format) for route in routes for method in route.route_handler_map if method != PREFLIGHT}


def require_rows(app: Litestar) -> None:
    """Raises `RouteWithoutRow` unless the routes and the matrix name the same endpoints."""
    found = endpoints(app)
    for what, differing in (("no row", found - ACCESS.keys()), ("a row and no route", ACCESS.keys() - found)):
        if differing:
            raise RouteWithoutRow(f"{what} in policies/access_matrix.py: {', '.join(' '.join(each) for each in sorted(differing))}")


def methods(path: str) -> list[str]:
    """What a path template can be asked with."""
    return sorted({PREFLIGHT, *(method for method, each in ACCESS if each == path)})


def needed(scope: Scope) -> Action | Open | None:
    """The action that a request's route needs. None for what only says which methods a path has."""
    method: str = scope["method"]  # type: ignore[typeddict-item]  # there are no web sockets here
    if method == PREFLIGHT:
        return None
    return ACCESS[method, scope["path_template"]]


def is_open(scope: Scope) -> bool:
    """Whether a request's route opens without a key."""
    return needed(scope) == OPEN


class Authorise(ASGIMiddleware):
    """Lets a request through to its route when its principal may do the action that the matrix names. Raises `ApiError` 403. Comes after `Authenticate`."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        action = needed(scope)
        if action is None:
            await ASGIResponse(status_code=204, headers={"allow": ", ".join(methods(scope["path_template"]))})(scope, receive, send)
            return
        if action != OPEN:
            require(scope["state"]["principal"], action)
        await next_app(scope, receive, send)


def require(principal: Principal, action: Action) -> None:
    """Raises `ApiError` 403 unless the principal may do this."""
    if allowed(principal, action):
        return
    if not role_allows(principal, action):
        raise ApiError(403, "not_permitted", f"The role {principal.role!r} may not do this ({action}).")
    limits = ", ".join(principal.routes or ())
    raise ApiError(403, "not_permitted", f"This key is limited to other routes ({limits}); this one needs {action}. Ask your administrator for another key.")
