"""The signals on real answers of two models to 706 problems, which are not part of the repository: skipped, with the reason, where they are absent."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from policies.verification.agreement import agreement
from policies.verification.answer import Answer, Asked
from policies.verification.spec import Cascade
from policies.verification.verify import verify

PROBLEMS = Path(__file__).parents[4] / "shared" / "data" / "routing" / "gsm8k.jsonl.gz"


@pytest.fixture(scope="module")
def problems() -> list[dict[str, Any]]:
    if not PROBLEMS.exists():
        pytest.skip(f"{PROBLEMS} is absent")
    with gzip.open(PROBLEMS, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_two_right_answers_agree_and_a_right_and_a_wrong_one_do_not(problems: list[dict[str, Any]]) -> None:
    """However differently they are worded. Measured: 395 of 402 pairs of right answers agree, 234 of 253 pairs with a wrong one do not."""
    right = [agreement(each["weak_answer"], each["strong_answer"]) >= 0.5 for each in problems if each["weak"] >= 0.5 and each["strong"] >= 0.5]
    apart = [agreement(each["weak_answer"], each["strong_answer"]) < 0.5 for each in problems if (each["weak"] >= 0.5) != (each["strong"] >= 0.5)]
    assert (len(right), len(apart)) == (402, 253)
    assert sum(right) >= 0.97 * len(right)
    assert sum(apart) >= 0.9 * len(apart)


def test_ordinary_answers_pass_the_default_signals(problems: list[dict[str, Any]]) -> None:
    """Measured: one of 453 right answers fails."""
    spec = Cascade(on=("cheap",))
    failed = [verify(spec, Asked(), Answer(text=each["weak_answer"])).failed for each in problems if each["weak"] >= 0.5]
    assert sum(map(bool, failed)) <= 0.01 * len(failed), [each for each in failed if each]
