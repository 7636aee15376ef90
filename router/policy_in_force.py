"""The policy in force in a worker: a version with everything made from it, swapped whole when another one becomes active."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import structlog

from adapters.backend import Backend, BackendContext, BackendSpec, create_backend
from adapters.cost import usd_float
from adapters.errors import BackendError
from adapters.price_book import price_for
from adapters.types import BackendHealth
from adapters.wrappers import guarded, with_timeouts
from config.database import Database
from config.prices import Price
from config.settings import Settings
from policies.access import Principal
from policies.decide import BackendState, State
from policies.load import Policy, load_policy
from router.policy_store import PolicyVersion, active_number, active_version

log = structlog.get_logger("headgate.policy")

REFRESH_S = 0.5
"""How often a worker asks which version is active."""

LONGEST_PAUSE_S = 30.0
"""Between two attempts to load a policy version that cannot be loaded."""


class ActivePolicy:
    """A policy version with everything made from it. Requests hold it while they run; it is closed when the last one let go."""

    def __init__(self, policy: Policy, version: PolicyVersion, context: BackendContext) -> None:
        self.policy = policy
        self.version = version.version
        self.etag = version.etag
        self.backends: dict[str, Backend] = {
            name: guarded(with_timeouts(create_backend(name, configured.spec, context), configured.spec)) for name, configured in policy.backends.items()
        }
        self.health: dict[str, BackendHealth] = {}
        self.users = 0
        self.retired = False
        self._prices: dict[str, tuple[int, Price]] = {}

    def price(self, name: str, at: float | None = None) -> Price:
        """What a backend charges at that time (default: now). The book's prices may change with the hour, so each is asked for once a minute."""
        configured = self.policy.backends[name]
        if not configured.remote or configured.spec.price is not None:
            return configured.price
        now = time.time() if at is None else at
        minute = int(now // 60)
        known = self._prices.get(name)
        if known is None or known[0] != minute:
            price = price_for(configured.spec, datetime.fromtimestamp(now, UTC)) or configured.price
            known = self._prices[name] = (minute, price)
        return known[1]

    def state(self, seed: str, principal: Principal, upper_costs: Mapping[str, int] | None = None, remaining: int | None = None) -> State:
        """What a decision depends on besides the policy and the request. Costs and budget in picodollars; they count where they are given."""
        return State(
            backends={
                name: BackendState(
                    ready=health.ready,
                    reason=health.reason,
                    capabilities=self.backends[name].capabilities,
                    upper_cost_usd=usd_float(upper_costs[name]) if upper_costs is not None else 0.0,
                )
                for name, health in self.health.items()
            },
            remaining_usd=None if remaining is None else usd_float(remaining),
            allowed_models=principal.allowed_models,
            seed=seed,
        )

    async def check_health(self) -> None:
        """Ask every backend at once; none holds up another."""
        names = list(self.backends)
        found = await asyncio.gather(*(_health(self.backends[name]) for name in names))
        self.health = dict(zip(names, found, strict=True))

    async def aclose(self) -> None:
        for backend in self.backends.values():
            await backend.aclose()


class PolicyHolder:
    """The policy in force, swapped whole; a request keeps the one it began with."""

    def __init__(self, database: Database, settings: Settings, context: BackendContext, source: str) -> None:
        self._database = database
        self._settings = settings
        self._context = context
        self._source = source
        self._current: ActivePolicy | None = None
        self._failed = (0, 0.0, 0.0)
        """The version that could not be loaded, how long it is left alone (seconds), and until when by the monotonic clock."""
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def environ(self) -> Mapping[str, str]:
        return self._context.environ

    @property
    def current(self) -> ActivePolicy:
        assert self._current is not None, "refresh() comes first"
        return self._current

    def acquire(self) -> ActivePolicy:
        active = self.current
        active.users += 1
        return active

    def release(self, active: ActivePolicy) -> None:
        active.users -= 1
        self._close_if_unused(active)

    async def refresh(self) -> None:
        """Load the active version if it is another than the one in force. One that cannot be loaded is tried again, ever more rarely."""
        if self._current is not None:
            number = await self._database.read(active_number)
            failed, _, until = self._failed
            if number == self._current.version or (number == failed and time.monotonic() < until):
                return
        version = await self._database.read(active_version)
        if version is None:
            return
        try:
            policy = load_policy(version.text, self._source, price_of=known_price)
            active = ActivePolicy(policy, version, self._context)
        except Exception:
            failed, pause, _ = self._failed
            pause = min(2 * pause, LONGEST_PAUSE_S) if failed == version.version else 2 * REFRESH_S
            self._failed = (version.version, pause, time.monotonic() + pause)
            raise
        await active.check_health()
        old, self._current = self._current, active
        log.info("policy_active", version=version.version, hash=version.hash[:12])
        if old is not None:
            old.retired = True
            self._close_if_unused(old)

    def _close_if_unused(self, active: ActivePolicy) -> None:
        if active.retired and active.users == 0:
            task = asyncio.ensure_future(active.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def _health(backend: Backend) -> BackendHealth:
    try:
        async with asyncio.timeout(2):
            return await backend.health()
    except (BackendError, TimeoutError, OSError) as error:
        return BackendHealth(ready=False, reason=str(error) or "no answer within 2 s")


def known_price(_name: str, spec: BackendSpec) -> Price | None:
    """The price book's rates for a backend whose table gives none."""
    return price_for(spec)
