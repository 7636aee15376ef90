"""`make eval-routing [DATA=folder]`: how well scores order questions, on rows that nothing was learnt from.

    python -m tests.bench.routing [DATA] [--draws 400]

Learns from the data folder only: from the rows that `policies.complexity.pairs.held_out` leaves, by the hash of each prompt. Reports on the others, with
95 % bootstrap intervals, beside random order, the length of the prompt, keyword heuristics in the manner of LiteLLM's, the best single model, a
plain ridge regression on embedding and features, the shipped rules, and an oracle that knows both answers.

Embeddings are kept in HEADGATE_EMBEDDINGS (default: a folder of the system's temporary one), so that a second run takes a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from policies.complexity.features import features_of, looked_at
from policies.complexity.head import embedded
from policies.complexity.measures import Measured, apgr, bootstrap, cpt
from policies.complexity.pairs import Pair, held_out
from policies.complexity.rules import complexity_of
from policies.complexity.training import fit
from tests.bench.routing_data import DataMissing, read_set

FOLDS = 5
FEW = 1_500


class Table(Struct):
    """One comparison: what every order scores on the same rows."""

    name: str
    aim: float
    gains: Any
    scores: dict[str, Any]


class Bar:
    """A progress bar on standard error, where that is a terminal; else one line a step."""

    def __init__(self, whole: int) -> None:
        self._whole, self._done = whole, 0

    def step(self, what: str) -> None:
        self._done += 1
        filled = 30 * self._done // self._whole
        line = f"[{'#' * filled}{'.' * (30 - filled)}] {self._done}/{self._whole} {what}"
        sys.stderr.write(f"\r{line:78.78}" if sys.stderr.isatty() else f"{line}\n")
        sys.stderr.flush()


def with_embeddings(pairs: list[Pair], name: str) -> list[Pair]:
    """The pairs with their embeddings and features."""
    folder = Path(os.environ.get("HEADGATE_EMBEDDINGS") or Path(tempfile.gettempdir()) / "headgate-embeddings")
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256("\0".join(pair.prompt for pair in pairs).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    path = folder / f"{name}-{digest}.npy"
    if not path.is_file():
        np.save(path, embedded([pair.prompt for pair in pairs]), allow_pickle=False)
    rows = np.load(path, allow_pickle=False)
    return [msgspec.structs.replace(pair, embedding=row.tobytes(), features=features_of(looked_at(pair.prompt))) for pair, row in zip(pairs, rows, strict=True)]


# --- what it is compared with --------------------------------------------------------------------------------------------------------------

_KEYWORDS = {
    "code": (0.30, "python java sql function class def api code algorithm debug error script html regex array loop import return variable compile database"),
    "reasoning": (0.25, "step-by-step analyze reason why compare evaluate prove derive logically consider deduce explain justify"),
    "technical": (0.25, "architecture distributed encryption protocol neural quantum theorem equation molecule protein voltage matrix integral enzyme genome"),
}
_SIMPLE = re.compile(r"\b(?:what is|define|who is|when did|where is|hello|hi|thanks|capital of)\b")


def keywords(text: str) -> float:
    """Weighted keyword counts and a length, as complexity routers without a model use them: an own writing of the idea, no copy of any."""
    lower = text.lower()
    words = set(re.findall(r"[a-z\-]+", lower))
    score = sum(weight * min(len(words & set(listed.split())), 2) / 2 for weight, listed in _KEYWORDS.values())
    tokens = len(text) / 4
    length = -1.0 if tokens < 15 else 1.0 if tokens > 400 else 0.0
    return score + 0.10 * length - 0.05 * bool(_SIMPLE.search(lower))


def plain(known: Sequence[Pair], asked: Sequence[Pair]) -> Any:
    """The head that anybody would write first: one ridge regression on embedding and features."""
    sheets = [np.hstack([10 * np.array([np.frombuffer(pair.embedding or b"", dtype=np.float16) for pair in pairs], dtype=float)]) for pairs in (known, asked)]
    numbers = [np.array([(pair.features or ())[:18] for pair in pairs]) for pairs in (known, asked)]
    means, scales = numbers[0].mean(0), numbers[0].std(0) + 1e-6
    x, z = (np.hstack([sheet, np.clip((own - means) / scales, -3, 3)]) for sheet, own in zip(sheets, numbers, strict=True))
    gains = np.array([pair.gain for pair in known])
    middle = x.mean(0)
    return (z - middle) @ np.linalg.solve((x - middle).T @ (x - middle) + 300 * np.eye(x.shape[1]), (x - middle).T @ (gains - gains.mean()))


def head(known: Sequence[Pair], asked: Sequence[Pair], *, answers: bool = False) -> Any:
    learnt = fit(known)
    return np.array([learnt.one(pair.prompt, pair.embedding or b"", pair.weak_answer if answers else None) for pair in asked])


def table(name: str, aim: float, splits: Sequence[tuple[Sequence[Pair], Sequence[Pair]]], *, answers: bool = False) -> Table:
    """Learn from the first part of each split and score the second; all second parts together are one table."""
    found: dict[str, list[Any]] = {}
    asked_of_all = [pair for _, asked in splits for pair in asked]
    for known, asked in splits:
        found.setdefault("plain head", []).append(plain(known, asked))
        found.setdefault("headgate", []).append(head(known, asked, answers=answers))
    prompts = [pair.prompt for pair in asked_of_all]
    gains = np.array([pair.gain for pair in asked_of_all])
    scores = {
        "random": np.random.default_rng(0).random(len(gains)),
        "length": np.array([float(len(prompt)) for prompt in prompts]),
        "keywords": np.array([keywords(prompt) for prompt in prompts]),
        "rules": np.array([complexity_of(looked_at(prompt)) for prompt in prompts]),
        **{key: np.concatenate(parts) for key, parts in found.items()},
        "oracle": gains,
    }
    return Table(name, aim, gains, scores)


def tables(folder: Path, bar: Bar) -> Iterator[Table]:
    """Every table of the report. Raises `DataMissing` for a set that is not there."""
    mmlu, gsm8k, mixed = (with_embeddings(read_set(folder, name), name) for name in ("mmlu", "gsm8k", "mixed_tasks"))
    known = {name: [pair for pair in pairs if not held_out(pair.prompt)] for name, pairs in (("mmlu", mmlu), ("gsm8k", gsm8k), ("mixed", mixed))}
    asked = {name: [pair for pair in pairs if held_out(pair.prompt)] for name, pairs in (("mmlu", mmlu), ("gsm8k", gsm8k), ("mixed", mixed))}
    few = sorted(known["mmlu"], key=lambda pair: hashlib.sha256(pair.prompt.encode()).hexdigest()[8:])[:FEW]
    plans: list[Callable[[], Table]] = [
        lambda: table("MMLU", 0.70, [(known["mmlu"], asked["mmlu"])]),
        lambda: table(f"MMLU, {FEW:,} labels", 0.63, [(few, asked["mmlu"])]),
        lambda: table("MMLU, subjects never trained on", 0.61, list(without_groups(known["mmlu"], asked["mmlu"], _parts(mmlu)))),
        lambda: table("GSM8K, from the question", 0.67, [(known["gsm8k"], asked["gsm8k"])]),
        lambda: table("GSM8K, after the weak answer", 0.77, [(known["gsm8k"], asked["gsm8k"])], answers=True),
        lambda: table("mixed tasks", 0.70, [(known["mixed"], asked["mixed"])]),
        lambda: table(
            "mixed, each task never trained on", 0.0, list(without_groups(known["mixed"], asked["mixed"], [{pair.group} for pair in _firsts(mixed)]))
        ),
        lambda: table("mixed, code and facts never trained on", 0.83, list(without_groups(known["mixed"], asked["mixed"], [{"human_eval", "trivia_qa"}]))),
        lambda: table("mixed, code, science, facts never trained on", 0.0, list(without_groups(known["mixed"], asked["mixed"], [_UNSEEN]))),
    ]
    for plan in plans:
        made = plan()
        bar.step(made.name)
        yield made


_UNSEEN = {"human_eval", "trivia_qa", "arc_challenge"}
TABLES = 9


def _firsts(pairs: Sequence[Pair]) -> list[Pair]:
    return list({pair.group: pair for pair in pairs}.values())


def _parts(pairs: Sequence[Pair]) -> list[set[str]]:
    """The subjects in five parts, by the hash of their names."""
    parts: list[set[str]] = [set() for _ in range(FOLDS)]
    for pair in _firsts(pairs):
        parts[hashlib.sha256(pair.group.encode()).digest()[0] % FOLDS].add(pair.group)
    return [part for part in parts if part]


def without_groups(known: Sequence[Pair], asked: Sequence[Pair], parts: Sequence[set[str]]) -> Iterator[tuple[list[Pair], list[Pair]]]:
    for part in parts:
        yield [pair for pair in known if pair.group not in part], [pair for pair in asked if pair.group in part]


def lines(made: Table, draws: int) -> Iterator[str]:
    aim = f", aim {made.aim:.2f}" if made.aim else ""
    yield f"\n{made.name} ({len(made.gains)} held-out rows{aim})"
    yield f"  {'':22}{'APGR':^22}{'CPT50':^22}{'CPT80':^22}"
    for name, scores in made.scores.items():
        cells = [
            bootstrap(apgr, scores, made.gains, draws=draws),
            bootstrap(lambda s, g: cpt(s, g, 0.5), scores, made.gains, draws=draws),
            bootstrap(lambda s, g: cpt(s, g, 0.8), scores, made.gains, draws=draws),
        ]
        yield f"  {name:22}" + "".join(f"{_cell(each):^22}" for each in cells)
    yield f"  {'best single model':22}the strong one for all: everything recovered with 100 % strong calls; no order, so APGR .500"


def _cell(measured: Measured) -> str:
    return f"{measured.value:.3f} [{measured.low:.3f}, {measured.high:.3f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path(__file__).resolve().parents[2] / "../shared/data/routing")
    parser.add_argument("--draws", type=int, default=400)
    arguments = parser.parse_args()
    try:
        for made in tables(arguments.data, Bar(TABLES)):
            print("\n".join(lines(made, arguments.draws)), flush=True)
    except DataMissing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
