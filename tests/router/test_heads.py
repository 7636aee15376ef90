"""Heads in service: calibrated by command, followed by workers, asked with the embedding that the search has made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from sqlalchemy import insert, select

from adapters.errors import BackendUnavailable
from policies.complexity import Pair, features_of, fit
from policies.complexity.gate import Verdict
from policies.complexity.head import Head, space_of
from policies.complexity.measures import Measured
from retrieval.values import SearchRequest, SearchResult
from router.audit.log import SYSTEM, AuditLog
from router.audit.paths import replay
from router.audit.tables import audit_log, decisions
from router.compute.protocol import Embeddings
from router.heads import FOLDER, SPACE, TEXT_FEATURES, heads, newest, record
from router.tables import metadata
from tests.fakes.embedder import HashEmbedder
from tests.router.cli.kit import Command, headgate  # noqa: F401
from tests.serving import SECRET, Service, serving, until

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Weak.", price: {input: 1.0, output: 4.0}}
  large: {kind: scripted, text: "Strong.", price: {input: 10.0, output: 40.0}}
rules:
  - {name: pinned-down, when: {task: translate}, use: [mini]}
complexity: {weak: mini, strong: large, threshold: 0.5}
default: mini
fallback: []
"""
COLUMNS = "request_id, tenant, created_at, expires_at, features, embedding, weak_backend, strong_backend, weak_score, strong_score, judge, cost"
TARGET = POLICY.replace("threshold: 0.5", "target: {strong_share: 0.3}")


class Compute:
    """A compute process that embeds, and searches as one that knows no document. It counts what it is asked."""

    def __init__(self, space: str = "hash", late: bool = False) -> None:
        self.embedder, self.space, self.late = HashEmbedder(), space, late
        self.embedded: list[str] = []
        self.searched: list[str] = []

    async def embeddings(self, texts: Sequence[str], kind: Any = "query", *, urgent: bool = True) -> Embeddings:
        self.embedded += texts
        if self.late:
            await asyncio.Event().wait()
        return Embeddings(self.space, 8, 100, self.embedder.embed(texts, "query").astype("<f4").tobytes())

    async def describe(self) -> Embeddings:
        return Embeddings(self.space, 8, 100)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.embedder.count_tokens(texts)

    async def search(self, request: SearchRequest) -> SearchResult:
        self.searched.append(request.query)
        return SearchResult(embedding=self.embedder.embed([request.query], "query").astype("<f2").tobytes(), space=self.space)

    def generate(self, *_: Any) -> Any:
        raise BackendUnavailable("there is no local model")

    async def health(self, *_: Any) -> Any:
        raise BackendUnavailable("there is no local model")

    async def aclose(self) -> None: ...


def questions(count: int, seed: int = 0) -> list[Pair]:
    random = np.random.default_rng(seed)
    return [Pair(prompt=f"Question {seed}.{n} about {'tides' if n % 2 else 'tax'}?", weak=float(random.random() < 0.5), strong=1.0) for n in range(count)]


def learnt() -> Head:
    embedder = HashEmbedder()

    def embed(texts: Sequence[str]) -> Any:
        return embedder.embed(texts, "query")

    embed.space = "hash"  # type: ignore[attr-defined]
    return fit(questions(120), embed=embed)


PROMOTED = Verdict(promoted=True, reason="better", pairs=200, apgr=Measured(0.7, 0.62, 0.78), rules=0.5)
WITHDRAWN = Verdict(promoted=False, reason="no better", pairs=200, apgr=Measured(0.5, 0.42, 0.58), rules=0.5)


async def promote(service: Service, head: Head, verdict: Verdict = PROMOTED, tenant: str = "acme") -> None:
    head.save(service.gateway.settings.home / FOLDER)
    await service.database.write(record(AuditLog(service.database, SECRET), SYSTEM, tenant, head.hash, verdict))


@asynccontextmanager
async def service_with(tmp_path: Path, compute: Compute | None, policy: str = POLICY) -> AsyncIterator[tuple[Service, Head]]:
    head = learnt()
    async with serving(policy, tmp_path, compute=compute) as service:  # type: ignore[arg-type]
        await promote(service, head)
        await until(lambda: service.gateway.heads.of("acme") is not None)
        yield service, head


async def ask(service: Service, text: str, key: str | None = None, path: str = "/v1/chat/completions", **more: Any) -> Any:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], **more}
    async with aiohttp.ClientSession() as session, session.post(service.url + path, json=body, headers=service.bearer(key)) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


