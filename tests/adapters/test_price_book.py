"""The price book against genai-prices' own reckoning."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from decimal import Decimal

import genai_prices
import pytest

from adapters.backend import BackendContext, BackendSpec, RemoteSpec, kind_named, register
from adapters.cost import PICODOLLARS, cost, upper_bound
from adapters.price_book import price_for, price_of
from adapters.scripted import ScriptedSpec
from adapters.types import Usage
from config.prices import FREE, Price

MODELS = [
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-2024-08-06"),
    ("openai", "gpt-4o-mini"),
    ("openai", "gpt-4.1-nano"),
    ("openai", "gpt-5-mini"),
    ("openai", "gpt-5-mini-2025-08-07"),
    ("openai", "gpt-5"),
    ("openai", "o3"),
    ("openai", "text-embedding-3-small"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-sonnet-4-5-20250929"),
    ("anthropic", "claude-3-5-haiku-latest"),
    ("anthropic", "claude-opus-4-1"),
    ("gcp.gemini", "gemini-2.5-pro"),
    ("gcp.gemini", "gemini-2.5-flash"),
    ("gcp.gemini", "gemini-2.0-flash"),
]
USAGES = [
    Usage(),
    Usage(1, 1),
    Usage(1234, 567),
    Usage(1234, 567, cache_read_input_tokens=1000),
    Usage(200_000, 900, cache_read_input_tokens=50_000),
    Usage(200_001, 900, cache_read_input_tokens=50_000),
    Usage(950_000, 60_000, cache_read_input_tokens=1),
]
PROVIDER_IDS = {"openai": "openai", "anthropic": "anthropic", "gcp.gemini": "google"}
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def reckoned(usage: Usage, provider: str, model: str, at: datetime) -> Decimal:
    theirs = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_input_tokens,
        cache_write_tokens=usage.cache_creation_input_tokens,
    )
    return genai_prices.calc_price(theirs, model, provider_id=PROVIDER_IDS[provider], genai_request_timestamp=at).total_price


@pytest.mark.parametrize(("provider", "model"), MODELS)
def test_costs_equal_those_of_genai_prices(provider: str, model: str) -> None:
    price = price_of(provider, model, at=NOW)
    assert price is not None
    for usage in USAGES:
        assert Decimal(cost(usage, price)) / PICODOLLARS == reckoned(usage, provider, model, NOW), usage


@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-haiku-4-5"])
@pytest.mark.parametrize("total", [9000, 250_000])
def test_writing_to_a_cache_costs_what_genai_prices_says(model: str, total: int) -> None:
    usage = Usage(total, 100, cache_read_input_tokens=3000, cache_creation_input_tokens=2000)
    price = price_of("anthropic", model, at=NOW)
    assert price is not None
    assert Decimal(cost(usage, price)) / PICODOLLARS == reckoned(usage, "anthropic", model, NOW)


def test_every_chat_model_of_the_three_providers_is_reckoned_alike_today() -> None:
    from genai_prices.data_snapshot import get_snapshot

    usage = Usage(300_000, 4321, cache_read_input_tokens=100_000)
    checked = 0
    for provider, known in PROVIDER_IDS.items():
        models = next(seller for seller in get_snapshot().providers if seller.id == known).models
        for model in models:
            price = price_of(provider, model.id, at=NOW)
            if price is not None:
                checked += 1
                assert abs(Decimal(cost(usage, price)) / PICODOLLARS - reckoned(usage, provider, model.id, NOW)) < Decimal("1e-6"), model.id
    assert checked > 150


def test_three_hundred_random_usages_of_random_models_cost_what_genai_prices_says() -> None:
    """Cached, written, reasoned, spoken and long ones, over every chat model of the three providers."""
    from genai_prices.data_snapshot import get_snapshot

    chance = random.Random(3)
    models = [
        (provider, model.id) for provider, known in PROVIDER_IDS.items() for seller in get_snapshot().providers if seller.id == known for model in seller.models
    ]
    checked = spoken = 0
    while checked < 300:
        provider, model = chance.choice(models)
        price = price_of(provider, model, at=NOW)
        if price is None or not price.output:
            continue
        total, output = int(10 ** chance.uniform(0, 6)), int(10 ** chance.uniform(0, 5))
        read, heard = chance.randint(0, total), 0 if price.audio_input is None else chance.randint(0, total)
        # Of what was heard, at least what does not fit beside the cache was not cached.
        heard_cached = chance.randint(max(0, heard + read - total), min(read, heard))
        written = 0 if price.cache_write is None else chance.randint(0, total - read - (heard - heard_cached))
        said = 0 if price.audio_output is None else chance.randint(0, output)
        usage = Usage(
            total,
            output,
            read,
            written,
            chance.randint(0, output),
            heard,
            said,
            audio_cache_read_input_tokens=heard_cached if price.audio_input is not None else 0,
        )
        theirs: dict[str, int] = {"input_tokens": total, "output_tokens": output, "cache_read_tokens": read, "cache_write_tokens": written}
        if price.audio_input is not None:
            theirs |= {"input_audio_tokens": heard, "cache_audio_read_tokens": heard_cached}
        if price.audio_output is not None:
            theirs |= {"output_audio_tokens": said}
        expected = genai_prices.calc_price(genai_prices.Usage(**theirs), model, provider_id=PROVIDER_IDS[provider], genai_request_timestamp=NOW).total_price
        assert abs(Decimal(cost(usage, price)) / PICODOLLARS - expected) < Decimal("1e-6"), (model, usage)
        assert cost(usage, price) <= upper_bound(total, output, price, spoken=bool(heard or said)), (model, usage)
        checked, spoken = checked + 1, spoken + bool(heard or said)
    assert spoken >= 10


def test_spoken_input_has_its_own_rate_and_is_reserved_for_where_a_request_may_hold_some() -> None:
    price = price_of("gcp.gemini", "gemini-2.5-flash", at=NOW)
    assert price is not None
    assert cost(Usage(1000, 0, audio_input_tokens=1000), price) == 1000 * 1_000_000
    assert cost(Usage(1000, 0), price) == upper_bound(1000, 0, price) == 1000 * 300_000
    assert upper_bound(1000, 0, price, spoken=True) == 1000 * 1_000_000


@pytest.mark.parametrize(("provider", "model"), [("gcp.gemini", "gemini-2.5-flash-image"), ("gcp.gemini", "gemini-3-pro-image-preview")])
def test_a_model_whose_pictures_have_a_rate_of_their_own_has_no_price_until_one_is_configured(provider: str, model: str) -> None:
    assert price_of(provider, model) is None


def test_a_price_that_changes_on_a_date_changes_on_that_date() -> None:
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import StartDateConstraint

    openai = next(seller for seller in get_snapshot().providers if seller.id == "openai")
    changed = [
        (model.id, step.constraint.start_date)
        for model in openai.models
        if isinstance(model.prices, list)
        for step in model.prices
        if isinstance(step.constraint, StartDateConstraint)
    ]
    assert changed
    for model, day in changed:
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        for at in (start.replace(year=start.year - 3), start):
            price = price_of("openai", model, at=at)
            assert price is not None
            assert Decimal(cost(Usage(1000, 1000), price)) / PICODOLLARS == reckoned(Usage(1000, 1000), "openai", model, at)


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "no-such-model"), ("anthropic", "gpt-5-mini"), ("acme", "gpt-5-mini"), ("openai", ""), ("openai", "whisper-1")]
)
def test_what_the_book_does_not_know_has_no_price(provider: str, model: str) -> None:
    assert price_of(provider, model) is None


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1:8000/v1",
        "http://localhost:11434/v1",
        "https://llm.example.com/v1",
        "http://api.openai.com/v1",
        "https://api.openai.com:8443/v1",
        "https://api.openai.com.example.com/v1",
        "https://api.openai.com@example.com/v1",
        "https://example.com/https://api.openai.com/v1",
        "https://example.com/x.googleapis.com",
    ],
)
def test_a_strangers_server_has_no_known_price_whatever_it_calls_its_models(base_url: str) -> None:
    assert price_of("openai", "gpt-5-mini", base_url) is None
    assert price_of("gcp.gemini", "gemini-2.5-pro", base_url) is None


@pytest.mark.parametrize(
    ("base_url", "model"),
    [
        ("https://api.openai.com/v1", "gpt-5-mini"),
        ("https://API.openai.com:443/v1/", "gpt-5-mini"),
        ("https://generativelanguage.googleapis.com", "gemini-2.5-pro"),
    ],
)
def test_the_providers_own_host_has_the_providers_price(base_url: str, model: str) -> None:
    provider = "openai" if model.startswith("gpt") else "gcp.gemini"
    assert price_of(provider, model, base_url) == price_of(provider, model) is not None


def test_an_openai_compatible_host_that_the_book_knows_has_its_own_price() -> None:
    price = price_of("openai", "deepseek-chat", "https://api.deepseek.com/v1", at=NOW)
    assert price is not None
    assert price.input > 0
    assert price_of("openai", "gpt-5-mini", "https://api.deepseek.com/v1") is None


def test_local_work_is_free_and_a_price_in_the_yaml_wins() -> None:
    assert price_of("local", "anything") == FREE
    assert price_for(ScriptedSpec(kind="scripted")) == FREE
    own = Price(input=1.0, output=2.0)
    assert price_for(ScriptedSpec(kind="scripted", price=own)) == own


def test_a_remote_backend_takes_its_price_from_the_book_only_at_its_own_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.backend._KINDS", {})  # the kind of this test stays in this test

    @register("price-book-test", RemoteSpec, remote=True, provider="openai")
    def factory(name: str, spec: BackendSpec, context: BackendContext) -> object:
        raise AssertionError("no backend is made here")

    assert kind_named("price-book-test").remote
    assert price_for(RemoteSpec(kind="price-book-test", model="gpt-5-mini")) == price_of("openai", "gpt-5-mini")
    assert price_for(RemoteSpec(kind="price-book-test", model="gpt-5-mini", base_url="http://127.0.0.1:9/v1")) is None
    assert price_for(RemoteSpec(kind="price-book-test")) is None
