"""A backtest's report as a table in which every figure carries its level and how surely it is known."""

from __future__ import annotations

from collections.abc import Iterator

from policies.backtest.curve import Curve
from policies.backtest.quality import Quality
from policies.backtest.running import Level, Replayed, Report
from policies.backtest.values import CostLine, Costs, Estimate

HEADINGS = ("FIGURE", "LOGGED", "CANDIDATE", "95 % INTERVAL", "LEVEL", "STRENGTH")
MOVES, PARTS = 12, 12
"""Lines that are shown of each kind; JSON has all."""

Row = tuple[str, str, str, str, str, str]


def rows(report: Report) -> list[Row]:
    """The table, without its headings."""
    found: list[Row] = []
    for level in report.levels:
        tail = (f"L{level.level}", level.strength)
        for figure, logged, candidate, interval in _figures(level):
            found.append((figure, logged, candidate, interval, *tail))
    return found


def remarks(report: Report) -> list[str]:
    """What is to be said beside the table."""
    found: list[str] = []
    for level in report.levels:
        if level.refused is not None:
            found.append(f"L{level.level}: no number: {level.refused.reason}. What to do: {level.refused.remedy}.")
        match level.figures:
            case Replayed() as replayed:
                found += _of_replay(replayed)
            case Costs() | Quality() as figures:
                found += [f"L{level.level}: {note}." for note in figures.notes]
            case None:
                pass
    if report.no_curve is not None:
        found.append(f"curve: none: {report.no_curve.reason}. What to do: {report.no_curve.remedy}.")
    return found


def _of_replay(replayed: Replayed) -> Iterator[str]:
    for each in replayed.replay.changed:
        fields = ", ".join(difference.field for difference in each.differences)
        yield f"L0: request {each.request_id} was decided otherwise when it was logged: {fields} differ."
    if replayed.unreadable:
        yield f"L0: {replayed.unreadable} requests were decided by versions that cannot be loaded any more; they are not replayed."
    if replayed.assumed:
        yield f"L0: {', '.join(replayed.assumed)}: not in the log as the candidate has them, and taken to be ready and affordable."
    if replayed.unknown:
        yield f"L0: {replayed.unknown} requests were logged without a complexity, which the candidate asks for: it counts as not known."


def _figures(level: Level) -> Iterator[tuple[str, str, str, str]]:
    match level.figures:
        case Replayed() as found:
            changes = found.changes
            yield "requests replayed identically", str(found.replay.requests), str(found.replay.identical), "-"
            yield "requests that go elsewhere", str(changes.requests), f"{changes.changed} ({_share(changes.changed, changes.requests)})", "-"
            yield "requests with other fallbacks only", str(changes.requests), str(changes.reordered), "-"
            for move in changes.moves[:MOVES]:
                yield f"  {move.before} -> {move.after}", move.why_before, f"{move.requests}, {move.why_after}", "-"
            if len(changes.moves) > MOVES:
                rest = sum(move.requests for move in changes.moves[MOVES:])
                yield f"  {len(changes.moves) - MOVES} other moves", "", str(rest), "-"
        case Costs() as costs:
            yield "cost, USD", _usd(costs.before_usd), _usd(costs.after_usd.value), _interval(costs.after_usd, _usd)
            yield "  difference, USD", "", _signed(costs.difference_usd.value), _interval(costs.difference_usd, _signed)
            for kind, lines in (("tenant", costs.tenants), ("rule", costs.rules)):
                yield from _parts(kind, lines)
            for ratio in costs.ratios:
                name = f"  output tokens, {ratio.before} -> {ratio.after}"
                yield name, f"{ratio.requests} requests", f"x {ratio.ratio.value:.2f}{' (guessed)' if ratio.guessed else ''}", _interval(ratio.ratio, _plain)
        case Quality() as quality:
            name = "mean score" if quality.measure == "score" else "success rate"
            yield f"{name}, doubly robust", _percent(quality.logged.value), _percent(quality.doubly_robust.value), _interval(quality.doubly_robust, _percent)
            yield "  difference, points", "", _points(quality.difference.value), _interval(quality.difference, _points)
            yield f"{name}, SNIPS", _percent(quality.logged.value), _percent(quality.snips.value), _interval(quality.snips, _percent)
            yield "  effective sample size", str(quality.requests), f"{quality.effective:.0f}", "-"
            yield "  requests drawn to where they would go", "", str(quality.trials), "-"
        case None:
            yield ("cost" if level.level == 1 else "quality"), "", "no number", "-"


def _parts(kind: str, lines: tuple[CostLine, ...]) -> Iterator[tuple[str, str, str, str]]:
    for line in lines[:PARTS]:
        yield f"  {kind} {line.name}", _usd(line.before_usd), _usd(line.after_usd.value), _interval(line.after_usd, _usd)
    if len(lines) > PARTS:
        yield f"  {len(lines) - PARTS} other {kind}s", _usd(sum(line.before_usd for line in lines[PARTS:])), "", "-"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _usd(value: float) -> str:
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:.4f}"


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "-") + _usd(abs(value))


def _plain(value: float) -> str:
    return f"{value:.2f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _interval(estimate: Estimate, write: object) -> str:
    assert callable(write)
    return f"{write(estimate.low)} to {write(estimate.high)}"


def drawn(curve: Curve, width: int = 64, height: int = 16) -> str:
    """The curve for a terminal: quality upwards, cost (or the strong share) to the right; `o` is the operating point."""
    points = curve.points
    priced = points[0].cost_usd is not None
    places = [(point.cost_usd if point.cost_usd is not None else point.strong_share, point.quality.value) for point in points]
    chosen = curve.operating
    mark = None if chosen is None else (chosen.cost_usd if chosen.cost_usd is not None else chosen.strong_share, chosen.quality.value)
    every = [*places, mark] if mark is not None else places
    left, right = min(x for x, _ in every), max(x for x, _ in every)
    low, high = min(y for _, y in every), max(y for _, y in every)

    def cell(place: tuple[float, float]) -> tuple[int, int]:
        column = round((place[0] - left) / ((right - left) or 1.0) * (width - 1))
        return column, round((place[1] - low) / ((high - low) or 1.0) * (height - 1))

    grid = [[" "] * width for _ in range(height)]
    for place in places:
        column, line = cell(place)
        grid[line][column] = "*"
    if mark is not None:
        column, line = cell(mark)
        grid[line][column] = "o"
    lines = []
    for line in range(height - 1, -1, -1):
        label = {height - 1: _percent(high), 0: _percent(low)}.get(line, "")
        lines.append(f"{label:>8} |{''.join(grid[line]).rstrip()}")
    lines.append(f"{'':>8} +{'-' * width}")
    ends = (_usd(left), _usd(right)) if priced else (_percent(left), _percent(right))
    lines.append(f"{'':>9} {ends[0]}{ends[1]:>{width - len(ends[0])}}")
    lines.append(f"{'':>9} {'USD per 1,000 requests' if priced else f'share of {curve.strong}'}; all {curve.weak} at the left, all {curve.strong} at the right")
    if chosen is not None:
        cost = "" if chosen.cost_usd is None else f", USD {_usd(chosen.cost_usd)} per 1,000"
        lines.append(
            f"{'':>9} o threshold {chosen.threshold:g}: {_percent(chosen.strong_share)} {curve.strong}{cost},"
            f" quality {_percent(chosen.quality.value)} ({_interval(chosen.quality, _percent)})"
        )
    return "\n".join(lines)
