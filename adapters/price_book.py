"""The price book: what providers charge, from genai-prices' data (shipped with it; no network)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from adapters.backend import BackendSpec, RemoteSpec, kind_named
from config.prices import FREE, Price, PriceTier

_PROVIDERS = {"openai": "openai", "anthropic": "anthropic", "gcp.gemini": "google", "gemini": "google"}
"""Our word for a provider, and genai-prices'."""


def price_of(provider: str, model: str, base_url: str | None = None, at: datetime | None = None) -> Price | None:
    """The price of a provider's model at that time (default: now), or None where it is not known.

    A server at a `base_url` of its own is priced only if the book knows that host: a model's name says nothing about what a stranger charges
    for it. Provider `local` is free. Some models are cheaper at certain hours, so ask again rather than keep an answer for a day.
    """
    if provider == "local":
        return FREE
    found = _found(provider, model, base_url)
    return None if found is None else _as_price(found.get_prices(at or datetime.now(tz=UTC)))


def window_for(spec: BackendSpec) -> int | None:
    """The tokens that a configured backend's model takes, as the book knows them; None where it does not."""
    base_url = spec.base_url if isinstance(spec, RemoteSpec) else None
    found = _found(kind_named(spec.kind).provider, spec.model or "", base_url)
    return None if found is None else found.context_window


def _found(provider: str, model: str, base_url: str | None) -> Any:
    """The book's entry for a model at a provider, or None."""
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    if base_url is not None:
        seller = next((known for known in snapshot.providers if _is_host_of(known.api_pattern, base_url)), None)
    else:
        seller = next((known for known in snapshot.providers if known.id == _PROVIDERS.get(provider)), None)
    if seller is None:
        return None
    try:
        _, found = snapshot.find_provider_model(model, seller, None, None)
    except LookupError:
        return None
    return found


def price_for(spec: BackendSpec, at: datetime | None = None) -> Price | None:
    """The price of a configured backend at that time: its own `price`, else the book's. None is a configuration error for a backend that is used."""
    if spec.price is not None:
        return spec.price
    base_url = spec.base_url if isinstance(spec, RemoteSpec) else None
    return price_of(kind_named(spec.kind).provider, spec.model or "", base_url, at)


def version_for(spec: BackendSpec, at: datetime | None = None) -> str:
    """Where the price of a configured backend is from: `policy`; `local` for what is free because it runs here; else the book's release, with its rule.

    The rule says since when the price holds (`genai-prices 0.2.3, from 2026-02-01`), or in which hours, where the book has several.
    """
    if spec.price is not None:
        return "policy"
    provider = kind_named(spec.kind).provider
    if provider == "local":
        return "local"
    found = _found(provider, spec.model or "", spec.base_url if isinstance(spec, RemoteSpec) else None)
    rule = None if found is None else _rule(found, at or datetime.now(tz=UTC))
    return _release() if rule is None else f"{_release()}, {rule}"


def dated(prices: Mapping[str, Price], at: float) -> str | None:
    """The latest day that has begun, in UTC, of those from which a price holds."""
    if not prices:
        return None
    today = f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"
    begun = [day for day in prices if day <= today]
    return max(begun) if begun else None


@lru_cache(maxsize=1)
def _release() -> str:
    return f"genai-prices {version('genai-prices')}"


def _rule(found: Any, at: datetime) -> str | None:
    """Under which condition the book's price holds at that time: the same choice as `ModelInfo.get_prices` makes. None for one that holds always."""
    if not isinstance(found.prices, list):
        return None
    for each in reversed(found.prices):
        constraint = each.constraint
        if constraint is None:
            return None
        if constraint.active(at):
            start = getattr(constraint, "start_date", None)
            return f"from {start}" if start is not None else f"{constraint.start_time:%H:%M}-{constraint.end_time:%H:%M}"
    return None


@lru_cache(maxsize=4096)
def _is_host_of(pattern: str, base_url: str) -> bool:
    """Whether the URL lies at the provider's host: the pattern must cover the whole host, and a path cannot stand in for one."""
    parts = urlsplit(base_url)
    if parts.scheme != "https" or parts.netloc.lower() not in (parts.hostname, f"{parts.hostname}:443"):
        return False
    origin = f"https://{parts.hostname}"
    tried = [origin] if ".*" in pattern else [origin, origin + parts.path]
    return any((match := re.match(pattern, url)) is not None and match.end() >= len(origin) for url in tried)


def _as_price(rates: Any) -> Price | None:
    """One `ModelPrice` of genai-prices as ours: its tiers stand with each rate, ours with each threshold.

    None for a model whose pictures have a rate of their own: nobody here counts them apart, and at the rate of text they would be far too cheap.
    """
    names = {"input": rates.input_mtok, "output": rates.output_mtok, "cache_read": rates.cache_read_mtok, "cache_write": rates.cache_write_mtok}
    if names["input"] is None or rates.output_image_mtok is not None:
        return None
    audio = [None if rate is None else _rate(rate, 0) for rate in (rates.input_audio_mtok, rates.output_audio_mtok, rates.cache_audio_read_mtok)]
    starts = sorted({tier.start for rate in names.values() for tier in getattr(rate, "tiers", ())})
    per_thousand_calls = rates.requests_kcount
    return Price(
        input=_rate(names["input"], 0),
        output=_rate(names["output"] or Decimal(0), 0),
        cache_read=None if names["cache_read"] is None else _rate(names["cache_read"], 0),
        cache_write=None if names["cache_write"] is None else _rate(names["cache_write"], 0),
        request=0.0 if per_thousand_calls is None else float(per_thousand_calls / 1000),
        audio_input=audio[0],
        audio_output=audio[1],
        audio_cache_read=audio[2],
        tiers=tuple(
            PriceTier(
                above=start,
                input=_rate(names["input"], start + 1),
                output=_rate(names["output"] or Decimal(0), start + 1),
                cache_read=None if names["cache_read"] is None else _rate(names["cache_read"], start + 1),
                cache_write=None if names["cache_write"] is None else _rate(names["cache_write"], start + 1),
            )
            for start in starts
        ),
    )


def _rate(rate: Any, input_tokens: int) -> float:
    """A rate, plain or tiered, for an input of that many tokens."""
    if isinstance(rate, Decimal):
        return float(rate)
    return float(next((tier.price for tier in reversed(rate.tiers) if input_tokens > tier.start), rate.base))
