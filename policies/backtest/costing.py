"""Level 1: what the same requests would have cost. An estimate: prices are known by date, but how much another model would have written is not.

Where a request stays, its booked cost stays, rescaled if the price is another. Where it moves from model A to model B:

- input tokens are B's own count of the request where the log has one, else those that A read;
- output tokens are those that A wrote, times a ratio of B's to A's, learnt from answers of both in the same strata (task and complexity), each
  weighted by the inverse of its logged propensity. With too few answers of both the ratio is 1, and anything from 0.25 to 4: a stated guess;
- the share of the input that B reads from its cache, and what failed attempts add to its answers, are those logged at B.

The 95 % intervals are of the cost of these very requests: a bootstrap over the requests that the ratios are learnt from, with the scatter of single answers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from adapters.cost import PICODOLLARS, cost
from adapters.types import Usage
from config.prices import Price
from policies.backtest.pricing import PriceAt
from policies.backtest.values import CostLine, Costs, Estimate, Line, Ratio

if TYPE_CHECKING:
    from numpy.random import Generator

    from policies.backtest.values import Floats, Numbers

DRAWS = 400
"""Of the bootstrap."""

ENOUGH = 25
"""Answers of each model, in strata that have both, from which a ratio is learnt; and of a backend, for its cache and its retries."""

GUESS_SPREAD = math.log(4.0) / 1.96
"""Of the logarithm of a ratio of which nothing is known: 95 % between 0.25 and 4."""


class _Learnt(Struct):
    """What one draw of the log says: ratios by pair, and by backend what retries add and the mean length of an answer."""

    ratios: Floats
    retries: Floats
    lengths: Floats


class _Pair(Struct):
    """Where the ratio of two labels comes from: answers of both by stratum, and how many requests of each stratum move."""

    before: str
    after: str
    moved: int
    rows_before: Numbers
    rows_after: Numbers
    strata_before: Numbers
    strata_after: Numbers
    moving: Floats
    guessed: bool

    @property
    def widening(self) -> float:
        """How much wider than the bootstrap's the interval is: resampling takes few answers in several strata for less varied than they are."""
        if self.guessed:
            return 1.0
        count, strata = min(len(self.rows_before), len(self.rows_after)), int((self.moving > 0).sum())
        freedom = max(count - 2 * strata, 2)
        return (1.0 + 2.0 / freedom) * math.sqrt(count / freedom)


def estimate_costs(lines: Sequence[Line], price_before: PriceAt, price_after: PriceAt, seed: int = 1) -> Costs:
    """What `lines` would have cost at each one's `after`. Prices are asked for by label."""
    model = CostModel(lines, price_before, price_after)
    return model.report([line.after for line in lines], seed)


