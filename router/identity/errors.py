"""What can be wrong with an identity; every message says what to do next. `field` names what is at fault."""

from __future__ import annotations

import re

_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class InvalidName(ValueError):
    """A name, a role or another value that cannot be used; the message says what can."""

    def __init__(self, message: str, field: str = "role") -> None:
        super().__init__(message)
        self.field = field


class Exists(ValueError):
    """It is there already."""

    def __init__(self, message: str, field: str = "name") -> None:
        super().__init__(message)
        self.field = field


class Unknown(LookupError):
    """No such tenant, team, user, key or vector store; another tenant's counts as none. `kind` is which of these."""

    def __init__(self, message: str, kind: str, field: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.field = field or kind


def may_exist(name: str) -> bool:
    """Whether something can be called so. What cannot is looked for nowhere (PostgreSQL refuses a NUL)."""
    return _ID.fullmatch(name) is not None
