"""How hard a request's question is, by whatever scores its tenant's; and the threshold that the policy's target asks for now.

A head needs the question's embedding. It is made once for a request: where documents are searched, the search has made it already. Where no head
serves the tenant, or a rule decides before complexity is looked at, none is made.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from adapters.cost import cost, usd_float
from adapters.errors import BackendError
from adapters.types import Usage
from policies.complexity.quantile import Seen, threshold_for
from policies.decision import State
from policies.features import RULES, Features
from policies.load import Policy
from policies.scores import needs_complexity
from retrieval.values import SearchResult
from router.limits.scores import Scores
from router.local_embedder import EmbeddingCompute

if TYPE_CHECKING:
    from policies.complexity.head import Head
    from router.policy_in_force import ActivePolicy

EMBEDDING_WAIT_S = 0.1
"""A request waits no longer for its embedding: then the rules score it."""

EXPECTED_OUTPUT_TOKENS = 400
"""An answer that may be longer is reckoned at so many; what answers really cost corrects it."""

LONGEST_QUESTION = 8_192
"""Characters that are embedded; a search embeds as many."""


class Embedding(Struct, frozen=True):
    """A question's embedding, float16, and the embedder it is of; or why there is none."""

    vector: bytes = b""
    space: str = ""
    problem: str = ""


async def scored(
    policy: Policy, features: Features, state: State, head: Head | None, question: str, found: SearchResult | None, compute: object
) -> tuple[Features, bytes | None]:
    """The features with the head's score, and the embedding, which a search may have made already. Where anything is missing the rules' score stays."""
    made = Embedding(found.embedding, found.space) if found is not None and found.embedding else None
    if head is None or features.complexity is None or not needs_complexity(policy, features, state):
        return features, None if made is None else made.vector
    if made is None:
        made = await embedded(question, compute)
    if not made.problem and made.space != head.about.space:
        made = msgspec.structs.replace(made, problem="embedder_differs")
    if made.problem:
        return msgspec.structs.replace(features, scorer=f"{RULES}:{made.problem}"), made.vector or None
    return msgspec.structs.replace(features, complexity=head.one(question, made.vector), scorer=f"head:{head.hash}"), made.vector


async def embedded(question: str, compute: object, wait_s: float = EMBEDDING_WAIT_S) -> Embedding:
    """Made by this machine's embedder, or why it was not."""
    if not isinstance(compute, EmbeddingCompute):
        return Embedding(problem="no_embedder")
    import numpy as np

    try:
        async with asyncio.timeout(wait_s):
            made = await compute.embeddings([question.strip()[:LONGEST_QUESTION]])
    except TimeoutError:
        return Embedding(problem="embedding_late")
    except BackendError:
        return Embedding(problem="no_embedder")
    return Embedding(np.frombuffer(made.vectors, dtype="<f4").astype("<f2").tobytes(), made.space)


class Thresholds:
    """The thresholds that targets ask for, from the last scores on this host."""

    def __init__(self, home: Path) -> None:
        self._scores = Scores(home / "run" / "scores")

    def of(self, active: ActivePolicy, features: Features, head: Head | None) -> dict[str, float]:
        """The tenant's threshold, where the policy has a target; else nothing."""
        complexity = active.policy.complexity(features.tenant)
        if complexity is None or complexity.target is None:
            return {}
        key = _key(active, features)
        seen, correction = self._scores.seen(features.tenant, key), self._scores.correction(features.tenant, key)
        qualities = head.about.qualities if head is not None and features.scorer.startswith("head:") else None
        return {features.tenant: threshold_for(complexity.target, seen, correction, qualities)}

    def decided(self, active: ActivePolicy, features: Features) -> None:
        """Remember the score of a request that complexity decided."""
        complexity = active.policy.complexity(features.tenant)
        if complexity is None or complexity.target is None or features.complexity is None:
            return
        seen = Seen(features.complexity, expected_usd(active, features, complexity.weak), expected_usd(active, features, complexity.strong))
        self._scores.add(features.tenant, _key(active, features), seen)

    def settled(self, active: ActivePolicy, features: Features, backend: str, cost_usd: float) -> None:
        """Remember what a request that complexity decided came to cost."""
        complexity = active.policy.complexity(features.tenant)
        if complexity is not None and complexity.target is not None and complexity.target.cost_usd_per_1k is not None and backend in active.backends:
            self._scores.settled(features.tenant, _key(active, features), expected_usd(active, features, backend), cost_usd)

    def close(self) -> None:
        self._scores.close()


def expected_usd(active: ActivePolicy, features: Features, backend: str) -> float:
    """What an answer of usual length costs there: the input as it was estimated, and `EXPECTED_OUTPUT_TOKENS` of output, or the fewer that may come."""
    output = min(features.output_tokens or EXPECTED_OUTPUT_TOKENS, EXPECTED_OUTPUT_TOKENS)
    return usd_float(cost(Usage(input_tokens=features.input_tokens, output_tokens=output, source="estimated"), active.price(backend)))


def _key(active: ActivePolicy, features: Features) -> str:
    """Scores of one scorer, for one pair of backends, are comparable."""
    complexity = active.policy.complexity(features.tenant)
    scorer = RULES if features.scorer.startswith(RULES) else features.scorer
    return scorer if complexity is None else f"{scorer} {complexity.weak} {complexity.strong}"
