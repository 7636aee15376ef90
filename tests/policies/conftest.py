from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import adapters.anthropic
import adapters.extractive
import adapters.gemini
import adapters.llama
import adapters.openai
import adapters.scripted  # noqa: F401  (each import registers a kind)
from adapters.backend import BackendSpec
from adapters.types import Capabilities
from config.prices import Price
from policies.decide import BackendState, State
from policies.load import Policy, load_policy

ABLE = Capabilities(streaming=True, tools=True, vision=True, json_schema="native", logprobs=True, multiple_choices=True)
QUOTING = Capabilities(streaming=True, needs_context=True)


def price_of(name: str, spec: BackendSpec) -> Price | None:
    return None if spec.model == "unpriced" else Price(input=1.0, output=2.0)


@pytest.fixture
def load() -> Callable[..., Policy]:
    def load(text: str, **options: Any) -> Policy:
        return load_policy(text, "policy.yaml", price_of=price_of, **options)

    return load


@pytest.fixture
def state() -> Callable[..., State]:
    """A state in which every backend of the policy is ready and able; `down`, `costs` and `able` say what is different."""

    def make(
        policy: Policy, *, down: tuple[str, ...] = (), costs: dict[str, float] | None = None, able: dict[str, Capabilities] | None = None, **rest: Any
    ) -> State:
        states = {
            name: BackendState(
                capabilities=(able or {}).get(name, QUOTING if backend.spec.kind == "extractive" else ABLE),
                ready=name not in down,
                reason="down" if name in down else "",
                upper_cost_usd=(costs or {}).get(name, 0.0),
            )
            for name, backend in policy.backends.items()
        }
        return State(backends=states, **rest)

    return make