EXPLAINED = {"headgate": {"explain": True}}


async def test_a_promoted_head_scores_its_tenants_requests_and_no_others(tmp_path: Path) -> None:
    compute = Compute()
    async with service_with(tmp_path, compute) as (service, head):
        answer = await ask(service, "Why do tides turn?", **EXPLAINED)
        expected = head.one("Why do tides turn?", HashEmbedder().embed(["Why do tides turn?"], "query")[0].astype(np.float16))
        assert answer["headgate"]["decision"]["features"]["complexity"] == expected
        assert f"scorer:head:{head.hash}" in answer["headgate"]["reasons"]
        assert compute.embedded == ["Why do tides turn?"], "once for a request"
        other = await ask(service, "Why do tides turn?", service.other_key, **EXPLAINED)
        assert other["headgate"]["decision"]["features"]["scorer"] == "rules"
        assert len(compute.embedded) == 1
        told = await ask(service, "Why do tides turn?", path="/v1/route/explain")
        assert told["features"]["complexity"] == expected


async def test_a_grounded_request_is_scored_with_the_embedding_of_its_search(tmp_path: Path) -> None:
    compute = Compute()
    async with service_with(tmp_path, compute) as (service, head):
        store = (await service.gateway.documents.create_store("acme")).id
        answer = await ask(service, "Why do tides turn?", tools=[{"type": "file_search", "vector_store_ids": [store]}], **EXPLAINED)
        assert answer["headgate"]["decision"]["features"]["scorer"] == f"head:{head.hash}"
        assert (compute.searched, compute.embedded) == (["Why do tides turn?"], [])


async def test_where_a_rule_or_a_pin_decides_nothing_is_embedded(tmp_path: Path) -> None:
    compute = Compute()
    async with service_with(tmp_path, compute) as (service, _):
        await ask(service, "Translate this into French.")
        await ask(service, "Why do tides turn?", model="mini")
        assert compute.embedded == []


@pytest.mark.parametrize(
    ("compute", "problem"), [(None, "no_embedder"), (Compute(space="another"), "embedder_differs"), (Compute(late=True), "embedding_late")]
)
async def test_without_an_embedding_in_time_the_rules_score_and_say_why(tmp_path: Path, compute: Compute | None, problem: str) -> None:
    async with service_with(tmp_path, compute) as (service, _):
        answer = await ask(service, "Why do tides turn?", **EXPLAINED)
        assert f"scorer:rules:{problem}" in answer["headgate"]["reasons"]
        other = await ask(service, "Why do tides turn?", service.other_key, **EXPLAINED)
        assert answer["headgate"]["decision"]["features"]["complexity"] == other["headgate"]["decision"]["features"]["complexity"]


async def test_a_withdrawn_head_serves_no_longer_and_both_are_in_the_audit_log(tmp_path: Path) -> None:
    async with service_with(tmp_path, Compute()) as (service, head):
        await promote(service, head)  # again: nothing changes
        await promote(service, head, WITHDRAWN)
        await until(lambda: service.gateway.heads.of("acme") is None)
        query = select(audit_log.c.action, audit_log.c.tenant, audit_log.c.object_id).where(audit_log.c.object_kind == "head").order_by(audit_log.c.seq)
        entries = await service.database.read(lambda connection: [tuple(row) for row in connection.execute(query)])
        assert entries == [("head.promote", "acme", head.hash), ("head.withdraw", "acme", head.hash)]
        assert len(await service.database.read(lambda connection: connection.execute(select(heads)).all())) == 3


