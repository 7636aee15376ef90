"""Logged decisions, made again under the version that made them, come out the same to the bit; and what `explain` says is what then happens."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st
from sqlalchemy import select, update

from policies.access import Scopes
from policies.record import Record
from router import policy_store
from router.audit.replaying import Chosen, records
from router.audit.tables import decisions
from router.identity.keys import create_key
from router.policy_replaying import Replayed, replayed
from router.tables import ledger
from tests.conftest import LONG
from tests.serving import SECRET, Service, serving

REQUESTS = 10_000 if LONG else 400
EXPLAINED = 1_000 if LONG else 100

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello.", price: {input: 1.0, output: 4.0}, clearance: internal, max_output_tokens: 400}
  large: {kind: scripted, text: "Large.", price: {input: 10, output: 40}, clearance: internal, max_output_tokens: 400}
  home: {kind: scripted, text: "At home.", clearance: restricted}
  spare: {kind: scripted, text: "In need."}
  broken: {kind: scripted, fault: {error: provider_error}, retry: {attempts: 1}, breaker: {failures: 3, open_s: 0.2}}
  blind: {kind: scripted, text: "I see nothing.", capabilities: {vision: false, tools: false}, context_window: 2000}
rules:
  - {name: stays, when: {data_class: restricted}, use: [home], lock: true}
  - {name: kept, when: {tags: kept}, use: {weighted: {mini: 1, large: 1}, sticky: conversation}}
  - {name: tried, when: {tags: tried}, use: [mini], canary: {use: [large], share: 0.3, sticky: request, guard: {min_requests: 1000000}}}
  - {name: cheap, when: {any: [{tags: cheap}, {max_budget_left: 0.1}]}, use: {cheapest: [large, mini], max_cost_usd: 0.02}}
  - {name: quick, when: {tags: quick, not: {language: de}}, use: {fastest: [mini, large]}, fallback: {unavailable: [home]}}
  - {name: best, when: {tags: best}, use: {best_of: [mini, large], judge: home}}
  - {name: half, when: {task: code}, use: {weighted: {mini: 3, large: 1, broken: 1}}}
  - {name: names, when: {model: fast}, use: [broken, blind, mini], pin_fallback: true}
  - {name: hard, when: {min_complexity: 0.55}, use: [large, mini]}
  - {name: sums, when: {task: math}, use: [broken, mini]}
complexity: {weak: mini, strong: large, target: {strong_share: 0.4}, explore: 1}
cascade: {on: [mini], to: large, verify: [length, refusal], min_characters: 8}
default: [blind, mini]
fallback: [broken]
limits: {models: {blind: {rpm: 600}}}
tenants:
  acme: {budget_usd: {month: %s}, on_budget_end: spare}
  globex: {budget_usd: {per_key: {day: %s}}}
"""
BUDGETS = (0.5, 0.2) if LONG else (0.02, 0.004)
"""Of which some of the requests use up all."""

QUESTIONS = st.sampled_from(
    [
        "Write a python function that reverses a list.",
        "What is the capital of France?",
        "Prove that the integral of a continuous function over a matrix group is either constant or a polynomial, if each of the following statements holds.",
        "A box has 12 pens and 7 are taken each day; how many are left after 3 days in total?",
        "Translate this to German: good morning",
        "hm",
        "",
    ]
)
TAGS = ("kept", "tried", "cheap", "quick", "best", "other")
"""By each of which a rule of its own decides, but for the last one."""

BODIES = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["auto", "auto", "auto", "fast", "mini", "large", "scripted", "blind", "broken", "home", "nobody"]),
        "messages": st.lists(QUESTIONS.map(lambda text: {"role": "user", "content": text}), min_size=1, max_size=3),
        "stream": st.booleans(),
    },
    optional={
        "max_tokens": st.integers(1, 5_000),
        "tools": st.just([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]),
        "headgate": st.fixed_dictionaries(
            {},
            optional={
                "data_class": st.sampled_from(["public", "internal", "confidential", "restricted"]),
                "seed": st.integers(0, 2**31),
                "max_cost_usd": st.floats(0, 0.05, allow_nan=False),
            },
        ),
    },
)
"""Chat requests of every kind: pins and aliases, hints, needs, caps; some that nothing may answer."""


