"""Recall and false alarms on shared data, which is not part of the repository: skipped, with the reason, where it is absent."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from policies.moderation import compile_rules, find, moderate

DATA = Path(__file__).parents[4] / "shared" / "data"
KINDS = {"EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "CREDIT_CARD": "card", "IBAN_CODE": "iban", "US_SSN": "ssn", "IP_ADDRESS": "ip"}
RULES = compile_rules(["pii", "secrets"])


def rows(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


# Telephone numbers without a country code, a trunk 0 or North American grouping are plain numbers to the rule, on purpose.
@pytest.mark.parametrize(("rule", "least"), [("email", 0.95), ("card", 0.9), ("iban", 0.95), ("ssn", 0.95), ("ip", 0.9), ("phone", 0.5)])
def test_typed_spans_of_the_pii_set_are_covered_whole(rule: str, least: float) -> None:
    covered = []
    for row in rows("moderation/pii.jsonl.gz"):
        removed = {at for match in find(RULES, row["text"]) for at in range(match.start, match.end)}
        covered += [removed.issuperset(range(span["start"], span["end"])) for span in row["spans"] if KINDS.get(span["type"]) == rule]
    assert sum(covered) / len(covered) >= least


def test_personal_data_is_rarely_seen_where_there_is_none() -> None:
    false_alarms = 0
    texts = rows("moderation/pii.jsonl.gz")
    for row in texts:
        personal = [span for span in row["spans"] if span["type"] in KINDS]
        false_alarms += any(not any(span["start"] < match.end and match.start < span["end"] for span in personal) for match in find(RULES, row["text"]))
    assert false_alarms / len(texts) <= 0.01


@pytest.mark.parametrize("name", ["moderation/benign_security_prompts.jsonl.gz", "routing/mmlu.jsonl.gz"])
def test_harmless_prompts_pass_unchanged(name: str) -> None:
    texts = [row["prompt"] for row in rows(name)]
    changed = sum(moderate(RULES, text).text != text for text in texts)
    assert changed / len(texts) <= 0.001


def test_placeholders_and_lookalikes_of_credentials_pass() -> None:
    # Anthropic's are left out: a truncated or mistyped sk-ant- key is removed all the same, on purpose
    lookalikes = [text for row in rows("moderation/secrets.jsonl.gz") if not row["rule"].startswith("anthropic") for text in row["should_not_match"]]
    secrets = compile_rules(["secrets"])
    assert sum(bool(find(secrets, text)) for text in lookalikes) / len(lookalikes) <= 0.05


def test_the_anthropic_keys_of_the_secrets_set_are_found() -> None:
    keys = [text for row in rows("moderation/secrets.jsonl.gz") if row["rule"].startswith("anthropic") for text in row["should_match"]]
    assert keys
    assert all(moderate(RULES, key).text == "[API_KEY]" for key in keys)
