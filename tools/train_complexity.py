"""Learn the weights of `policies/complexity.py` and measure them on rows that were held out.

    python tools/train_complexity.py DATA [--write]

DATA is a folder with `mmlu.jsonl.gz` and `gsm8k.jsonl.gz` of lm-sys/RouteLLM (Apache-2.0): one JSON object a line with `prompt`, and with
`weak` and `strong`, which say whether Mixtral-8x7B and GPT-4 were right (0 or 1). The measure is APGR: sort by the score, move the share that
goes to the strong model from 0 to 1, and integrate the share of the quality gap that is recovered (random = .5). `--write` puts the weights
learnt from one half (chosen by a hash of each prompt) into the module, with the mean APGR over ten random halves.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import textwrap
import zlib
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from policies import complexity

SETS = {"mmlu": 1.0, "gsm8k": 0.3}
"""The data sets and how much each one counts: GSM8K is one kind of question only, and 706 of them."""
RIDGE = 30.0
HALVES = 10


def read(folder: Path, name: str) -> tuple[list[str], Any, Any]:
    """Prompts, their features and what the strong model gains on each (-1, 0 or 1)."""
    path = folder / f"{name}.jsonl.gz"
    if not path.is_file():
        sys.exit(f"{path} is missing: get it from lm-sys/RouteLLM")
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    prompts = [row["prompt"] for row in rows]
    return prompts, np.array([complexity.features_of(prompt) for prompt in prompts]), np.array([row["strong"] - row["weak"] for row in rows])


def learn(parts: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Ridge regression of the gain on clipped, standardised features; each set counts by its weight, whatever its size."""
    features = np.concatenate([x for x, _ in parts.values()])
    gains = np.concatenate([y for _, y in parts.values()])
    weight = np.concatenate([np.full(len(y), SETS[name] / len(y) * 1000) for name, (_, y) in parts.items()])
    means, scales = features.mean(0), features.std(0) + 1e-9
    standard = np.clip((features - means) / scales, -3, 3)
    centre = (weight[:, None] * standard).sum(0) / weight.sum()
    inner = standard - centre
    target = gains - (weight * gains).sum() / weight.sum()
    weights = np.linalg.solve(inner.T @ (inner * weight[:, None]) + RIDGE * np.eye(inner.shape[1]), inner.T @ (target * weight))
    scores = standard @ weights
    return {"weights": weights, "means": means, "scales": scales, "middle": float(np.median(scores)), "spread": float(scores.std())}


def score(model: dict[str, Any], features: Any) -> Any:
    return np.clip((features - model["means"]) / model["scales"], -3, 3) @ model["weights"]


def apgr(scores: Any, gains: Any) -> float:
    recovered = np.concatenate([[0.0], np.cumsum(gains[np.argsort(-scores, kind="stable")])])
    return float(np.trapezoid(recovered / recovered[-1], dx=1 / len(gains)))


def measure(data: dict[str, tuple[list[str], Any, Any]]) -> dict[str, list[float]]:
    """APGR on the held-out half, for each set, over random halves."""
    found: dict[str, list[float]] = {name: [] for name in data}
    for seed in range(HALVES):
        random = np.random.default_rng(seed)
        chosen = {name: random.random(len(gains)) < 0.5 for name, (_, _, gains) in data.items()}
        model = learn({name: (x[chosen[name]], y[chosen[name]]) for name, (_, x, y) in data.items()})
        for name, (_, x, y) in data.items():
            held_out = ~chosen[name]
            found[name].append(apgr(score(model, x[held_out]), y[held_out]))
    return found


def write(model: dict[str, Any], held_out: dict[str, float]) -> None:
    path = Path(complexity.__file__)
    lines = ["# BEGIN LEARNT"]
    for name in ("weights", "means", "scales"):
        values = ", ".join(f"{value:.4g}" for value in model[name])
        lines += [
            f"_{name.upper()}: tuple[float, ...] = (",
            *textwrap.wrap(values + ",", 120, initial_indent="    ", subsequent_indent="    "),
            ")  # fmt: skip",
        ]
    lines += [f"_MIDDLE = {model['middle']:.5g}", f"_SPREAD = {model['spread']:.5g}", "# END LEARNT"]
    text = re.sub(r"# BEGIN LEARNT.*# END LEARNT", "\n".join(lines), path.read_text(), flags=re.DOTALL)
    text = re.sub(r"^HELD_OUT = .*$", "HELD_OUT = {" + ", ".join(f'"{name}": {value:.3f}' for name, value in held_out.items()) + "}", text, flags=re.MULTILINE)
    path.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    data = {name: read(arguments.data, name) for name in SETS}
    means = {}
    for name, values in measure(data).items():
        means[name] = float(np.mean(values))
        sys.stdout.write(f"{name}: held-out APGR {means[name]:.3f} (sd {np.std(values):.3f} over {HALVES} halves)\n")
    half = {name: np.array([zlib.crc32(prompt.encode()) % 2 == 0 for prompt in prompts]) for name, (prompts, _, _) in data.items()}
    model = learn({name: (x[half[name]], y[half[name]]) for name, (_, x, y) in data.items()})
    for name, (_, x, y) in data.items():
        sys.stdout.write(f"{name}: shipped weights, other half: {apgr(score(model, x[~half[name]]), y[~half[name]]):.3f}\n")
    if arguments.write:
        write(model, means)


if __name__ == "__main__":
    main()
