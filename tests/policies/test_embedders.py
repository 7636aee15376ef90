"""The policy's `embedders`: as strict as its backends."""

from __future__ import annotations

import pytest

from adapters.backend import BackendSpec
from config.prices import Price
from config.settings import Settings
from policies.load import PolicyError, load_policy
from policies.schema import json_schema
from router.backends import load_kinds

POLICY = "version: 1\nbackends: {{chat: {{kind: scripted, text: hi}}}}\ndefault: chat\nembedders: {table}\n"


@pytest.fixture(autouse=True, scope="module")
def _kinds() -> None:
    load_kinds(Settings())


def price(_name: str, spec: BackendSpec) -> Price | None:
    return Price(input=0.02, output=0.0) if spec.model == "text-embedding-3-small" and getattr(spec, "base_url", None) is None else None


def test_an_embedder_has_a_clearance_and_a_price() -> None:
    own = "own: {kind: openai, model: m, base_url: 'http://host.example/v1', price: {input: 1, output: 0}, clearance: confidential}"
    table = f"{{small: {{kind: openai, model: text-embedding-3-small}}, {own}}}"
    embedders = load_policy(POLICY.format(table=table), price_of=price).embedders
    assert {name: (each.clearance, each.price.input) for name, each in embedders.items()} == {"small": ("internal", 0.02), "own": ("confidential", 1.0)}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("{small: {kind: openai, model: unknown}}", "the price of 'unknown' is not known"),
        ("{small: {kind: openai}}", "model"),
        ("{small: {kind: cohere, model: m}}", "cohere"),
        ("{small: {kind: openai, model: text-embedding-3-small, tier: small}}", "tier"),
        ("{chat: {kind: openai, model: text-embedding-3-small}}", "there is a backend 'chat' already"),
        ("{all-MiniLM-L6-v2: {kind: openai, model: text-embedding-3-small}}", "that name is taken"),
        ("{small: {kind: openai, model: text-embedding-3-small, api_key_env: PATH}}", "_API_KEY"),
        ("{small: {kind: openai, model: text-embedding-3-small, headers: {'a b': c}}}", "HTTP header"),
        ("{small: {kind: openai, model: m, price: {input: 1, output: 0}, base_url: 'http://127.0.0.1/v1'}}", "private address"),
    ],
)
def test_a_table_that_could_never_work_is_refused_at_its_line(table: str, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(POLICY.format(table=table), price_of=price, private_addresses=False)
    assert any(said in problem.message or said in str(problem) for problem in caught.value.problems)
    assert all(problem.line == 4 for problem in caught.value.problems)


def test_editors_are_told_of_embedders() -> None:
    schema = json_schema()
    assert set(schema["$defs"]["EmbedderSpec"]["properties"]) >= {"kind", "model", "base_url", "api_key_env", "price", "clearance", "timeout_s", "connect_s"}
