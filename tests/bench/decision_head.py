"""How long a decision takes to know how hard a question is, on one thread: the rules; a head with the embedding at hand; a head with embedding.

    OMP_NUM_THREADS=1 python -m tests.bench.decision_head [samples]

Questions of up to 64 tokens, and of 2,000 characters, which is all of a longer one that is looked at. Prints the median and the 95th percentile, in ms.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from adapters.embedding import SentenceEmbedder
from policies.complexity import Pair, complexity_of, fit
from policies.complexity.features import features_of, looked_at

TOPICS = ("the tides of a bay", "a tax on land", "a loop in Python", "the proof of a theorem", "steel that rusts", "birds in winter", "a matrix of rank two")
ASKED = (
    "Explain how {} comes about, and what follows from it for somebody who has never heard of it.",
    "What is {}?",
    "Compare {} with {} step by step, and say why.",
)


def questions(count: int) -> list[str]:
    return [ASKED[n % 3].format(TOPICS[n % 7], TOPICS[(n + n // 7) % 7]) + f" Give {n} reasons." for n in range(count)]


def timed(work: Callable[[str], object], asked: Sequence[str]) -> tuple[float, ...]:
    """Median and 95th percentile: of the time on the clock, and of the thread's own, which a busy machine does not lengthen as much."""
    work(asked[0])
    taken, own = [], []
    for question in asked:
        began, began_own = time.perf_counter(), time.thread_time()
        work(question)
        own.append(1000 * (time.thread_time() - began_own))
        taken.append(1000 * (time.perf_counter() - began))
    return tuple(float(np.quantile(each, share)) for each in (taken, own) for share in (0.5, 0.95))


def measure(samples: int = 300) -> dict[str, tuple[float, ...]]:
    embedder = SentenceEmbedder(offline=True, threads=1)

    def embed(texts: Sequence[str]) -> Any:
        return embedder.embed(texts, "query")

    random = np.random.default_rng(0)
    pairs = [Pair(prompt=prompt, weak=float(random.random() < 0.5), strong=1.0) for prompt in questions(400)]
    head = fit(pairs, embed=embed)
    short = questions(samples)
    assert max(embedder.count_tokens(short)) <= 64
    long = [looked_at(question * 40) for question in short]
    known = dict(zip(short, (embed([question])[0].astype(np.float16) for question in short), strict=True))
    return {
        "rules, up to 64 tokens": timed(complexity_of, short),
        "rules, 2,000 characters": timed(complexity_of, long),
        "features, 2,000 characters": timed(features_of, long),
        "head, embedding at hand": timed(lambda question: head.one(question, known[question]), short),
        "head with embedding, up to 64 tokens": timed(lambda question: head.one(question, embed([question])[0].astype(np.float16)), short),
    }


def main() -> int:
    print(f"{'ms':40}{'median':>10}{'p95':>10}{'CPU':>10}{'CPU p95':>10}")
    for name, found in measure(int(sys.argv[1]) if len(sys.argv) > 1 else 300).items():
        print(f"{name:40}" + "".join(f"{each:10.3f}" for each in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
