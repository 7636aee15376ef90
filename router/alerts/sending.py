"""One signed POST to a receiver."""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from adapters.faults import transport_errors
from config.weakness import weakness
from policies.schema import Alerts
from router.alerts.events import ALERT_ID, SIGNATURE, AlertEvent, signature

TIMEOUT_S = 5.0
"""How long a receiver may take, from the look-up of its name to the status of its answer."""


class Answer(Struct, frozen=True, kw_only=True):
    """What became of a POST. `error` is None where the receiver took it (any 2xx), else says why not, without the receiver's address or words."""

    host: str
    status: int | None = None
    error: str | None = None
    ms: float = 0.0


async def send(alerts: Alerts, environ: Mapping[str, str], event: AlertEvent, timeout_s: float = TIMEOUT_S) -> Answer:
    """Sign and send an event. Redirects are not followed, and of the answer only the status is read. Raises nothing of the network's."""
    host = host_of(alerts)
    problem = secret_problem(alerts, environ)
    if problem is not None:
        return Answer(host=host, error=problem)
    import aiohttp

    body = event.encoded()
    headers = {
        "content-type": "application/json",
        "user-agent": "headgate",
        ALERT_ID: event.id,
        SIGNATURE: signature(environ[alerts.secret_env].strip(), body, int(time.time())),
    }
    began = time.perf_counter()
    status, error = None, None
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s), cookie_jar=aiohttp.DummyCookieJar(), trust_env=True) as session,
            session.post(alerts.url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            status = response.status
        if not 200 <= status < 300:
            error = f"answered {status}" + (", and redirects are not followed" if 300 <= status < 400 else "")
    except TimeoutError:
        error = f"no answer within {timeout_s:g} s"
    except transport_errors() as failure:
        error = f"cannot be reached: {type(failure).__name__}"
    return Answer(host=host, status=status, error=error, ms=round(1000 * (time.perf_counter() - began), 1))


def secret_problem(alerts: Alerts, environ: Mapping[str, str]) -> str | None:
    """Why nothing can be signed for a receiver, or None."""
    secret = environ.get(alerts.secret_env, "").strip()
    if not secret:
        return f"{alerts.secret_env} is not set"
    weak = weakness(secret)
    return None if weak is None else f"{alerts.secret_env} is refused: {weak}"


def host_of(alerts: Alerts) -> str:
    """What may be shown of a receiver: the rest of its address may be a secret."""
    return urlsplit(alerts.url).hostname or ""
