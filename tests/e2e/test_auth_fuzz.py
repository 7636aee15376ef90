"""Nobody gets in without a credential, and nothing that is sent to the door breaks it: over raw sockets, against the running service."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from router.identity.tables import keys
from tests.e2e.auth_attacks import OPEN, Answer, Attack, bearer, invented, request, send, table
from tests.fakes.issuer import FakeIssuer, issuing, rsa_key
from tests.serving import Service, serving

KEY = rsa_key()
REFUSED = {400, 401, 404, 405, 413, 414, 429, 431, 501, 505}
"""What a refusal may be: never a success, a redirect, or 403, which is for those who are known; never a 5xx that says something broke."""

POLICY = """version: 1
settings: {{auth_failures_per_minute: {failures}, trusted_proxies: [10.0.0.0/8]}}
backends:
  echo: {{kind: scripted}}
default: echo
fallback: []
identity:
  issuers:
    corp: {{issuer: "{url}", audience: headgate, tenant: acme, role: owner, algorithms: [RS256]}}
  certificates:
    format: xfcc
    clients: [{{uri: "spiffe://mesh/ops", platform_role: operator}}]
"""


@asynccontextmanager
async def target(tmp_path: Path, failures: int = 0) -> AsyncIterator[tuple[Service, FakeIssuer]]:
    async with issuing(one=KEY) as issuer, serving(POLICY.format(url=issuer.url, failures=failures), tmp_path) as service:
        yield service, issuer


async def open_bodies(service: Service) -> set[bytes]:
    """What anybody may read."""
    return {(await send(service.url, request(path))).body for path in (*OPEN, b"/", b"/health/ready")}


def let_in(answer: Answer, public: set[bytes]) -> bool:
    """Whether something came back that a stranger should not get. Without a status the connection was closed."""
    if 403 in answer.statuses or any(status >= 500 and status not in REFUSED for status in answer.statuses):
        return True
    successes = [status for status in answer.statuses if status not in REFUSED]
    return bool(successes) and not (successes == [200] and len(answer.statuses) == 1 and answer.body in public)


async def attack(service: Service, attacks: Iterable[Attack]) -> list[str]:
    """The attacks that got in, or broke something."""
    public = await open_bodies(service)
    gate = asyncio.Semaphore(16)

    async def one(attack: Attack) -> str | None:
        async with gate:
            answer = await send(service.url, attack.data)
        return f"{attack.name}: {answer.statuses} {answer.body[:200]!r}" if let_in(answer, public) else None

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(each)) for each in attacks]
    return [found for task in running if (found := task.result()) is not None]


async def still_serves(service: Service, issuer: FakeIssuer) -> None:
    for credential in (service.key, service.admin_key, issuer.token()):
        assert (await send(service.url, request(b"/v1/models", bearer(credential.encode())))).statuses == (200,)


async def test_no_attack_of_the_table_gets_in_and_none_breaks_the_service(tmp_path: Path) -> None:
    async with target(tmp_path) as (service, issuer):
        with capture_logs() as lines:
            attacks = list(table(service.key))
            assert len(attacks) > 700
            # A request behind an open one is answered after it; the first answer is the open one's.
            pipelined = [each for each in attacks if each.name.startswith("pipelined")]
            assert await attack(service, [each for each in attacks if each not in pipelined]) == []
            for each in pipelined:
                assert (await send(service.url, each.data)).statuses == (200, 401)
        assert service.key not in str(lines)
        assert service.key[:12] not in str(lines)
        assert {line["event"] for line in lines} <= {"auth_failed"}
        assert any(line["reason"] == "malformed" for line in lines)
        await still_serves(service, issuer)


async def test_what_the_database_holds_of_a_key_is_no_key(tmp_path: Path) -> None:
    async with target(tmp_path) as (service, _):
        rows = await service.database.read(lambda connection: [dict(row) for row in connection.execute(select(keys)).mappings()])
        values = {str(value).encode() for row in rows for value in row.values() if value}
        values |= {hashlib.sha256(service.key.encode()).hexdigest().encode()}
        assert await attack(service, [Attack(repr(value), request(b"/v1/models", bearer(value))) for value in values]) == []


async def test_what_is_invented_by_chance_gets_in_nowhere(tmp_path: Path) -> None:
    async with target(tmp_path) as (service, issuer):
        random = Random(20261130)
        tokens = [issuer.token(), issuer.token(aud="other"), issuer.token(key=rsa_key())]
        assert await attack(service, [invented(random, service.key, tokens) for _ in range(600)]) == []
        await still_serves(service, issuer)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_what_is_invented_by_chance_for_minutes_gets_in_nowhere(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4))
    async with target(tmp_path) as (service, issuer):
        random = Random(seed)
        end = time.monotonic() + 300
        count = 0
        while time.monotonic() < end:
            tokens = [issuer.token(), issuer.token(aud="other")]
            found = await attack(service, [invented(random, service.key, tokens) for _ in range(500)])
            assert found == [], f"seed {seed}, after {count} requests"
            count += 500
        await still_serves(service, issuer)
    print(f"{count} requests, seed {seed}")  # noqa: T201


async def test_slowed_the_door_stays_shut_and_known_keys_pass(tmp_path: Path) -> None:
    async with target(tmp_path, failures=10) as (service, _):
        good = request(b"/v1/models", bearer(service.key.encode()))
        assert (await send(service.url, good)).statuses == (200,)
        reads = 0
        read = service.database.read

        async def counted(work: object) -> object:
            nonlocal reads
            reads += 1
            return await read(work)  # type: ignore[arg-type]

        service.gateway.auth._database.read = counted  # type: ignore[method-assign, assignment]
        answers = [await send(service.url, request(b"/v1/models", bearer(b"hg-%040d" % number))) for number in range(60)]
        statuses = [answer.statuses[0] for answer in answers]
        assert statuses[:10] == [401] * 10
        assert statuses.count(429) >= 45
        assert reads <= 15, "a refusal costs no look-up"
        counted_by_reason = service.gateway.metrics.render().decode()
        for status, reason in ((401, "key"), (429, "slowed")):
            assert f'headgate_auth_failures_total{{reason="{reason}"}} {float(statuses.count(status))}' in counted_by_reason
        slowed = next(answer for answer in answers if answer.statuses == (429,))
        assert b"retry-after: " in slowed.raw.lower()
        assert b"too_many_failures" in slowed.body
        assert (await send(service.url, good)).statuses == (200,)
        public = await open_bodies(service)
        assert not any(let_in(answer, public) for answer in answers)


async def test_a_wrong_key_costs_the_same_work_whatever_is_right_in_it(tmp_path: Path) -> None:
    """The look-up is by the keyed hash of the whole key: one look-up each, of a digest that shares nothing with the right one."""
    async with target(tmp_path) as (service, _):
        asked: list[str] = []
        read = service.database.read

        async def counted(work: object) -> object:
            asked.append("read")
            return await read(work)  # type: ignore[arg-type]

        service.gateway.auth._database.read = counted  # type: ignore[method-assign, assignment]
        for right in range(len(service.key)):
            wrong = service.key[:right] + ("a" if service.key[right] != "a" else "b") + service.key[right + 1 :]
            asked.clear()
            answer = await send(service.url, request(b"/v1/models", bearer(wrong.encode())))
            assert (answer.statuses, asked) == ((401,), ["read"])
        bodies = {
            (await send(service.url, request(b"/v1/models", bearer(each)))).body for each in (b"hg-x", service.key[:-1].encode(), b"eyJ.eyJ.x", b"sk-1234")
        }
        assert len(bodies) == 1
