"""`GET /v1/models`: what a key may name, for OpenAI's and Anthropic's SDKs alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests import openai_schema
from tests.serving import Service, serving

POLICY = """
version: 1
backends:
  home: {kind: scripted, text: "Hello."}
  away: {kind: openai, model: gpt-5-mini, clearance: public}
embedders:
  small: {kind: openai, model: text-embedding-3-small}
  open: {kind: gemini, model: gemini-embedding-001, clearance: public}
rules: [{name: coding, when: {model: coder}, use: [home]}]
default: home
tenants:
  globex: {data_class: public}
"""


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(POLICY, tmp_path, environ={"GEMINI_API_KEY": "k"}) as service:
        yield service


async def get(service: Service, path: str, key: str | None = None) -> tuple[int, Any]:
    async with httpx2.AsyncClient() as client:
        answer = await client.get(f"{service.url}{path}", headers=service.bearer(key))
        return answer.status_code, answer.json()


async def listed(service: Service, key: str | None = None) -> dict[str, dict[str, Any]]:
    return {model["id"]: model for model in (await get(service, "/v1/models", key))[1]["data"]}


async def test_a_tenant_sees_what_may_see_its_data(service: Service) -> None:
    internal, public, platform = [await listed(service, key) for key in (service.key, service.other_key, service.admin_key)]
    assert {"auto", "home", "coder", "small", "text-embedding-3-small", "all-MiniLM-L6-v2"} <= set(internal)
    assert not {"away", "gpt-5-mini", "open", "gemini-embedding-001"} & set(internal)
    for seen in (public, platform):
        assert {"away", "gpt-5-mini", "open", "gemini-embedding-001", "small", "home"} <= set(seen)


async def test_each_model_says_what_it_is_for_and_whether_it_is_ready(service: Service) -> None:
    models = await listed(service, service.other_key)
    assert {name: models[name]["headgate"]["kind"] for name in ("auto", "home", "small", "gemini-embedding-001")} == {
        "auto": "chat", "home": "chat", "small": "embedding", "gemini-embedding-001": "embedding",
    }  # fmt: skip
    assert (models["open"]["headgate"]["ready"], models["open"]["owned_by"]) == (True, "gcp.gemini")
    assert models["small"]["headgate"]["reason"] == "OPENAI_API_KEY is not set"
    assert "headgate[documents]" in models["all-MiniLM-L6-v2"]["headgate"]["reason"]


async def test_a_key_for_some_models_sees_those(service: Service) -> None:
    async with httpx2.AsyncClient() as client:
        body = {"tenant": "acme", "role": "member", "models": ["text-embedding-3-small"]}
        key = (await client.post(f"{service.url}/admin/keys", json=body, headers=service.bearer())).json()["key"]
    assert list(await listed(service, key)) == ["auto", "small", "text-embedding-3-small"]
    assert (await get(service, "/v1/models/small", key))[0] == 200
    status, answer = await get(service, "/v1/models/home", key)
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


async def test_openais_sdk_lists_and_gets_models(service: Service) -> None:
    async with openai.AsyncOpenAI(api_key=service.key, base_url=f"{service.url}/v1", max_retries=0) as client:
        names = [model.id async for model in client.models.list()]
        assert names[0] == "auto"
        assert (await client.models.retrieve("small")).owned_by == "openai"


async def test_anthropics_sdk_lists_and_gets_models(service: Service) -> None:
    async with anthropic.AsyncAnthropic(api_key=service.key, base_url=service.url, max_retries=0) as client:
        models = [model async for model in client.models.list()]
        assert [model.id for model in models] == list(await listed(service))
        one = await client.models.retrieve("home")
        assert (one.type, one.display_name, one.created_at.year) == ("model", "home", 1970)


@pytest.mark.skipif(not openai_schema.present(), reason=openai_schema.ABSENT)
async def test_the_list_is_what_openai_publishes(service: Service) -> None:
    openai_schema.require_valid("ListModelsResponse", (await get(service, "/v1/models"))[1])
    openai_schema.require_valid("Model", (await get(service, "/v1/models/home"))[1])
