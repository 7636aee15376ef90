"""Alerts as the API and the command line show them: amounts in USD, and of receivers no more than their host."""

from __future__ import annotations

from typing import Any

import msgspec

from router.alerts.events import Alert


def shown(alert: Alert) -> dict[str, Any]:
    """The event that is sent, whom it is for, and how far it is. Of one that is not pending there is no next try."""
    return {
        **msgspec.to_builtins(alert.event()),
        "receiver": alert.receiver,
        "state": alert.state,
        "tries": alert.tries,
        "next_try_at": alert.next_try_at if alert.state == "pending" else None,
        "delivered_at": alert.delivered_at,
        "error": alert.error,
    }
