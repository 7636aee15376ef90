"""The one error of this package."""

from __future__ import annotations


class RuleError(ValueError):
    """A rule, a rule's name or a deny-list term that cannot be used; the message says which and why."""
