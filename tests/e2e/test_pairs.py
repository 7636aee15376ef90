"""Pairs: where the complexity decided, the other backend answers too, and both answers are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from policies.features import Features
from router.trials.tables import routing_pairs
from tests.e2e.money_books import settled_books, verify_books
from tests.e2e.test_shadow import ask, quiet, seen
from tests.serving import Service, serving

POLICY = """
version: 1
backends:
  small: {{kind: scripted, text: "{weak}", clearance: restricted, max_output_tokens: 50, price: {{input: 1.0, output: 1.0}}}}
  large: {{kind: scripted, text: "{strong}", clearance: restricted, max_output_tokens: 50, price: {{input: 5.0, output: 5.0}}, bill_to: {bills!r}}}
  judge: {{kind: scripted, text: '{verdict}', clearance: {clearance}, max_output_tokens: 50, price: {{input: 1.0, output: 1.0}}, bill_to: {judged!r}}}
complexity: {{weak: small, strong: large, threshold: {threshold}, pairs: {{share: {share}, budget_usd: {{day: {day}}}, judge: {by}}}}}
fallback: []
"""


def policy(tmp_path: Path, **fields: Any) -> str:
    base = {
        "weak": "It is five.",
        "strong": "Two and two make 4",
        "verdict": '{"a": 2, "b": 9}',
        "clearance": "restricted",
        "threshold": 1.0,
        "share": 1.0,
        "day": 1.0,
    }
    return POLICY.format(**{**base, "by": "judge", **fields, "bills": str(tmp_path / "bills"), "judged": str(tmp_path / "judged")})


async def pairs_of(service: Service) -> list[dict[str, Any]]:
    await quiet(service)
    return await service.database.read(lambda connection: [dict(row) for row in connection.execute(select(routing_pairs)).mappings()])


async def test_both_answers_are_judged_in_both_orders(tmp_path: Path, database_url: str) -> None:
    async with serving(policy(tmp_path), tmp_path, database_url=database_url) as service:
        said = await ask(service, "What is two and two?")
        assert "five" in said
        (row,) = await pairs_of(service)
        assert (row["tenant"], row["weak_backend"], row["strong_backend"], row["judge"], row["embedding"]) == ("acme", "small", "large", "judge", None)
        assert (row["weak_score"], row["strong_score"]) == (0.55, 0.55), "a judge that goes by the place says nothing"
        assert "two and two" not in row["features"]
        assert msgspec.json.decode(row["features"], type=Features).tenant == "acme"
        books = await settled_books(service.database)
        assert sorted((entry["purpose"], entry["tenant"], entry["backend"]) for entry in books.ledger) == [
            ("answer", "acme", "small"),
            ("shadow", "shadow:*pairs", "large"),
            ("shadow_judge", "shadow:*pairs", "judge"),
            ("shadow_judge", "shadow:*pairs", "judge"),
        ]
        assert row["cost"] == sum(entry["cost"] for entry in books.ledger if entry["purpose"] != "answer")
        await verify_books(service.database, service.gateway.secret)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
async def test_a_reference_says_which_answer_is_right_whichever_was_shown(tmp_path: Path, threshold: float) -> None:
    async with serving(policy(tmp_path, by="reference", threshold=threshold), tmp_path) as service:
        await ask(service, "What is two and two?", reference="4", stream=threshold > 0.5)
        await ask(service, "What is two and two?")
        (row,) = await pairs_of(service)
        assert (row["weak_score"], row["strong_score"], row["judge"]) == (0.0, 1.0, "reference")


@pytest.mark.parametrize("data_class", ["confidential", "restricted"])
async def test_confidential_data_is_never_paired_whoever_may_see_it(tmp_path: Path, data_class: str) -> None:
    async with serving(policy(tmp_path), tmp_path) as service:
        await ask(service, data_class=data_class)
        assert await pairs_of(service) == []
        assert seen(tmp_path) == 0


async def test_a_judge_that_may_not_see_the_data_is_not_asked(tmp_path: Path) -> None:
    async with serving(policy(tmp_path, clearance="public"), tmp_path) as service:
        await ask(service)
        assert await pairs_of(service) == []
        assert not (tmp_path / "judged").exists()
        assert 'headgate_pairs_total{outcome="not_permitted"} 1.0' in service.gateway.metrics.render().decode()


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"verdict": "A is better"}, "no_verdict"),
        ({"strong": ""}, "no_answer"),
        ({"day": 0.0000001}, "over_budget"),
    ],
)
async def test_without_a_verdict_there_is_no_pair(tmp_path: Path, fields: dict[str, Any], outcome: str) -> None:
    async with serving(policy(tmp_path, **fields), tmp_path) as service:
        await ask(service)
        assert await pairs_of(service) == []
        assert f'headgate_pairs_total{{outcome="{outcome}"}} 1.0' in service.gateway.metrics.render().decode()


async def test_only_what_the_complexity_decided_is_paired(tmp_path: Path) -> None:
    async with serving(policy(tmp_path) + "rules: [{name: complexity, when: {tenant: globex}, use: [small]}]\n", tmp_path) as service:
        await ask(service, key=service.other_key)
        await ask(service, model="small")
        assert await pairs_of(service) == []
        await ask(service)
        assert len(await pairs_of(service)) == 1


async def test_what_has_expired_is_swept(tmp_path: Path) -> None:
    async with serving(policy(tmp_path), tmp_path) as service:
        await ask(service)
        (row,) = await pairs_of(service)
        assert row["expires_at"] - row["created_at"] == service.gateway.settings.decisions_days * 86_400
        await service.gateway.pair_sweep.sweep()
        assert len(await pairs_of(service)) == 1
        await service.database.write(lambda connection: connection.execute(routing_pairs.update().values(expires_at=1.0)) and None)
        await service.gateway.pair_sweep.sweep()
        assert await pairs_of(service) == []
