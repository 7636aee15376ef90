"""A decision log of a simulated world, written by the recorder itself."""

from __future__ import annotations

import asyncio

import numpy as np
from sqlalchemy import Connection, insert

from adapters.types import Usage
from config.database import Database
from policies.record import Record
from router import policy_store
from router.audit.recording import Note, Recorder
from router.audit.tables import feedback
from router.kept.sealing import Sealer
from tests.policies.backtest.simulator import BACKENDS, World, policy, world

SECRET = b"a secret of the tests, long enough"


def write_log(database: Database, rules: str, seed: int, size: int, *, embedded: bool = False) -> World:
    """Make the policy active, and write `size` decisions of it with their outcomes and scores. Blocks: where no event loop runs."""
    text = BACKENDS + rules
    version = database.write_blocking(lambda connection: policy_store.add_version(connection, text, source="file", author="file"))
    logged = world(policy(rules), seed, size)
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((size, 384)).astype(np.float16) if embedded else None
    asyncio.run(_write(database, logged, version.version, vectors))

    def rate(connection: Connection) -> None:
        rows = [
            {
                "request_id": record.request_id,
                "rater": "user",
                "tenant": record.tenant,
                "key_id": "key",
                "score": record.score,
                "created_at": record.created_at,
                "expires_at": record.created_at + 10**9,
            }
            for record in logged.records
            if record.score is not None
        ]
        if rows:
            connection.execute(insert(feedback), rows)

    database.write_blocking(rate)
    return logged


async def _write(database: Database, logged: World, version: int, vectors: object) -> None:
    recorder = Recorder(database, SECRET, Sealer(SECRET), 10_000.0, _lost)
    for number, record in enumerate(logged.records):
        recorder.put(note_of(record, version, None if vectors is None else vectors[number].tobytes()))  # type: ignore[index]
        if number % 5_000 == 4_999:
            await recorder.flush()
    await recorder.flush()


def _lost(count: int) -> None:
    raise AssertionError(f"{count} decisions were not written")


def note_of(record: Record, version: int, embedding: bytes | None) -> Note:
    return Note(
        request_id=record.request_id,
        tenant=record.tenant,
        key_id="key",
        user="",
        created_at=record.created_at,
        policy_version=version,
        dialect=record.dialect,
        data_class="internal",
        outcome=record.outcome,
        error=record.error,
        backend=record.backend,
        input_hash="0" * 64,
        decision=record.decision,
        state=record.state,
        citations=(),
        moderation={},
        policy_hash=record.policy_hash,
        model=record.model,
        attempts=record.attempts,
        usage=Usage(input_tokens=record.input_tokens, output_tokens=record.output_tokens),
        cost=record.cost,
        latency_ms=record.latency_ms,
        embedding=embedding,
    )
