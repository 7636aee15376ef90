"""`POST /v1/moderations` as the OpenAI SDK meets it: places, never texts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests import openai_schema
from tests.serving import Service, serving

POLICY = """
version: 1
backends: {chat: {kind: scripted, text: "Hello."}}
default: chat
input: {max_characters: 50000}
moderation: {output: [secrets, deny-list], deny_list: [badger], on_match: flag}
tenants:
  globex: {moderation: {output: [], deny_list: []}}
"""
CARD, KEY = "4111 1111 1111 1111", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
TEXT = f"pay {CARD} with {KEY}, badger"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(POLICY, tmp_path) as service:
        yield service


async def post(service: Service, body: Any, key: str | None = None) -> tuple[int, Any, str]:
    async with httpx2.AsyncClient() as client:
        answer = await client.post(f"{service.url}/v1/moderations", json=body, headers=service.bearer(key))
        return answer.status_code, answer.json(), answer.text


def found(result: dict[str, Any]) -> list[tuple[str, str, int, int]]:
    return [(match["rule"], match["category"], match["start"], match["end"]) for match in result["headgate"]["matches"]]


GITHUB = ("github-token", "secrets", TEXT.index(KEY), TEXT.index(KEY) + len(KEY))
BADGER = ("deny-list", "deny-list", TEXT.index("badger"), len(TEXT))
PAN = ("card", "pii", 4, 4 + len(CARD))


async def test_the_tenants_rules_say_where_they_match(service: Service) -> None:
    status, answer, text = await post(service, {"input": TEXT})
    assert status == 200
    (result,) = answer["results"]
    assert result["flagged"]
    assert found(result) == [GITHUB, BADGER]
    assert (result["categories"]["secrets"], result["category_scores"]["secrets"]) == (True, 1.0)
    assert "pii" not in result["categories"]
    assert not result["categories"]["hate"]
    assert result["category_applied_input_types"]["hate"] == []
    assert result["headgate"]["judged"] == ["secrets", "deny-list"]
    assert not any(secret in text for secret in (CARD, KEY, "badger"))


async def test_all_runs_every_rule_whatever_the_tenants_policy_says(service: Service) -> None:
    (result,) = (await post(service, {"input": TEXT, "model": "all"}))[1]["results"]
    assert found(result) == [PAN, GITHUB, BADGER]
    for model, expected in (("all", [PAN, GITHUB]), (None, [])):
        (result,) = (await post(service, {"input": TEXT, "model": model}, service.other_key))[1]["results"]
        assert found(result) == expected
        assert result["flagged"] == bool(expected)


async def test_a_list_is_judged_text_by_text_and_parts_together(service: Service) -> None:
    results = (await post(service, {"input": ["fine", "a badger", ""]}))[1]["results"]
    assert [result["flagged"] for result in results] == [False, True, False]
    parts = [{"type": "text", "text": "fine"}, {"type": "text", "text": "a badger"}]
    (result,) = (await post(service, {"input": parts}))[1]["results"]
    assert result["headgate"]["matches"] == [{"rule": "deny-list", "category": "deny-list", "start": 2, "end": 8, "part": 1}]


async def test_a_long_text_is_judged_too(service: Service) -> None:
    (result,) = (await post(service, {"input": "x " * 10_000 + "badger"}))[1]["results"]
    assert found(result) == [("deny-list", "deny-list", 20_000, 20_006)]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"input": [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]}, 400, "unsupported_feature", "input[0]"),
        ({"input": ["a", {"type": "text", "text": "b"}]}, 400, "invalid_request", "input"),
        ({"input": []}, 400, "invalid_request", "input"),
        ({}, 400, "invalid_request", "input"),
        ({"input": "x" * 50_001}, 400, "context_length_exceeded", "input"),
        ({"input": "x", "model": "nobody"}, 404, "model_not_found", "model"),
    ],
)
async def test_what_cannot_be_judged_is_refused_by_name(service: Service, body: Any, status: int, code: str, param: str) -> None:
    got, answer, _ = await post(service, body)
    assert (got, answer["error"]["code"], answer["error"]["param"]) == (status, code, param)


async def test_the_sdk_reads_the_answer(service: Service) -> None:
    async with openai.AsyncOpenAI(api_key=service.key, base_url=f"{service.url}/v1", max_retries=0) as client:
        made = await client.moderations.create(input=["a badger", "fine"], model="omni-moderation-latest")
    assert [result.flagged for result in made.results] == [True, False]
    assert made.results[0].categories.hate is False
    assert made.id.startswith("modr-")


@pytest.mark.skipif(not openai_schema.present(), reason=openai_schema.ABSENT)
@pytest.mark.parametrize("model", ["all", "headgate"])
async def test_the_answer_is_what_openai_publishes(service: Service, model: str) -> None:
    _, answer, _ = await post(service, {"input": [TEXT, "fine"], "model": model})
    openai_schema.require_valid("CreateModerationResponse", answer)


async def test_an_operator_moderates_nothing(service: Service) -> None:
    assert (await post(service, {"input": "x"}, service.admin_key))[0] == 403
