"""Learn the weights of `policies/complexity/rules.py` and measure them on rows that were held out.

    python tools/train_complexity.py DATA [--write]

DATA is a folder with the sets of `tests.bench.routing_data`; what they are and where they are from stands there. Weights are learnt from the
rows that `policies.complexity.pairs.held_out` does not hold out, and measured (APGR; random = .5) on those that it does. `--write` puts both
into the module.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from policies.complexity import rules
from policies.complexity.features import features_of, looked_at
from policies.complexity.measures import apgr
from policies.complexity.pairs import Pair, held_out
from tests.bench.routing_data import SETS, read_set

WEIGHTS = {"mmlu": 1.0, "gsm8k": 0.3, "mixed_tasks": 1.0}
"""How much each set counts, whatever its size: GSM8K is one kind of question only, and 706 of them."""

RIDGE = 1000.0
"""Strong, by cross-validation with whole tasks left out: what weaker ridges learnt of one task misled them on the next."""

PRIOR_WEIGHT = 0.15
"""What one standard deviation of the prior is worth, as a gain."""


def learn(parts: dict[str, list[Pair]]) -> dict[str, Any]:
    """Ridge regression of the gain, beyond what the prior says, on clipped, standardised features. Each set is centred by itself."""
    every = {name: np.array([features_of(looked_at(pair.prompt)) for pair in pairs]) for name, pairs in parts.items()}
    features = np.concatenate(list(every.values()))
    means, scales = features.mean(0), features.std(0) + 1e-6
    priors = np.array([rules.prior(row) for row in features])
    prior_mean, prior_scale = priors.mean(), priors.std()
    inner, target, weight = [], [], []
    for name, own in every.items():
        standard = np.clip((own - means) / scales, -3, 3)
        gains = np.array([pair.gain for pair in parts[name]])
        inner.append(standard - standard.mean(0))
        target.append(gains - gains.mean() - PRIOR_WEIGHT * (np.array([rules.prior(row) for row in own]) - prior_mean) / prior_scale)
        weight.append(np.full(len(gains), WEIGHTS[name] / len(gains) * 1000))
    x, y, w = np.concatenate(inner), np.concatenate(target), np.concatenate(weight)
    weights = np.linalg.solve(x.T @ (x * w[:, None]) + RIDGE * np.eye(x.shape[1]), x.T @ (y * w))
    scores = np.clip((features - means) / scales, -3, 3) @ weights + PRIOR_WEIGHT * (priors - prior_mean) / prior_scale
    found = {"weights": weights, "means": means, "scales": scales, "prior_weight": PRIOR_WEIGHT, "prior_mean": prior_mean, "prior_scale": prior_scale}
    return found | {"middle": np.median(scores), "spread": scores.std()}


def score(model: dict[str, Any], pairs: list[Pair]) -> Any:
    features = np.array([features_of(looked_at(pair.prompt)) for pair in pairs])
    priors = np.array([rules.prior(row) for row in features])
    standard = np.clip((features - model["means"]) / model["scales"], -3, 3)
    return standard @ model["weights"] + model["prior_weight"] * (priors - model["prior_mean"]) / model["prior_scale"]


def write(model: dict[str, Any], measured: dict[str, float]) -> None:
    path = Path(rules.__file__)
    lines = ["# BEGIN LEARNT"]
    for name in ("weights", "means", "scales"):
        values = ", ".join(f"{value:.4g}" for value in model[name])
        lines += [
            f"_{name.upper()}: tuple[float, ...] = (",
            *textwrap.wrap(values + ",", 120, initial_indent="    ", subsequent_indent="    "),
            ")  # fmt: skip",
        ]
    lines += [f"_{name.upper()} = {model[name]:.5g}" for name in ("prior_weight", "prior_mean", "prior_scale", "middle", "spread")]
    text = re.sub(r"# BEGIN LEARNT.*# END LEARNT", lambda _: "\n".join([*lines, "# END LEARNT"]), path.read_text(), flags=re.DOTALL)
    told = "HELD_OUT = {" + ", ".join(f'"{name}": {value:.3f}' for name, value in measured.items()) + "}"
    path.write_text(re.sub(r"^HELD_OUT = .*$", told, text, flags=re.MULTILINE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    data = {name: read_set(arguments.data, name) for name in SETS}
    model = learn({name: [pair for pair in pairs if not held_out(pair.prompt)] for name, pairs in data.items()})
    measured = {}
    for name, pairs in data.items():
        unseen = [pair for pair in pairs if held_out(pair.prompt)]
        measured[name] = apgr(score(model, unseen), [pair.gain for pair in unseen])
        sys.stdout.write(f"{name}: APGR {measured[name]:.3f} on {len(unseen)} held-out rows\n")
    if arguments.write:
        write(model, measured)


if __name__ == "__main__":
    main()
