"""The policy in force in a worker: a version with everything made from it, swapped whole when another one becomes active."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import structlog

from adapters.backend import Backend, BackendContext, BackendSpec, create_backend
from adapters.cost import usd_float
from adapters.embedders import TextEmbedder, create_embedder
from adapters.errors import BackendError
from adapters.price_book import dated, price_for, version_for
from adapters.slots import Slots
from adapters.types import BackendHealth, RateLimit
from adapters.wrappers import Breaker, Limiter, protected
from adapters.wrappers.breaker import Circuit
from config.database import Database
from config.prices import Price
from config.settings import Settings
from policies.access import Principal
from policies.decide import BackendState, State
from policies.load import Policy, load_policy
from router.measuring import Measured
from router.policy_store import PolicyVersion, active_number, active_version
from router.trials.store import states

log = structlog.get_logger("headgate.policy")

REFRESH_S = 0.5
"""How often a worker asks which version is active."""

LONGEST_PAUSE_S = 30.0
"""Between two attempts to load a policy version that cannot be loaded."""


Circuits: TypeAlias = Callable[[str, Circuit], None]


def _unseen(_name: str, _circuit: Circuit) -> None:
    """Nobody watches the circuits."""


class ActivePolicy:
    """A policy version with everything made from it. Requests hold it while they run; it is closed when the last one let go."""

    def __init__(
        self, policy: Policy, version: PolicyVersion, context: BackendContext, home: Path, circuit: Circuits = _unseen, before: ActivePolicy | None = None
    ) -> None:
        """`home` is the state folder, where the workers of this host share slots; `circuit` is told every change of a backend's circuit.

        A backend that was the same in the policy `before` keeps its circuit: an edit elsewhere sends nothing to a backend that is ill.
        """
        self.policy = policy
        self.version = version.version
        self.etag = version.etag
        self.breakers: dict[str, Breaker] = {
            name: _kept_breaker(name, configured.spec, before) or Breaker(configured.spec.breaker, changed=partial(circuit, name))
            for name, configured in policy.backends.items()
            if configured.spec.breaker is not None
        }
        self.backends: dict[str, Backend] = {
            name: protected(create_backend(name, configured.spec, context), configured.spec, self.breakers.get(name), _limiter(name, configured.spec, home))
            for name, configured in policy.backends.items()
        }
        self.embedders: dict[str, TextEmbedder] = {name: create_embedder(name, each.spec, context.environ) for name, each in policy.embedders.items()}
        self.embedder_prices = {name: version_for(each.spec.as_backend()) for name, each in policy.embedders.items()}
        """Where the prices of the embedders are from."""
        self._looked: dict[str, BackendHealth] = {}
        self.rate_limits: dict[str, RateLimit] = {}
        """What the providers last said, to this worker, that is left of their rate limits."""
        self.measured = {name: _kept_measures(name, configured.spec, before) or Measured() for name, configured in policy.backends.items()}
        """What this worker has seen of the backends of late."""
        self.canaries: dict[str, str] = {}
        """The states of the rules' canaries, as far as anything is known of them (`router.trials.canaries`)."""
        self.without_logprobs: set[str] = set()
        """Backends that refused log probabilities which a cascade asked for: some models of a provider have none."""
        self.users = 0
        self.retired = False
        self._prices: dict[str, tuple[int, Price, str]] = {}

    def price(self, name: str, at: float | None = None) -> Price:
        """What a backend charges at that time (default: now). The book's prices may change with the hour, so each is asked for once a minute."""
        return self._priced(name, at)[1]

    def price_version(self, name: str, at: float | None = None) -> str:
        """Where that price is from: `policy`, `local`, or the price book's release with its rule."""
        return self._priced(name, at)[2]

    def _priced(self, name: str, at: float | None) -> tuple[int, Price, str]:
        configured = self.policy.backends[name]
        if (day := dated(configured.spec.price_from, time.time() if at is None else at)) is not None:
            return 0, configured.spec.price_from[day], f"policy, from {day}"
        if not configured.remote or configured.spec.price is not None:
            return 0, configured.price, "policy" if configured.spec.price is not None else "local"
        now = time.time() if at is None else at
        minute = int(now // 60)
        known = self._prices.get(name)
        if known is None or known[0] != minute:
            moment = datetime.fromtimestamp(now, UTC)
            price = price_for(configured.spec, moment) or configured.price
            known = self._prices[name] = (minute, price, version_for(configured.spec, moment))
        return known

    def state(
        self,
        seed: str,
        principal: Principal,
        upper_costs: Mapping[str, int] | None = None,
        least_costs: Mapping[str, int] | None = None,
        remaining: int | None = None,
        input_tokens: Mapping[str, int] | None = None,
        expected_costs: Mapping[str, float] | None = None,
        budget_left: float | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> State:
        """What a decision depends on besides the policy and the request. Costs and budget in picodollars; they count where they are given.

        `input_tokens` are the backends' own counts of the request, where they are known; `expected_costs` in USD.
        """
        return State(
            backends={
                name: BackendState(
                    ready=health.ready,
                    reason=health.reason,
                    capabilities=self.backends[name].capabilities,
                    upper_cost_usd=usd_float(upper_costs[name]) if upper_costs is not None else 0.0,
                    least_cost_usd=usd_float(least_costs[name]) if least_costs is not None else None,
                    input_tokens=None if input_tokens is None else input_tokens.get(name),
                    cost_usd=None if expected_costs is None else expected_costs[name],
                    latency_ms=self.measured[name].latency_ms,
                    queue_depth=health.queue_depth,
                    wait_s=round(health.estimated_wait_s, 3),
                )
                for name, health in self.health.items()
            },
            remaining_usd=None if remaining is None else usd_float(remaining),
            allowed_models=principal.allowed_models,
            seed=seed,
            now=round(time.time(), 3),
            budget_left=budget_left,
            canaries=self.canaries,
            thresholds=thresholds or {},
        )

    @property
    def health(self) -> dict[str, BackendHealth]:
        """What the backends last said of themselves, and what their circuit breakers say now."""
        return {name: self._health(name, looked) for name, looked in self._looked.items()}

    def ready(self, name: str) -> bool:
        """Whether a backend may be called now."""
        looked = self._looked.get(name)
        return looked is not None and self._health(name, looked).ready

    def _health(self, name: str, looked: BackendHealth) -> BackendHealth:
        problem = self.breakers[name].problem() if name in self.breakers else None
        return looked if problem is None else BackendHealth(ready=False, reason=problem)

    def circuit(self, name: str) -> Circuit:
        """The state of a backend's circuit in this worker; one without a breaker is always closed."""
        return self.breakers[name].state if name in self.breakers else "closed"

    def closes_in_s(self) -> float | None:
        """How long until the first open circuit lets a request through; None where none is open."""
        waits = [breaker.opens_in_s for breaker in self.breakers.values() if breaker.state == "open"]
        return min(waits, default=None)

    async def check_health(self) -> None:
        """Ask every backend at once; none holds up another."""
        names = list(self.backends)
        found = await asyncio.gather(*(_health(self.backends[name]) for name in names))
        self._looked = dict(zip(names, found, strict=True))

    async def aclose(self) -> None:
        for backend in self.backends.values():
            await backend.aclose()
        for embedder in self.embedders.values():
            await embedder.aclose()


class PolicyHolder:
    """The policy in force, swapped whole; a request keeps the one it began with."""

    def __init__(self, database: Database, settings: Settings, context: BackendContext, source: str, circuit: Circuits = _unseen) -> None:
        self._database = database
        self._settings = settings
        self._context = context
        self._source = source
        self._circuit = circuit
        self._current: ActivePolicy | None = None
        self._failed = (0, 0.0, 0.0)
        """The version that could not be loaded, how long it is left alone (seconds), and until when by the monotonic clock."""
        self._closing: set[asyncio.Task[None]] = set()
        self._refreshing = asyncio.Lock()

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

    def retain(self, active: ActivePolicy) -> bool:
        """Hold a version for longer than its request; `release` must follow. False where it is closed already."""
        if active.retired and active.users == 0:
            return False
        active.users += 1
        return True

    def release(self, active: ActivePolicy) -> None:
        active.users -= 1
        self._close_if_unused(active)

    async def refresh(self) -> None:
        """Load the active version if it is another than the one in force. One that cannot be loaded is tried again, ever more rarely.

        One at a time: two that overlap could put an earlier version in force after a later one.
        """
        async with self._refreshing:
            await self._refresh()

    async def _refresh(self) -> None:
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
            active = ActivePolicy(policy, version, self._context, self._settings.home, self._turned, self._current)
        except Exception:
            failed, pause, _ = self._failed
            pause = min(2 * pause, LONGEST_PAUSE_S) if failed == version.version else 2 * REFRESH_S
            self._failed = (version.version, pause, time.monotonic() + pause)
            raise
        await active.check_health()
        active.canaries = await self._database.read(lambda connection: states(connection, active.version))
        old, self._current = self._current, active
        log.info("policy_active", version=version.version, hash=version.hash[:12])
        for name in {*active.backends, *(old.backends if old is not None else ())}:
            self._turned(name)
        if old is not None:
            old.retired = True
            self._close_if_unused(old)

    def _turned(self, name: str, _circuit: Circuit | None = None) -> None:
        """Tell the state of a backend's circuit as the policy in force has it: an earlier version's may be another one, and is still at work."""
        if self._current is not None:
            self._circuit(name, self._current.circuit(name))

    def _close_if_unused(self, active: ActivePolicy) -> None:
        if active.retired and active.users == 0:
            task = asyncio.ensure_future(active.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _kept_breaker(name: str, spec: BackendSpec, before: ActivePolicy | None) -> Breaker | None:
    same = before is not None and name in before.policy.backends and before.policy.backends[name].spec == spec
    return before.breakers.get(name) if same and before is not None else None


def _kept_measures(name: str, spec: BackendSpec, before: ActivePolicy | None) -> Measured | None:
    same = before is not None and name in before.policy.backends and before.policy.backends[name].spec == spec
    return before.measured.get(name) if same and before is not None else None


def _limiter(name: str, spec: BackendSpec, home: Path) -> Limiter | None:
    """The workers of a host, and a policy's earlier versions, take their slots from the same folder: together they never hold more."""
    slots = spec.slots()
    return None if slots is None else Limiter(Slots(home / "run" / "slots" / quote(name, safe=""), slots), spec.queue_s)


async def _health(backend: Backend) -> BackendHealth:
    try:
        async with asyncio.timeout(2):
            return await backend.health()
    except (BackendError, TimeoutError, OSError) as error:
        return BackendHealth(ready=False, reason=str(error) or "no answer within 2 s")


def known_price(_name: str, spec: BackendSpec) -> Price | None:
    """The price book's rates for a backend whose table gives none."""
    return price_for(spec)
