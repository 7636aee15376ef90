"""Who acts: the principal of a request, or whoever runs a command."""

from __future__ import annotations

import contextlib
import getpass

from policies.access import Principal
from router.audit.log import Actor


def key_actor(principal: Principal, request_id: str) -> Actor:
    """A key that asks over HTTP."""
    return Actor(id=principal.key_id, role=principal.role, user=principal.user, tenant=principal.tenant, request_id=request_id)


def command_line() -> Actor:
    """Whoever runs this command, by the name that the operating system has for them."""
    name = ""
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container's user may have no name
        name = getpass.getuser()
    return Actor(id="cli", details={"os_user": name} if name else {})
