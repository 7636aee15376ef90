"""The published sets that routing is measured on: questions with the scores of a weaker and a stronger model.

| file | what | from |
|---|---|---|
| `mmlu.jsonl.gz` | 5,976 exam questions, `subject`; were Mixtral-8x7B (weak) and GPT-4 (strong) right? | lm-sys/RouteLLM, Apache-2.0 |
| `gsm8k.jsonl.gz` | 706 sums in words, with both answers; the same two models | lm-sys/RouteLLM, Apache-2.0 |
| `mixed_tasks.jsonl.gz` | 2,262 questions of 11 tasks, 7 models' scores; weak is Mistral 7B, strong Nemotron 51B, the best | ulab-uiuc/LLMRouter, MIT |
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import msgspec

from policies.complexity.pairs import Pair

SETS = ("mmlu", "gsm8k", "mixed_tasks")
WEAK, STRONG = "mistral-7b-instruct-v0.3", "llama-3.1-nemotron-51b-instruct"
"""Of the mixed tasks' seven models."""


class DataMissing(Exception):
    """The message names the file and where it is from."""


def read_set(folder: Path, name: str) -> list[Pair]:
    """The pairs of a set; `group` is the subject or the task. Raises `DataMissing`."""
    return [_pair(row) for row in read_rows(folder, name)]


def read_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / f"{name}.jsonl.gz"
    if not path.is_file():
        source = "ulab-uiuc/LLMRouter" if name == "mixed_tasks" else "lm-sys/RouteLLM"
        raise DataMissing(f"{path} is missing: it is made from {source} on GitHub; `make eval-routing DATA=folder` names another folder")
    with gzip.open(path, "rb") as file:
        return [msgspec.json.decode(line) for line in file]


def _pair(row: dict[str, Any]) -> Pair:
    if "scores" in row:
        return Pair(prompt=row["prompt"], weak=row["scores"][WEAK], strong=row["scores"][STRONG], group=row["task"])
    return Pair(prompt=row["prompt"], weak=row["weak"], strong=row["strong"], group=row.get("subject", ""), weak_answer=row.get("weak_answer"))
