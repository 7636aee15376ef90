"""Canaries in the database: sums added up over all workers and replicas, judged where they are added up, rolled back and resumed.

A canary's row is locked while its sums change, so one worker at a time judges it, and one rolls it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from policies.canary import ROLLED_BACK, Side, side_of
from policies.decision import Decision
from policies.guard import Arm, Verdict, verdict, window_ended
from policies.trials import Canary
from router.audit.tables import decisions, feedback
from router.trials.tables import canaries, canary_sides

CanaryState: TypeAlias = Literal["running", "rolled_back"]
RUNNING: CanaryState = "running"
SIDES: tuple[Side, Side] = ("candidate", "baseline")
SUMS = ("requests", "errors", "log_ms", "log_ms_squared", "cost", "cost_squared")
MOST_RATED = 5_000
"""The newest so many ratings of a window are looked at."""


class Sides(Struct, frozen=True):
    """The sums of both sides."""

    candidate: Arm = Arm()
    baseline: Arm = Arm()

    def with_outcome(self, side: Side, sums: Arm) -> Sides:
        return Sides(self.candidate + sums, self.baseline) if side == "candidate" else Sides(self.candidate, self.baseline + sums)


class Reason(Struct, frozen=True):
    """Why a canary was rolled back, and the figures of the window in which it was."""

    verdict: Verdict
    candidate: Arm
    baseline: Arm


class CanaryRow(Struct, frozen=True, kw_only=True):
    """A canary as the database has it, with all its sums and those of its window."""

    policy_version: int
    policy_hash: str
    rule: str
    state: CanaryState
    since: float
    began_at: float
    reason: Reason | None
    window: int
    window_began_at: float
    whole: Sides = Sides()
    recent: Sides = Sides()


def states(connection: Connection, version: int) -> dict[str, str]:
    """The states of a policy version's canaries, by rule: of those that anything is known of."""
    query = select(canaries.c.rule, canaries.c.state).where(canaries.c.policy_version == version)
    return {row.rule: row.state for row in connection.execute(query)}


def add(connection: Connection, version: int, policy_hash: str, rule: str, canary: Canary, sums: Sides, now: float) -> CanaryRow | None:
    """Add sums, and judge. The canary's row where that rolled it back, else None. A canary that is rolled back is not judged again."""
    _make(connection, version, policy_hash, rule, now)
    row = connection.execute(select(canaries).where(*_is(canaries, version, rule)).with_for_update()).mappings().one()
    for side, arm in zip(SIDES, (sums.candidate, sums.baseline), strict=True):
        if arm.requests:
            added = {f"{part}{name}": canary_sides.c[f"{part}{name}"] + getattr(arm, name) for part in ("", "window_") for name in SUMS}
            connection.execute(update(canary_sides).where(*_is(canary_sides, version, rule), canary_sides.c.side == side).values(added))
    if row["state"] != RUNNING:
        return None
    whole, recent = _sides(connection, version, rule)
    if canary.guard.score_drop is not None:
        recent = _rated(connection, version, rule, row["window_began_at"], recent)
    found = verdict(canary.guard, recent.candidate, recent.baseline, row["window"])
    if found is None:
        if window_ended(canary.guard, recent.candidate, now - row["window_began_at"], canary.window_s):
            _next_window(connection, version, rule, row["window"] + 1, now)
        return None
    reason = Reason(found, recent.candidate, recent.baseline)
    _turn(connection, version, rule, ROLLED_BACK, msgspec.json.encode(reason).decode(), now)
    return _canary({**row, "state": ROLLED_BACK, "since": now}, reason, whole, recent)


def resume(connection: Connection, version: int, rule: str, now: float) -> CanaryRow | None:
    """Let a canary that was rolled back run again, judged by what comes from now on. None where there is no such canary rolled back."""
    row = connection.execute(select(canaries).where(*_is(canaries, version, rule)).with_for_update()).mappings().one_or_none()
    if row is None or row["state"] == RUNNING:
        return None
    _turn(connection, version, rule, RUNNING, "", now)
    _next_window(connection, version, rule, row["window"] + 1, now)
    return listed(connection, version)[rule]


def listed(connection: Connection, version: int) -> dict[str, CanaryRow]:
    """The canaries of a policy version of which anything is known, by rule."""
    found = {}
    for row in connection.execute(select(canaries).where(canaries.c.policy_version == version)).mappings().all():
        whole, recent = _sides(connection, version, row["rule"])
        recent = _rated(connection, version, row["rule"], row["window_began_at"], recent)
        reason = msgspec.json.decode(row["reason"], type=Reason) if row["reason"] else None
        found[row["rule"]] = _canary(row, reason, whole, recent)
    return found


def _canary(row: Mapping[Any, Any], reason: Reason | None, whole: Sides, recent: Sides) -> CanaryRow:
    return CanaryRow(**{**row, "reason": reason}, whole=whole, recent=recent)


def _make(connection: Connection, version: int, policy_hash: str, rule: str, now: float) -> None:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    named = {"policy_version": version, "rule": rule}
    values = {**named, "policy_hash": policy_hash, "state": RUNNING, "since": now, "began_at": now, "reason": "", "window": 1, "window_began_at": now}
    if connection.execute(insert(canaries).on_conflict_do_nothing(), values).rowcount > 0:
        zeros = {f"{part}{name}": 0 for part in ("", "window_") for name in SUMS}
        connection.execute(insert(canary_sides).on_conflict_do_nothing(), [{**named, **zeros, "side": side} for side in SIDES])


def _turn(connection: Connection, version: int, rule: str, state: str, reason: str, now: float) -> None:
    connection.execute(update(canaries).where(*_is(canaries, version, rule)).values(state=state, reason=reason, since=now))


def _next_window(connection: Connection, version: int, rule: str, window: int, now: float) -> None:
    connection.execute(update(canaries).where(*_is(canaries, version, rule)).values(window=window, window_began_at=now))
    connection.execute(update(canary_sides).where(*_is(canary_sides, version, rule)).values({f"window_{name}": 0 for name in SUMS}))


def _sides(connection: Connection, version: int, rule: str) -> tuple[Sides, Sides]:
    """All sums, and those of the window."""
    rows = {row["side"]: row for row in connection.execute(select(canary_sides).where(*_is(canary_sides, version, rule))).mappings()}
    whole, recent = ([Arm(**{name: rows[side][f"{part}{name}"] for name in SUMS}) for side in SIDES] for part in ("", "window_"))
    return Sides(*whole), Sides(*recent)


def _rated(connection: Connection, version: int, rule: str, since: float, sides: Sides) -> Sides:
    """With what users said since then of answers of either side; of a request that several rated, the mean."""
    rated = select(feedback.c.request_id, func.avg(feedback.c.score).label("score"), func.max(feedback.c.created_at).label("at"))
    newest = rated.where(feedback.c.created_at >= since).group_by(feedback.c.request_id).order_by(func.max(feedback.c.created_at).desc()).limit(MOST_RATED)
    found = newest.subquery()
    query = select(found.c.score, decisions.c.decision).join(decisions, decisions.c.request_id == found.c.request_id)
    for row in connection.execute(query.where(decisions.c.policy_version == version, decisions.c.decision.contains('"canary:', autoescape=True))):
        drawn = side_of(msgspec.json.decode(row.decision, type=Decision))
        if drawn is not None and drawn[0] == rule:
            sides = sides.with_outcome(drawn[1], Arm(scores=1, score_sum=min(1.0, max(0.0, row.score))))
    return sides


def _is(table_: Any, version: int, rule: str) -> tuple[Any, Any]:
    return table_.c.policy_version == version, table_.c.rule == rule
