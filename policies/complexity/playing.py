"""A target's threshold over recorded requests: it moves by them as it would have moved by live ones. Pure."""

from __future__ import annotations

from collections import deque

import msgspec

from adapters.cost import cost, usd_float
from adapters.types import Usage
from policies.complexity.quantile import WINDOW, Seen, threshold_for
from policies.decision import Decision
from policies.load import Policy
from policies.record import Record

EXPECTED_OUTPUT_TOKENS = 400
"""An answer that may be longer is reckoned at so many."""


class Played:
    """Give it the records in their order: `thresholds` before a decision, `decided` after it.

    Costs are reckoned at the policy's prices, uncorrected by what answers really cost. Where `min_quality` is the target, no head is known here: then
    everything is strong, as it is for a tenant whom no head serves.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._seen: dict[str, deque[Seen]] = {}

    def thresholds(self, record: Record) -> dict[str, float]:
        """The tenant's threshold as the policy's target asks for it now; nothing where the policy has none."""
        tenant = record.features.tenant
        complexity = self._policy.complexity(tenant)
        if complexity is None or complexity.target is None:
            return {}
        return {tenant: threshold_for(complexity.target, tuple(self._seen.get(tenant, ())))}

    def decided(self, record: Record, decision: Decision) -> None:
        """The policy's decision for a record: one that complexity made counts."""
        features = record.features
        complexity = self._policy.complexity(features.tenant)
        if complexity is None or complexity.target is None or features.complexity is None or not decision.reasons[:1]:
            return
        if decision.reasons[0].startswith("complexity:"):
            seen = Seen(features.complexity, self._expected_usd(record, complexity.weak), self._expected_usd(record, complexity.strong))
            self._seen.setdefault(features.tenant, deque(maxlen=WINDOW)).append(seen)

    def _expected_usd(self, record: Record, backend: str) -> float:
        output = min(record.features.output_tokens or EXPECTED_OUTPUT_TOKENS, EXPECTED_OUTPUT_TOKENS)
        used = Usage(input_tokens=record.features.input_tokens, output_tokens=output, source="estimated")
        return usd_float(cost(used, self._policy.backends[backend].price))


def under(record: Record, thresholds: dict[str, float]) -> Record:
    """The record as if these thresholds had been in force."""
    return msgspec.structs.replace(record, state=msgspec.structs.replace(record.state, thresholds=thresholds))