def bodies(count: int) -> list[dict[str, Any]]:
    """As many as hypothesis finds different, over and over."""
    found: list[dict[str, Any]] = []

    @hypothesis.settings(max_examples=count, database=None, derandomize=True, phases=[hypothesis.Phase.generate])
    @hypothesis.given(BODIES)
    def collect(body: dict[str, Any]) -> None:
        found.append(body)

    collect()
    return list(itertools.islice(itertools.cycle(found), count))


def tagged(count: int) -> list[dict[str, Any]]:
    """As many for each tag, before the budgets are used up; of the one that no rule names, what complexity decides."""
    asked = {"model": "auto", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    return [{**asked, "stream": number % 2 == 0, "headgate": {"tags": [tag]}} for tag in reversed(TAGS) for number in range(count // len(TAGS))]


async def post(service: Service, session: aiohttp.ClientSession, path: str, body: dict[str, Any], key: str) -> tuple[int, str, Any]:
    """Status, request id, and what is answered (of a stream its text)."""
    async with session.post(service.url + path, json=body, headers=service.bearer(key)) as answer:
        said = await (answer.json() if answer.content_type == "application/json" else answer.text())
        return answer.status, answer.headers["x-request-id"], said


async def ask(service: Service, asked: list[dict[str, Any]], keys: list[str]) -> Counter[int]:
    """Send them all, eight at a time, and count the statuses."""
    statuses: Counter[int] = Counter()
    waiting = list(reversed(list(zip(asked, itertools.cycle(keys), strict=False))))
    async with aiohttp.ClientSession() as session:

        async def client() -> None:
            while waiting:
                body, key = waiting.pop()
                statuses[(await post(service, session, "/v1/chat/completions", body, key))[0]] += 1

        await asyncio.gather(*(client() for _ in range(8)))
    return statuses


async def replay(service: Service, **chosen: Any) -> Replayed:
    await service.gateway.recorder.flush()
    return await service.database.read(lambda connection: replayed(connection, Chosen(**chosen), "test"))


async def narrow_key(service: Service) -> str:
    def work(connection: Any) -> str:
        return create_key(connection, SECRET, tenant="acme", role="member", scopes=Scopes(models=("mini", "home", "fast"))).key

    return await service.database.write(work)


@pytest.mark.timeout(1200 if LONG else 300)
async def test_decisions_made_again_under_their_own_version_are_identical(tmp_path: Path, database_url: str) -> None:
    async with serving(POLICY % BUDGETS, tmp_path, database_url=database_url) as service:
        asked, keys = [*tagged(REQUESTS // 3), *bodies(REQUESTS)], [service.key, service.other_key, await narrow_key(service)]
        middle = len(asked) // 2
        statuses = await ask(service, asked[:middle], keys)
        changed = (POLICY % BUDGETS).replace("mini: 3, large: 1", "mini: 1, large: 1").replace("strong_share: 0.4", "strong_share: 0.3")
        await service.database.write(lambda connection: policy_store.add_version(connection, changed, source="api", author="test"))
        await service.gateway.policy.refresh()
        statuses += await ask(service, asked[middle:], keys)
        assert {200, 402, 404} <= statuses.keys() <= {200, 400, 402, 403, 404, 429, 502, 503}
        found = await replay(service)
        assert found.identical == found.requests > 0.9 * sum(count for status, count in statuses.items() if status == 200)
        assert (found.changed, found.unreadable) == ((), {})

        every = await service.database.read(lambda connection: list(records(connection)))
        assert {record.policy_version for record in every} == {1, 2}
        assert all(record.policy_hash.startswith(record.decision.policy_version) for record in every)
        seen = {reason.partition(":")[0] for record in every for reason in record.decision.reasons}
        assert seen >= {"rule", "weighted", "complexity", "pin", "lock", "fallback", "excluded", "on_budget_end", "explore", "canary", "cheapest", "fastest"}
        assert {True, False} == {record.decision.cascade is None for record in every} == {record.decision.ensemble is None for record in every}
        codes = {exclusion.code for record in every for exclusion in record.decision.excluded}
        assert codes >= {"budget", "clearance", "feature", "lock", "max_cost", "not_allowed", "unavailable"}
        await a_changed_decision_is_found(service, every[0])


async def a_changed_decision_is_found(service: Service, record: Record) -> None:
    forged = msgspec.structs.replace(record.decision, seed=record.decision.seed, propensity=0.125)

    def forge(connection: Any) -> None:
        text = msgspec.json.encode(forged).decode()
        connection.execute(update(decisions).where(decisions.c.request_id == record.request_id).values(decision=text))

    await service.database.write(forge)
    found = await replay(service)
    assert found.identical == found.requests - 1
    assert [(each.request_id, [differs.field for differs in each.differences]) for each in found.changed] == [(record.request_id, ["propensity"])]


async def test_what_a_limit_passed_over_is_passed_over_again(tmp_path: Path) -> None:
    policy = """
version: 1
backends: {first: {kind: scripted, text: One.}, second: {kind: scripted, text: Two.}}
default: [first, second]
fallback: []
limits: {models: {first: {rpm: 2}}, burst_s: 60}
"""
    async with serving(policy, tmp_path) as service:
        statuses = await ask(service, [{"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}] * 6, [service.key])
        assert statuses == {200: 6}
        found = await replay(service)
        assert (found.requests, found.identical) == (6, 6)
        every = await service.database.read(lambda connection: list(records(connection)))
        assert sum("excluded:first:rate_limit" in record.decision.reasons for record in every) >= 3


@pytest.mark.timeout(1200 if LONG else 300)
async def test_explain_says_what_then_happens(tmp_path: Path, database_url: str) -> None:
    """Nothing else is under way, and no breaker opens between the two: the same request with the same seed goes where it was said to go."""
    policy = (POLICY % BUDGETS).replace("failures: 3", "failures: 1000000").replace("limits: {models: {blind: {rpm: 600}}}\n", "")
    policy = "".join(line for line in policy.splitlines(keepends=True) if "best_of" not in line and "cascade" not in line)  # which call others, too
    policy = policy.replace(", fallback: {unavailable: [home]}", "")  # which is another order than the candidates'
    async with serving(policy, tmp_path, database_url=database_url) as service, aiohttp.ClientSession() as session:
        came: Counter[str] = Counter()
        keys = [service.key, service.other_key, await narrow_key(service)]
        for number, (body, key) in enumerate(zip([*tagged(EXPLAINED // 5), *bodies(EXPLAINED)], itertools.cycle(keys), strict=False)):
            hints = {"seed": number, **body.get("headgate", {})}
            status, _, said = await post(service, session, "/v1/route/explain", {**body, "headgate": hints}, key)
            done, request_id, answer = await post(service, session, "/v1/chat/completions", {**body, "stream": False, "headgate": hints}, key)
            if status != 200:
                assert (done, answer["error"]["code"]) == (status, said["error"]["code"]), body
                came["refused"] += 1
                continue
            tried = await attempts(service, request_id)
            assert tuple(tried) == tuple(said["candidates"][: len(tried)]), body
            if done == 200:
                told = answer["headgate"]
                assert (told["backend"], told["rule"]) == (tried[-1], said["rule"] or said["reasons"][0].partition(":")[0]), body
            else:
                assert len(tried) == len(said["candidates"]), body
            came["answered" if done == 200 else "failed"] += 1
        assert came.keys() == {"refused", "answered", "failed"}


async def attempts(service: Service, request_id: str) -> list[str]:
    """The backends that were called for a request, in order."""
    query = select(ledger.c.backend).where(ledger.c.request_id == request_id).order_by(ledger.c.attempt)
    return await service.database.read(lambda connection: list(connection.execute(query).scalars()))
