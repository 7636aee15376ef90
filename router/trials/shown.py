"""Canaries as the API, the command line, the log and the audit log show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policies.canary import canaries_of
from policies.guard import Arm
from policies.load import Policy
from router.trials.store import RUNNING, CanaryRow, Reason, Sides


def figures(row: CanaryRow) -> dict[str, Any]:
    """Why a canary was rolled back: which bound of its guard, and both sides' figures in the window."""
    return {} if row.reason is None else _reason(row.reason)


def _reason(reason: Reason) -> dict[str, Any]:
    return {**msgspec.to_builtins(reason.verdict), "sides": {"candidate": shown_arm(reason.candidate), "baseline": shown_arm(reason.baseline)}}


def shown_arm(arm: Arm) -> dict[str, Any]:
    """A side's figures: null where nothing is known. `latency_ms` is the geometric mean, `cost_usd` the mean, of answered requests."""
    return {
        "requests": arm.requests,
        "errors": arm.errors,
        "error_rate": arm.error_rate,
        "latency_ms": None if arm.latency_ms is None else round(arm.latency_ms, 3),
        "cost_usd": arm.cost_usd,
        "scores": arm.scores,
        "score": arm.score,
    }


def shown(policy: Policy, version: int, rows: Mapping[str, CanaryRow]) -> list[dict[str, Any]]:
    """Every canary of a policy, in the order of its rules; one that nothing is known of runs and has no figures."""
    found = []
    for name, (rule, canary) in canaries_of(policy).items():
        row = rows.get(name)
        whole, recent = (Sides(), Sides()) if row is None else (row.whole, row.recent)
        found.append(
            {
                "rule": name,
                "policy_version": version,
                "use": canary.use,
                "instead_of": rule.backends,
                "share": canary.share,
                "sticky": canary.sticky,
                "state": RUNNING if row is None else row.state,
                "since": None if row is None else row.since,
                "reason": None if row is None or row.reason is None else _reason(row.reason),
                "guard": canary.guard,
                "window": {"number": 1, "began_at": None} if row is None else {"number": row.window, "began_at": row.window_began_at},
                "sides": {side: {"whole": shown_arm(getattr(whole, side)), "window": shown_arm(getattr(recent, side))} for side in ("candidate", "baseline")},
            }
        )
    return found