class CostModel:
    """What the log says about cost, for any choice of targets. Needs numpy."""

    def __init__(self, lines: Sequence[Line], price_before: PriceAt, price_after: PriceAt) -> None:
        import numpy as np

        self._lines = lines
        self._price_before, self._price_after = price_before, price_after
        self._out = np.array([line.output_tokens for line in lines], dtype=float)
        self._booked = np.array([line.cost for line in lines], dtype=float)
        self._weight = np.array([1.0 / max(line.propensity, 0.005) for line in lines])
        self._answered = np.array([line.answered for line in lines], dtype=bool)
        self._by_label: dict[str, list[int]] = defaultdict(list)
        for row, line in enumerate(lines):
            if line.answered:
                self._by_label[line.before].append(row)
        self._base = np.array([_answer_cost(line, price_before(line.before, line.created_at)) if line.answered else 0 for line in lines], dtype=float)
        self._cached = {label: self._cache_shares(rows) for label, rows in self._by_label.items()}

    def _cache_shares(self, rows: list[int]) -> tuple[float, float]:
        if len(rows) < ENOUGH:
            return 0.0, 0.0
        read = sum(self._lines[row].input_tokens for row in rows) or 1
        return sum(self._lines[row].cache_read for row in rows) / read, sum(self._lines[row].cache_written for row in rows) / read

    def per_line(self, targets: Sequence[str]) -> Floats:
        """The cost of each line at its target, in USD: the point estimates."""
        import numpy as np

        plan = _Plan(self, targets)
        costs: Floats = plan.costs(plan.learnt(np.ones(len(self._lines)), None), None) / PICODOLLARS
        return costs

    def report(self, targets: Sequence[str], seed: int = 1) -> Costs:
        import numpy as np

        random = np.random.default_rng(seed)
        plan = _Plan(self, targets)
        ones = np.ones(len(self._lines))
        point = plan.learnt(ones, None)
        central = plan.costs(point, None)
        groups = [_Groups([line.tenant for line in self._lines]), _Groups([line.rule for line in self._lines])]
        totals, ratios = [], []
        sums: list[list[Floats]] = [[] for _ in groups]
        for _ in range(DRAWS if plan.uncertain else 1):
            weights = random.poisson(1.0, len(self._lines)).astype(float) if plan.uncertain else ones
            learnt = plan.learnt(weights, random if plan.uncertain else None)
            costs = plan.costs(learnt, random if plan.uncertain else None)
            totals.append(float(costs.sum()))
            ratios.append(learnt.ratios)
            for each, collected in zip(groups, sums, strict=True):
                collected.append(each.sums(costs))
        total = _estimate(float(central.sum()), np.array(totals)).scaled(1 / PICODOLLARS)
        before = float(self._booked.sum()) / PICODOLLARS
        spread = np.array(ratios)
        return Costs(
            requests=len(self._lines),
            moved=int(plan.moved.sum()),
            before_usd=before,
            after_usd=total,
            difference_usd=Estimate(total.value - before, total.low - before, total.high - before),
            tenants=self._split(groups[0], plan, central, sums[0]),
            rules=self._split(groups[1], plan, central, sums[1]),
            ratios=tuple(
                Ratio(
                    before=pair.before,
                    after=pair.after,
                    requests=pair.moved,
                    ratio=_estimate(float(point.ratios[place]), spread[:, place]),
                    answers_before=len(pair.rows_before),
                    answers_after=len(pair.rows_after),
                    guessed=pair.guessed,
                )
                for place, pair in enumerate(plan.pairs)
            ),
            notes=tuple(self._notes(plan)),
        )

    def _split(self, groups: _Groups, plan: _Plan, central: Floats, drawn: list[Floats]) -> tuple[CostLine, ...]:
        import numpy as np

        table, booked, moved, point = np.array(drawn), groups.sums(self._booked), groups.sums(plan.moved.astype(float)), groups.sums(central)
        rows = [
            CostLine(
                name=name,
                requests=int(groups.counts[place]),
                moved=int(moved[place]),
                before_usd=float(booked[place]) / PICODOLLARS,
                after_usd=_estimate(float(point[place]), table[:, place]).scaled(1 / PICODOLLARS),
            )
            for place, name in enumerate(groups.names)
        ]
        return tuple(sorted(rows, key=lambda row: -row.after_usd.value))

    def _notes(self, plan: _Plan) -> list[str]:
        notes = [
            f"{pair.before} -> {pair.after}: too few answers of both ({len(pair.rows_before)} and {len(pair.rows_after)}) to learn how much more one of them"
            " writes; anything from 0.25 to 4 times as much is taken as possible"
            for pair in plan.pairs
            if pair.guessed
        ]
        thin = sorted({pair.after for pair in plan.pairs if len(self._by_label.get(pair.after, ())) < ENOUGH})
        if thin:
            notes.append(
                f"too few answers of {', '.join(thin)} were logged to know its cache and its retries: no cached input is assumed, and the retries of all"
            )
        return notes


