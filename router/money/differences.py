"""What the ledger and a provider's export do not agree on."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from adapters.cost import usd_float
from router.money.exports import Reported

Kind = Literal["not_in_ledger", "not_in_export", "differs", "ambiguous"]


class Difference(Struct, frozen=True, kw_only=True):
    """One of them. `name` is the provider's id of the request, ours where it has none, or the day and model. `fields` are `[ours, theirs]`; cost in USD.

    `estimated`: the ledger's figures were an estimate. `booked`: a correction now makes them equal.
    """

    kind: Kind
    name: str
    request_id: str | None = None
    attempt: int | None = None
    model: str = ""
    estimated: bool = False
    booked: bool = False
    fields: dict[str, tuple[float, float]] = {}
    detail: str = ""


def told(row: Reported) -> dict[str, tuple[float, float]]:
    """The fields of a row of the export that nothing of ours stands against."""
    fields: dict[str, tuple[float, float]] = {"input_tokens": (0, row.input_tokens), "output_tokens": (0, row.output_tokens)}
    if row.cost is not None:
        fields["cost_usd"] = (0.0, usd_float(row.cost))
    return fields


def not_in_ledger(row: Reported, request_id: str | None, attempt: int | None = None) -> Difference:
    return Difference(kind="not_in_ledger", name=row.name, request_id=request_id, attempt=attempt, model=row.model, fields=told(row))


def ambiguous(row: Reported, detail: str) -> Difference:
    return Difference(kind="ambiguous", name=row.name, request_id=row.request_id or None, model=row.model, fields=told(row), detail=detail)
