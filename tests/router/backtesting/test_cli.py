"""`headgate policy backtest` and `curve` over a log that the recorder wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import update

from config.database import open_database
from router.audit.tables import decisions
from router.launch import migrate_state
from tests.policies.backtest.simulator import BACKENDS, CERTAIN, EXPLORING, threshold
from tests.router.backtesting.logs import write_log
from tests.router.cli.kit import Command, headgate

__all__ = ["headgate"]

THRESHOLD = "complexity: {weak: weak, strong: strong, threshold: 0.45}\n"


def logged(home: Path, rules: str, size: int) -> Any:
    """A home with a log, the policy that made it in headgate.yaml, and another one in candidate.yaml."""
    (home / "headgate.yaml").write_text(BACKENDS + rules)
    (home / "candidate.yaml").write_text(BACKENDS + THRESHOLD)
    (home / "var").mkdir(mode=0o700)
    database = open_database(f"sqlite:///{home / 'var' / 'headgate.db'}")
    migrate_state(database)
    try:
        return write_log(database, rules, 1, size)
    finally:
        database.close()


def level(report: Any, number: int) -> Any:
    return next(each for each in report["levels"] if each["level"] == number)


def test_every_figure_carries_its_level_and_its_strength(headgate: Command, tmp_path: Path) -> None:
    world = logged(tmp_path, EXPLORING, 2_500)
    ran = headgate("policy", "backtest", "candidate.yaml")
    assert ran.status == 0, ran.out
    lines = ran.out.splitlines()
    assert lines[0].split() == ["FIGURE", "LOGGED", "CANDIDATE", "95", "%", "INTERVAL", "LEVEL", "STRENGTH"]
    table = [line for line in lines[1:] if line.rsplit(None, 1)[-1] in ("exact", "estimate", "statistical")]
    assert {tuple(line.split()[-2:]) for line in table} == {("L0", "exact"), ("L1", "estimate"), ("L2", "statistical")}
    assert any(line.split()[:5] == ["requests", "replayed", "identically", "2500", "2500"] for line in table)
    assert any(line.startswith("mean score, doubly robust") for line in table)
    report = headgate("policy", "backtest", "candidate.yaml", "--json").json
    assert (report["requests"], [each["strength"] for each in report["levels"]]) == (2_500, ["exact", "estimate", "statistical"])
    found = level(report, 2)["figures"]["doubly_robust"]
    assert found["low"] <= world.truth(threshold(0.45)) <= found["high"]
    assert level(report, 1)["figures"]["before_usd"] == pytest.approx(sum(record.cost for record in world.records) / 1e12)


def test_a_plot_is_a_png_and_a_drawing_in_the_terminal_with_the_operating_point(headgate: Command, tmp_path: Path) -> None:
    logged(tmp_path, EXPLORING, 2_500)
    ran = headgate("policy", "backtest", "candidate.yaml", "--plot", "curve.png")
    assert ran.status == 0, ran.err
    assert "o threshold 0.45:" in ran.out
    assert "USD per 1,000 requests; all weak at the left, all strong at the right" in ran.out
    with Image.open(tmp_path / "curve.png") as image:
        assert (image.format, image.size) == ("PNG", (1200, 760))
        assert (212, 68, 42) in {color for _, color in image.getcolors(10**6) or ()}  # the operating point
    again = headgate("policy", "curve", "candidate.yaml", "--json").json
    assert again["operating"]["threshold"] == 0.45
    assert again["source"] == "log"
    missing = headgate("policy", "curve", "candidate.yaml", "--plot", "nowhere/curve.png")
    assert (missing.status, "cannot be written" in missing.err) == (1, True)


def test_a_log_without_draws_has_costs_and_no_quality_and_a_level_that_was_named_fails(headgate: Command, tmp_path: Path) -> None:
    logged(tmp_path, CERTAIN, 400)
    ran = headgate("policy", "backtest", "candidate.yaml")
    assert ran.status == 0
    assert "L2: no number:" in ran.out
    assert "What to do: let rule 'easy' draw: use: {weighted: {weak: 95, strong: 5}}" in ran.out
    assert headgate("policy", "backtest", "candidate.yaml", "--level", "2").status == 1
    assert headgate("policy", "backtest", "candidate.yaml", "--level", "1").status == 0
    assert headgate("policy", "backtest", "candidate.yaml", "--plot", "curve.png").status == 1
    assert not (tmp_path / "curve.png").exists()
    refused = headgate("policy", "curve", "candidate.yaml")
    assert (refused.status, refused.out) == (1, "")
    assert "there is no curve: 50.0% of the requests would go where nothing like them was ever drawn" in refused.err


def test_a_log_that_was_changed_is_not_exact_and_the_request_is_named(headgate: Command, tmp_path: Path) -> None:
    logged(tmp_path, EXPLORING, 50)
    database = open_database(f"sqlite:///{tmp_path / 'var' / 'headgate.db'}")

    def change(connection: Any) -> None:
        row = connection.execute(decisions.select().where(decisions.c.request_id == "req-1-3")).mappings().one()
        changed = json.loads(row["decision"]) | {"propensity": 0.123}
        connection.execute(update(decisions).where(decisions.c.request_id == "req-1-3").values(decision=json.dumps(changed)))

    database.write_blocking(change)
    database.close()
    ran = headgate("policy", "backtest", "candidate.yaml", "--level", "0")
    assert ran.status == 1
    assert "L0: request req-1-3 was decided otherwise when it was logged: propensity differ." in ran.out


def test_tenant_and_period_choose_the_requests(headgate: Command, tmp_path: Path) -> None:
    logged(tmp_path, EXPLORING, 90)
    for name in ("acme", "globex", "initech"):
        assert headgate("tenants", "create", name).status == 0
    assert headgate("policy", "backtest", "candidate.yaml", "--level", "0", "--tenant", "acme", "--json").json["requests"] == 30
    assert headgate("policy", "backtest", "candidate.yaml", "--level", "0", "--limit", "7", "--json").json["requests"] == 7
    assert headgate("policy", "backtest", "candidate.yaml", "--level", "0", "--until", "2026-09-21T14:13:30Z", "--json").json["requests"] == 10
    empty = headgate("policy", "backtest", "candidate.yaml", "--since", "2027-01-01")
    assert (empty.status, "no decided request is in the log" in empty.out) == (0, True)
    assert headgate("policy", "backtest", "candidate.yaml", "--tenant", "nobody").status == 1


def test_what_is_wrong_with_the_candidate_or_the_pairs_is_said(headgate: Command, tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(BACKENDS + EXPLORING)
    (tmp_path / "bad.yaml").write_text("version: 1\ndefalt: weak\n")
    (tmp_path / "pairs.jsonl").write_text('{"weak": 1, "strong": 1}\n')
    bad = headgate("policy", "backtest", "bad.yaml")
    assert (bad.status, "did you mean 'default'" in bad.err) == (2, True)
    assert headgate("policy", "backtest", "missing.yaml").status == 2
    never = headgate("policy", "backtest", "headgate.yaml", "--level", "0")
    assert (never.status, "no policy was ever active here" in never.err) == (1, True)
    pairs = headgate("policy", "curve", "--pairs", "pairs.jsonl")
    assert (pairs.status, "line 1: a pair needs a score or a prompt" in pairs.err) == (2, True)


def test_the_curve_of_pairs_needs_no_log(headgate: Command, tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(BACKENDS + THRESHOLD)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps({"score": number / 50, "weak": 1 - number / 50, "strong": 1}) + "\n" for number in range(50)))
    found = headgate("policy", "curve", "--pairs", "pairs.jsonl", "--json").json
    assert (found["source"], found["weak"], found["operating"]["strong_share"]) == ("pairs", "weak", 0.54)
    assert "share of strong" in headgate("policy", "curve", "--pairs", "pairs.jsonl").out