class _Plan:
    """Everything about a choice of targets that no draw changes."""

    def __init__(self, model: CostModel, targets: Sequence[str]) -> None:
        import numpy as np

        self._model, lines = model, model._lines
        self.moved = np.array([target != line.before for line, target in zip(lines, targets, strict=True)], dtype=bool)
        self.names = sorted({*targets, *(line.before for line in lines)})
        place = {name: number for number, name in enumerate(self.names)}
        self._from = np.array([place[line.before] for line in lines])
        self._to = np.array([place[target] for target in targets])
        size = len(lines)
        self._fixed, self._rate, self._cap, self._stay = np.zeros(size), np.zeros(size), np.full(size, np.inf), model._booked.copy()
        self._guess_length = np.zeros(size, dtype=bool)
        moves: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row, (line, target) in enumerate(zip(lines, targets, strict=True)):
            if target == line.before:
                self._stay[row] = self._rescaled(line, target, model._base[row])
            elif not target.startswith("refused: "):
                self._fixed[row], self._rate[row] = self._parts(line, target)
                self._cap[row] = np.inf if line.most_output is None else line.most_output
                self._guess_length[row] = not line.answered
                if line.answered:
                    moves[(line.before, target)].append(row)
        self.pairs = [self._pair(pair, rows) for pair, rows in sorted(moves.items())]
        self._pair_of = np.full(size, -1)
        for number, pair in enumerate(self.pairs):
            self._pair_of[moves[(pair.before, pair.after)]] = number
        self._scatter = self._scatters()
        self._central = np.array([self._ratio(pair, np.ones(size), None) for pair in self.pairs])
        self._widening = np.array([pair.widening for pair in self.pairs])
        self.uncertain = bool(self._rate.any() or self._fixed.any())

    def _rescaled(self, line: Line, target: str, base: float) -> float:
        """What a request that stays costs: what was booked, at the new price."""
        if not line.answered or not base:
            return float(line.cost)
        return line.cost * _answer_cost(line, self._model._price_after(target, line.created_at)) / base

    def _parts(self, line: Line, target: str) -> tuple[float, float]:
        """Picodollars for a moved request's input (with its fee and time), and for each token of its output."""
        counts = dict(line.counts)
        tokens, there = line.input_tokens, counts.get(target)
        if there is not None:
            own = counts.get(line.before)
            tokens = round(line.input_tokens * there / own) if own and line.answered else there
        read, written = self._model._cached.get(target, (0.0, 0.0))
        price = self._model._price_after(target, line.created_at)
        empty = Usage(input_tokens=tokens, cache_read_input_tokens=int(tokens * read), cache_creation_input_tokens=int(tokens * written))
        fixed = cost(empty, price, round(line.milliseconds or 0))
        thousand = cost(Usage(input_tokens=tokens, output_tokens=1000), price) - cost(Usage(input_tokens=tokens), price)
        return float(fixed), thousand / 1000

    def _pair(self, pair: tuple[str, str], rows: list[int]) -> _Pair:
        """The answers of both, in the strata that have some of each."""
        import numpy as np

        model, (before, after) = self._model, pair
        lines = model._lines
        both = [defaultdict(list), defaultdict(list)]  # type: list[defaultdict[tuple[str, int], list[int]]]
        for label, collected in zip(pair, both, strict=True):
            for row in model._by_label.get(label, ()):
                collected[_stratum(lines[row])].append(row)
        common = sorted(set(both[0]) & set(both[1]))
        number = {stratum: place for place, stratum in enumerate(common)}
        moving = np.zeros(len(common))
        for row in rows:
            if (place := number.get(_stratum(lines[row]))) is not None:
                moving[place] += 1
        kept = [np.array([row for stratum in common for row in side[stratum]], dtype=int) for side in both]
        strata = [np.array([number[stratum] for stratum in common for _ in side[stratum]], dtype=int) for side in both]
        guessed = min(len(kept[0]), len(kept[1])) < ENOUGH or not moving.any()
        return _Pair(before, after, len(rows), kept[0], kept[1], strata[0], strata[1], moving, guessed)

    def _scatters(self) -> Floats:
        """How much single answers scatter about their mean, as a share of it, by label; 1 where too little is known."""
        import numpy as np

        found = np.ones(len(self.names))
        for place, name in enumerate(self.names):
            rows = self._model._by_label.get(name, [])
            if len(rows) >= ENOUGH:
                lengths = self._model._out[rows]
                found[place] = lengths.std() / max(lengths.mean(), 1e-9)
        return found

    def learnt(self, weights: Floats, random: Generator | None) -> _Learnt:
        """What the log says when its requests count `weights` times. With `random`, guesses are drawn."""
        import numpy as np

        model = self._model
        answered = weights * model._answered
        size = len(self.names)
        booked, base = (np.bincount(self._from, answered * values, size) for values in (model._booked, model._base))
        counts, written = np.bincount(self._from, answered, size), np.bincount(self._from, answered * model._out, size)
        overall = booked.sum() / base.sum() if base.sum() else 1.0
        enough = (np.bincount(self._from, model._answered.astype(float), size) >= ENOUGH) & (base > 0)
        retries = np.where(enough, booked / np.where(base > 0, base, 1.0), overall)
        length = written.sum() / counts.sum() if counts.sum() else 0.0
        lengths = np.where(counts > 0, written / np.where(counts > 0, counts, 1.0), length)
        ratios = np.array([self._ratio(pair, weights, random) for pair in self.pairs])
        if random is not None:
            ratios = self._central * (ratios / self._central) ** self._widening
        return _Learnt(ratios, retries, lengths)

    def _ratio(self, pair: _Pair, weights: Floats, random: Generator | None) -> float:
        import numpy as np

        if pair.guessed:
            return 1.0 if random is None else float(np.exp(random.normal(0.0, GUESS_SPREAD)))
        means = []
        for rows, strata in ((pair.rows_before, pair.strata_before), (pair.rows_after, pair.strata_after)):
            counted = weights[rows] * self._model._weight[rows]
            total = np.bincount(strata, counted, len(pair.moving))
            means.append((np.bincount(strata, counted * self._model._out[rows], len(pair.moving)), total))
        seen = (means[0][1] > 0) & (means[1][1] > 0)
        before, after = (float((pair.moving * np.where(seen, sums / np.where(total > 0, total, 1.0), 0.0)).sum()) for sums, total in means)
        return after / before if before > 0 and after > 0 else 1.0

    def costs(self, learnt: _Learnt, random: Generator | None) -> Floats:
        """Picodollars of each line. With `random`, single answers scatter."""
        import numpy as np

        out = self._model._out
        ratios = np.append(learnt.ratios, 1.0)[self._pair_of]
        length = np.minimum(np.where(self._guess_length, learnt.lengths[self._to], out * ratios), self._cap)
        if random is not None:
            length = length * (1.0 + self._scatter[self._to] * random.standard_normal(len(out)))
        found: Floats = np.where(self.moved, (self._fixed + self._rate * length) * learnt.retries[self._to] * (self._rate + self._fixed > 0), self._stay)
        return found


class _Groups:
    """Lines by a name."""

    def __init__(self, names: Sequence[str]) -> None:
        import numpy as np

        self.names = sorted(set(names))
        place = {name: number for number, name in enumerate(self.names)}
        self._rows = np.array([place[name] for name in names], dtype=int)
        self.counts = np.bincount(self._rows, minlength=len(self.names)) if names else np.zeros(0, dtype=int)

    def sums(self, values: Floats) -> Floats:
        import numpy as np

        return np.bincount(self._rows, values, len(self.names)).astype(float) if len(self._rows) else np.zeros(0)


def _stratum(line: Line) -> tuple[str, int]:
    return line.task, -1 if line.complexity is None else min(int(line.complexity * 5), 4)


def _answer_cost(line: Line, price: Price) -> int:
    usage = Usage(
        input_tokens=line.input_tokens,
        output_tokens=line.output_tokens,
        cache_read_input_tokens=line.cache_read,
        cache_creation_input_tokens=line.cache_written,
    )
    return cost(usage, price, round(line.milliseconds or 0) if price.second else 0)


def _estimate(value: float, drawn: Floats) -> Estimate:
    import numpy as np

    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(value, min(float(low), value), max(float(high), value))
