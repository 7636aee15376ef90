"""The cost-quality curve as a PNG. Needs the extra `reports` (Pillow)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from policies.backtest.curve import Curve, CurvePoint

WIDTH, HEIGHT = 1200, 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 110, 40, 90, 90
INK, QUIET, RULE, LINE, BAND, MARK = "#1b2430", "#667085", "#e4e7ec", "#2f6fdb", "#dce8fb", "#d4442a"


def save_png(curve: Curve, path: Path) -> None:
    """Draw the curve: its 95 % band, the straight line of sending requests to the two at random, and the operating point. Raises `OSError`."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    _Drawing(ImageDraw.Draw(image), curve).draw()
    image.save(path, "PNG")


class _Drawing:
    def __init__(self, on: Any, curve: Curve) -> None:
        from PIL import ImageFont

        self._on, self._curve = on, curve
        self._priced = curve.points[0].cost_usd is not None
        self._fonts = {size: ImageFont.load_default(size) for size in (17, 19, 26)}
        every = [*curve.points, *([curve.operating] if curve.operating is not None else [])]
        across = [self._x(point) for point in every]
        upwards = [value for point in every for value in (point.quality.low, point.quality.high)]
        self._across, self._upwards = _ticks(min(across), max(across)), _ticks(100 * min(upwards), 100 * max(upwards))

    def _x(self, point: CurvePoint) -> float:
        return point.cost_usd if point.cost_usd is not None else 100 * point.strong_share

    def _place(self, across: float, upwards: float) -> tuple[float, float]:
        x = (across - self._across[0]) / (self._across[-1] - self._across[0])
        y = (upwards - self._upwards[0]) / (self._upwards[-1] - self._upwards[0])
        return _LEFT + x * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - y * (HEIGHT - _TOP - _BOTTOM)

    def _write(self, at: tuple[float, float], text: str, size: int = 17, color: str = QUIET, anchor: str = "la") -> None:
        self._on.text(at, text, fill=color, font=self._fonts[size], anchor=anchor)

    def draw(self) -> None:
        curve, on = self._curve, self._on
        strength = "estimated from the log" if curve.source == "log" else "measured on pairs"
        self._write((_LEFT, 26), f"Cost and quality of every threshold, {curve.weak} to {curve.strong}", 26, INK)
        self._write((_LEFT, 58), f"{curve.requests:,} requests, {strength}; the band is the 95 % interval of the quality, the dashed line a random choice")
        for tick in self._upwards:
            on.line([self._place(self._across[0], tick), self._place(self._across[-1], tick)], fill=RULE)
            self._write((_LEFT - 10, self._place(self._across[0], tick)[1]), f"{tick:g} %", anchor="rm")
        for tick in self._across:
            x, y = self._place(tick, self._upwards[0])
            on.line([(x, y), (x, y + 6)], fill=QUIET)
            self._write((x, y + 10), f"{tick:g}" if self._priced else f"{tick:g} %", anchor="ma")
        axis = "USD per 1,000 requests" if self._priced else f"share of requests to {curve.strong}"
        self._write((WIDTH - _RIGHT, HEIGHT - 36), axis, 19, INK, anchor="ra")
        ordered = sorted(curve.points, key=self._x)
        band = [self._place(self._x(point), 100 * point.quality.high) for point in ordered]
        band += [self._place(self._x(point), 100 * point.quality.low) for point in reversed(ordered)]
        on.polygon(band, fill=BAND)
        first, last = curve.points[-1], curve.points[0]
        self._dashes(self._place(self._x(first), 100 * first.quality.value), self._place(self._x(last), 100 * last.quality.value))
        on.line([self._place(self._x(point), 100 * point.quality.value) for point in ordered], fill=LINE, width=4, joint="curve")
        if curve.operating is not None:
            self._operating(curve.operating)

    def _operating(self, point: CurvePoint) -> None:
        x, y = self._place(self._x(point), 100 * point.quality.value)
        top, bottom = (self._place(self._x(point), 100 * value)[1] for value in (point.quality.high, point.quality.low))
        self._on.line([(x, top), (x, bottom)], fill=MARK, width=2)
        self._on.ellipse([x - 8, y - 8, x + 8, y + 8], fill=MARK)
        said = f"threshold {point.threshold:g}: {100 * point.strong_share:.1f} % {self._curve.strong}, quality {100 * point.quality.value:.1f} %"
        length = self._on.textlength(said, font=self._fonts[19])
        left, low = min(x + 16, WIDTH - _RIGHT - length), min(y + 30, HEIGHT - _BOTTOM - 30)  # the curve rises: below it, to the right, is room
        self._on.rectangle([left - 4, low - 3, left + length + 4, low + 25], fill="white")
        self._write((left, low), said, 19, INK)

    def _dashes(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        length = math.dist(start, end)
        steps = max(int(length / 14), 1)
        for step in range(steps):
            part = [tuple(a + (b - a) * share / steps for a, b in zip(start, end, strict=True)) for share in (step, step + 0.5)]
            self._on.line(part, fill=QUIET, width=2)


def _ticks(low: float, high: float) -> list[float]:
    """At most nine round numbers around a range."""
    spread = max(high - low, 1e-9)
    decade = 10.0 ** math.floor(math.log10(spread))
    step = next(decade * factor for factor in (0.1, 0.2, 0.5, 1, 2, 5, 10) if decade * factor * 7 >= spread)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]
