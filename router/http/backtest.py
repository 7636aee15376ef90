"""What another policy would have done with the requests of the log."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from litestar import post
from litestar.params import FromQuery

from policies.backtest.running import HIGHEST, Report
from policies.load import Policy, PolicyError, load_policy
from router.audit.log import Subject
from router.audit.replaying import Chosen
from router.backends import try_backends
from router.backtesting.running import AlreadyRunning, TookTooLong, alone, run_backtest
from router.gateway import Gateway
from router.http.context import HttpRequest, actor_of, gateway_of, own_tenant, principal_of
from router.http.errors import ApiError
from router.http.usage import moment_of
from router.launch import installed
from router.policy_in_force import known_price

MOST_RECORDS = 20_000
MOST_S = 60.0
"""Reading and deciding; the command `headgate policy backtest` has no bound."""

_APART = ThreadPoolExecutor(1, "headgate-backtest")


@post(
    "/admin/policy/backtest", status_code=200, tags=["policy"], summary="What a policy would have done with the logged requests, and how surely that is known"
)
async def backtest_policy(
    request: HttpRequest,
    tenant: FromQuery[str | None] = None,
    since: FromQuery[str | None] = None,
    until: FromQuery[str | None] = None,
    level: FromQuery[int] = HIGHEST,
    limit: FromQuery[int] = MOST_RECORDS,
    curve: FromQuery[bool] = False,
) -> Report:
    """The body is the candidate's YAML. `level` 0 decides the requests in `[since, until)` again, 1 adds what they would have cost, 2 how good the answers
    would have been; every figure says how surely it is known, and a level that the log cannot support says what to set. `curve` adds cost and quality of
    every threshold. The newest 20,000 requests at most; one at a time.
    """
    gateway, scope = gateway_of(request), own_tenant(principal_of(request), tenant)
    if not 0 <= level <= HIGHEST:
        raise ApiError(400, "invalid_request", f"level: from 0 to {HIGHEST}.", param="level")
    if not 1 <= limit <= MOST_RECORDS:
        raise ApiError(400, "invalid_request", f"limit: from 1 to {MOST_RECORDS}; for more, use the command `headgate policy backtest`.", param="limit")
    chosen = Chosen(since=moment_of("since", since), until=moment_of("until", until), tenant=scope, limit=limit)
    if (level or curve) and not installed("numpy"):
        raise ApiError(
            503, "reports_unavailable", "Levels above 0 and the curve cannot be made here: install headgate[reports] and restart, or ask for level=0."
        )
    candidate = await _candidate(request, gateway)
    await gateway.audit.note(actor_of(request), "policy.backtest", Subject("policy", candidate.version, scope or "", {"level": level}))
    await gateway.recorder.flush()

    def work() -> Report:
        with alone(gateway.settings.home):
            return run_backtest(gateway.database, candidate, gateway.policy.environ, chosen, level, curve=curve, most_s=MOST_S)

    try:
        return await asyncio.get_running_loop().run_in_executor(_APART, work)
    except AlreadyRunning as error:
        raise ApiError(409, "backtest_running", "Another backtest is running; ask again when it is done.", headers={"retry-after": "10"}) from error
    except TookTooLong as error:
        raise ApiError(
            400, "backtest_too_long", f"It took more than {MOST_S:g} s: give a shorter period or a limit, or use the command `headgate policy backtest`."
        ) from error


async def _candidate(request: HttpRequest, gateway: Gateway) -> Policy:
    """The policy of the body, checked like one that is to be put in force. Raises `ApiError` 400."""
    try:
        text = (await request.body()).decode()
        candidate = load_policy(text, "policy.yaml", price_of=known_price, private_addresses=gateway.settings.allow_private_backends)
        await try_backends(candidate, gateway.policy.environ)
    except UnicodeDecodeError as error:
        raise ApiError(400, "invalid_policy", f"The policy is not UTF-8: {error}.") from error
    except PolicyError as error:
        lines = "; ".join(f"line {problem.line}, column {problem.column}: {problem}" for problem in error.problems[:5])
        raise ApiError(400, "invalid_policy", lines, param=error.problems[0].path or None) from error
    return candidate


handlers = (backtest_policy,)