async def test_a_head_whose_file_is_damaged_leaves_the_rules_in_place(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service:
        head = learnt()
        head.save(tmp_path / FOLDER).with_suffix(".npz").write_bytes(b"no arrays")
        await service.database.write(record(AuditLog(service.database, SECRET), SYSTEM, "acme", head.hash, PROMOTED))
        await service.gateway.heads.refresh()
        assert service.gateway.heads.of("acme") is None
        assert (await ask(service, "Why do tides turn?", **EXPLAINED))["headgate"]["decision"]["features"]["scorer"] == "rules"


async def test_a_targets_threshold_is_recorded_with_the_decision_so_that_a_replay_is_the_same(tmp_path: Path) -> None:
    async with serving(TARGET, tmp_path) as service:
        backends = []
        for n in range(80):
            answer = await ask(service, f"Explain step {n} of {'a proof of the theorem' if n % 3 else 'tea'}, please, as well as you can, in {n} words?")
            backends.append(answer["headgate"]["backend"])
        assert 0 < backends[40:].count("large") < 30
        await service.gateway.recorder.flush()
        ids = await service.database.read(lambda connection: [row[0] for row in connection.execute(select(decisions.c.request_id))])
        assert len(ids) == 80
        for request_id in ids:
            again = await service.database.read(lambda connection, request_id=request_id: replay(connection, request_id, "test"))
            assert again is not None
            assert again.equal, again


# --- the command -------------------------------------------------------------------------------------------------------------------------


def _lines(count: int) -> str:
    return "".join(json.dumps({"prompt": pair.prompt, "weak": pair.weak, "strong": pair.strong}) + "\n" for pair in questions(count))


def test_calibrating_with_too_few_pairs_changes_nothing_and_says_so(headgate: Command, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "pairs.jsonl").write_text(_lines(20))
    headgate("tenants", "create", "acme")
    ran = headgate("policy", "calibrate", "--tenant", "acme", "--pairs", "pairs.jsonl", "--json").json
    assert (ran["promoted"], ran["head"], ran["pairs"]) == (False, None, 20)
    assert "fewer than 150" in headgate("policy", "calibrate", "--tenant", "acme", "--pairs", "pairs.jsonl", "--dry-run").out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1"),
        ('{"prompt": "a", "weak": 2, "strong": 1}', "pair 0: 'weak' and 'strong' lie from 0 to 1, found 2.0 and 1.0"),
        ('{"weak": 0, "strong": 1}', "pair 0: 'prompt' is empty"),
    ],
)
def test_a_broken_line_of_pairs_is_named(headgate: Command, tmp_path: Path, line: str, message: str) -> None:  # noqa: F811
    (tmp_path / "pairs.jsonl").write_text(line + "\n")
    ran = headgate("policy", "calibrate", "--pairs", "pairs.jsonl")
    assert ran.status != 0
    assert message in ran.err


def test_calibrating_learns_from_logged_pairs_promotes_and_withdraws(headgate: Command, tmp_path: Path) -> None:  # noqa: F811
    import sqlite3
    from contextlib import closing

    headgate("tenants", "create", "acme")
    home = tmp_path / "var"
    random = np.random.default_rng(1)
    with closing(sqlite3.connect(home / "headgate.db")) as connection:
        for n in range(210):  # of the last ten, none can be learnt from
            vector = random.normal(0, 1, 8)
            vector[0] = 3 if n % 2 else -3
            half = (vector / np.linalg.norm(vector)).astype(np.float16).tobytes()
            known = {TEXT_FEATURES: features_of("What about it, then?"), SPACE: "another embedder" if n >= 200 else space_of(None)}
            values = (f"r{n}", "acme", float(n), 1e12, json.dumps(known), None if n == 200 else half, "mini", "large", float(n % 2), 1.0, "judge", 0)
            connection.execute(f"INSERT INTO routing_pairs ({COLUMNS}) VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608 - names of our own
        connection.commit()
    dry = headgate("policy", "calibrate", "--tenant", "acme", "--dry-run", "--json").json
    assert (dry["promoted"], dry["pairs"]) == (True, 200)
    assert not (home / FOLDER).exists()
    ran = headgate("policy", "calibrate", "--tenant", "acme", "--json").json
    assert ran["promoted"]
    assert (home / FOLDER / f"{ran['head']}.json").is_file()
    assert headgate("audit", "list", "--action", "head.promote", "--json").json["data"][0]["object_id"] == ran["head"]
    with closing(sqlite3.connect(home / "headgate.db")) as connection:
        connection.execute("UPDATE routing_pairs SET weak_score = (rowid / 2) % 2")
        connection.commit()
    assert not headgate("policy", "calibrate", "--tenant", "acme", "--json").json["promoted"]
    assert headgate("audit", "list", "--action", "head.withdraw", "--json").json["data"][0]["details"]["before"] == ran["head"]


def test_the_newest_calibration_of_each_tenant_counts() -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine("sqlite://")
    metadata.create_all(engine, [heads])
    row = {"pairs": 1, "apgr": None, "low": None, "high": None, "rules": None, "created_at": 0.0}
    with engine.begin() as connection:
        for tenant, name, promoted in (("a", "1", True), ("b", "2", True), ("a", "3", False)):
            connection.execute(insert(heads), row | {"tenant": tenant, "hash": name, "promoted": promoted})
        assert {tenant: (found.hash, found.promoted) for tenant, found in newest(connection).items()} == {"a": ("3", False), "b": ("2", True)}
    engine.dispose()
