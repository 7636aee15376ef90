"""What a receiver is told, and how it is signed."""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from adapters.cost import usd_float
from policies.load import Receiver

EventType: TypeAlias = Literal["budget.threshold", "budget.exhausted", "canary.rolled_back", "test"]
State: TypeAlias = Literal["pending", "delivered", "failed"]

SIGNATURE = "x-headgate-signature"
ALERT_ID = "x-headgate-alert-id"


class AlertEvent(Struct, frozen=True, kw_only=True):
    """The body that is sent. `scope` is empty for the tenant's own budget; `share` is null unless `type` is `budget.threshold`; `at` is in seconds."""

    id: str
    type: EventType
    tenant: str
    scope: str
    period: str
    share: float | None
    spent_usd: float
    reserved_usd: float
    cap_usd: float
    at: float

    def encoded(self) -> bytes:
        return msgspec.json.encode(self)


class Alert(Struct, frozen=True, kw_only=True):
    """A row of the table (`router.alerts.tables`); amounts in picodollars. `share` is 0 for `budget.exhausted`."""

    id: str
    type: EventType
    tenant: str
    scope: str
    period: str
    share: float
    receiver: Receiver
    spent: int
    reserved: int
    cap: int
    state: State
    tries: int
    next_try_at: float
    worker: str
    error: str | None
    created_at: float
    delivered_at: float | None

    def event(self) -> AlertEvent:
        """What is sent: the same at every try."""
        return AlertEvent(
            id=self.id,
            type=self.type,
            tenant=self.tenant,
            scope=self.scope,
            period=self.period,
            share=self.share or None,
            spent_usd=usd_float(self.spent),
            reserved_usd=usd_float(self.reserved),
            cap_usd=usd_float(self.cap),
            at=self.created_at,
        )


def signature(secret: str, body: bytes, at: int) -> str:
    """`t=UNIX,v1=HEX`: the HMAC-SHA256 of the time, a point and the body. The time makes an old message that is sent again recognisable."""
    return f"t={at},v1={hmac.new(secret.encode(), b'%d.' % at + body, hashlib.sha256).hexdigest()}"
