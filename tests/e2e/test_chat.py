"""The chat endpoint with the official SDK, on a real socket."""

from __future__ import annotations

import time
from pathlib import Path

import openai
import pytest
from sqlalchemy import select

from adapters.output_limits import LONGEST_OUTPUT_TOKENS
from router.tables import ledger, reservations
from tests.serving import Service, serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello there, my friend.", price: {input: 1.0, output: 4.0}, retry: {attempts: 1}, directives: true}
  spare: {kind: scripted, text: "Spare answer."}
default: mini
fallback: [spare]
moderation: {output: [pii], on_match: redact}
"""


def client(service: Service, key: str | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=key or service.key, max_retries=0)


async def ledger_rows(service: Service) -> list[dict[str, object]]:
    return await service.database.read(lambda c: [dict(row) for row in c.execute(select(ledger).order_by(ledger.c.started_at, ledger.c.attempt)).mappings()])


async def test_a_whole_answer_carries_usage_cost_and_the_backend(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service, client(service) as sdk:
        answer = await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}])
        assert answer.choices[0].message.content == "Hello there, my friend."
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
        about = answer.model_extra["headgate"]  # type: ignore[index]
        assert (about["backend"], about["rule"]) == ("mini", "default")
        (row,) = await ledger_rows(service)
        assert about["cost_usd"] == pytest.approx(row["cost"] / 1e12)  # type: ignore[operator]
        assert row["input_tokens"] == answer.usage.prompt_tokens
        assert row["outcome"] == "ok"


async def test_a_stream_ends_with_usage_and_the_ledger_row_is_there(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service, client(service) as sdk:
        stream = await sdk.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "Hi"}], stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "Hello there, my friend."
        assert chunks[-1].usage is not None
        assert not chunks[-1].choices
        assert chunks[-2].choices[0].finish_reason == "stop"
        (row,) = await ledger_rows(service)
        assert row["output_tokens"] == chunks[-1].usage.completion_tokens
        assert await service.database.read(lambda c: c.execute(select(reservations)).all()) == []


async def test_a_fault_before_the_first_event_falls_back(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service, client(service) as sdk:
        answer = await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "[[scripted fault=provider_error@start]]"}])
        assert [row["outcome"] for row in await ledger_rows(service)] == ["error", "ok"]
        assert answer.model_extra["headgate"]["backend"] == "spare"  # type: ignore[index]


async def test_personal_data_is_redacted_while_it_streams(tmp_path: Path) -> None:
    async with serving(POLICY.replace("Hello there, my friend.", "Write to jane.doe@example.com today"), tmp_path) as service, client(service) as sdk:
        stream = await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}], stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "Write to [EMAIL] today"


FALLBACKS = """
version: 1
backends:
  first: {kind: scripted, price: {input: 1.0, output: 1.0}, max_output_tokens: 600000, retry: {attempts: 1}, fault: {error: provider_error, at: start}}
  dear: {kind: scripted, price: {input: 1.0, output: 10000.0}, max_output_tokens: 2000000}
  spare: {kind: scripted, text: "Spare.", price: {input: 1.0, output: 1.0}, max_output_tokens: 500000}
default: first
fallback: [dear, spare]
tenants: {acme: {budget_usd: {month: 1}}}
"""


async def test_a_failed_attempts_reservation_does_not_count_against_its_own_fallback(tmp_path: Path) -> None:
    async with serving(FALLBACKS, tmp_path) as service, client(service) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(model="auto", messages=[{"role": "user", "content": "Hi"}])
        assert raw.parse().choices[0].message.content == "Spare."
        # The first attempt's 0.60 USD would leave 0.40 of what the last one asks for, and the least that the dear one may do costs more than the budget.
        assert "x-headgate-clamped" not in raw.headers
        failed, answered = await ledger_rows(service)
        assert [(row["backend"], row["outcome"]) for row in (failed, answered)] == [("first", "error"), ("spare", "ok")]
        assert 500_000 * 10**6 <= int(str(answered["reserved"])) < 500_200 * 10**6


@pytest.mark.parametrize(("limit", "expected"), [(2**31 - 1, 50), (20, 20), (None, 50)])
async def test_an_output_limit_is_never_more_than_the_backend_can_do(tmp_path: Path, limit: int | None, expected: int) -> None:
    policy = POLICY.replace("directives: true", "max_output_tokens: 50")
    async with serving(policy, tmp_path) as service, client(service) as sdk:
        await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}], max_tokens=limit or openai.omit)
        (row,) = await ledger_rows(service)
        assert (int(str(row["reserved"])) // 10**6 - expected * 4) in range(200)  # the rest is the input's bound


async def test_the_largest_limit_of_a_request_is_reserved_and_settled(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service, client(service) as sdk:
        await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}], max_tokens=2**31 - 1)
        (row,) = await ledger_rows(service)
        assert row["outcome"] == "ok"
        assert (int(str(row["reserved"])) // 10**6 - LONGEST_OUTPUT_TOKENS * 4) in range(200)


async def test_a_figure_that_cannot_be_counted_does_not_fail_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(POLICY, tmp_path) as service, client(service) as sdk:

        def refuse(**_figures: object) -> None:
            raise ValueError("counters can only go up")

        monkeypatch.setattr(service.gateway.metrics, "request_done", refuse)
        answer = await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}])
        assert answer.choices[0].message.content == "Hello there, my friend."


@pytest.mark.parametrize("first", ["", " fault=provider_error@15"])
async def test_the_overhead_of_a_whole_answer_leaves_out_what_the_backends_took(tmp_path: Path, first: str) -> None:
    policy = POLICY.replace('text: "Spare answer."', 'text: "Spare answer.", first_delay_s: 0.2, delay_s: 0.2')
    async with serving(policy, tmp_path) as service, client(service) as sdk:
        began = time.perf_counter()
        raw = await sdk.chat.completions.with_raw_response.create(
            model="auto", messages=[{"role": "user", "content": f"[[scripted deltas=20 delay=0.1{first}]]"}]
        )
        took_ms = (time.perf_counter() - began) * 1_000
        assert raw.headers["x-headgate-backend"] == ("spare" if first else "mini")
        assert 0 < float(raw.headers["x-headgate-overhead-ms"]) <= took_ms - 1_500  # for so long at least the backends slept
