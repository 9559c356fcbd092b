"""Charts as inline SVG: they take the page's colours and fonts, and scale with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

COLORS = 8
SHAPES = ("m0 -3.6a3.6 3.6 0 1 0 .01 0z", "m-3.2 -3.2h6.4v6.4h-6.4z", "m0 -4.3l4.2 7.3h-8.4z", "m0 -4.6l4.6 4.6l-4.6 4.6l-4.6 -4.6z")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 250, 44, 8, 10, 26


@dataclass(frozen=True)
class Series:
    """One line: x ascending, y of the same length."""

    label: str
    points: Sequence[tuple[float, float]]


def smooth(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Centred moving average over up to `window` values; at the ends over those that are there on both sides alike."""
    half = np.minimum(np.minimum(np.arange(len(values)), np.arange(len(values))[::-1]), window // 2)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    here = np.arange(len(values))
    mean: NDArray[np.float64] = (sums[here + half + 1] - sums[here - half]) / (2 * half + 1)
    return mean


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most about `most` of the points, keeping the lowest and the highest of every stretch, in order."""
    if len(points) <= most:
        return list(points)
    kept: list[tuple[float, float]] = []
    edges = np.linspace(0, len(points), most // 2 + 1).astype(int)
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = points[start:stop]
        low, high = min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])
        kept += sorted({low, high})
    return kept


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers within [low, high]."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(title: str, series: Sequence[Series], *, x_label: str = "step", window: int | None = None) -> Markup:
    """A line chart: each series faintly as it is and strongly as its moving average over `window` values.

    By default that is a thirtieth of the values, five at least; fewer than twenty are drawn as they are.
    """
    series = [Series(s.label, [(x, y) for x, y in s.points if math.isfinite(y)]) for s in series]
    series = [s for s in series if s.points]
    if not series:
        return Markup("")
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    pad = (y1 - y0) * 0.04 or abs(y1) * 0.1 or 1.0
    if y0 >= 0 and y0 < 0.4 * y1:
        y0 = 0.0
        y1 += pad
    else:
        y0, y1 = y0 - pad, y1 + pad
    x1 = x1 if x1 > x0 else x0 + 1

    def px(x: float) -> float:
        return _LEFT + (x - x0) / (x1 - x0) * (_WIDTH - _LEFT - _RIGHT)

    def py(y: float) -> float:
        return _HEIGHT - _BOTTOM - (y - y0) / (y1 - y0) * (_HEIGHT - _TOP - _BOTTOM)

    def path(points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{px(x):.1f} {py(y):.1f}" for x, y in points)

    drawn: list[Markup] = []
    for y in ticks(y0, y1):
        drawn.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(_LEFT, _WIDTH - _RIGHT, py(y), py(y)))
        drawn.append(Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(_LEFT - 6, py(y) + 4, f"{y:g}"))
    marks = ticks(x0, x1, 5)
    mark = Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
    drawn += [mark.format(px(x), _HEIGHT - 8, f"{x:,g}") for x in marks]
    for number, one in enumerate(series):
        color = number % COLORS
        width = (max(5, len(one.points) // 30) if len(one.points) >= 20 else 1) if window is None else window
        values = smooth(np.array([y for _, y in one.points], np.float64), width)
        even = [(x, float(y)) for (x, _), y in zip(one.points, values, strict=True)]
        if width > 1:
            drawn.append(Markup('<path class="raw" style="stroke:var(--c{})" d="{}"/>').format(color, path(thin(one.points, 400))))
        drawn.append(Markup('<path class="line" style="stroke:var(--c{})" d="{}"/>').format(color, path(thin(even, 400))))
        last = even[-1]
        drawn.append(Markup('<circle style="fill:var(--c{})" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(color, px(last[0]), py(last[1])))
    ends = ", ".join(f"{s.label} ends at {s.points[-1][1]:.4g}" for s in series)
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{} by {}: {}">{}</svg>').format(
        _WIDTH, _HEIGHT, title, x_label, ends, Markup("").join(drawn)
    )


def dots(pretrained: float | None, random: float | None, chance: float | None) -> Markup:
    """One figure on a scale from 0 to 1: a full dot for pretrained, a ring for random weights, a stroke for chance."""

    def at(value: float) -> float:
        return 6 + 148 * min(max(value, 0.0), 1.0)

    parts = [Markup('<line class="grid" x1="6" x2="154" y1="9" y2="9"/>')]
    if pretrained is not None and random is not None:
        parts.append(Markup('<line class="span" x1="{:.1f}" x2="{:.1f}" y1="9" y2="9"/>').format(at(random), at(pretrained)))
    if chance is not None:
        parts.append(Markup('<line class="chance" x1="{0:.1f}" x2="{0:.1f}" y1="3" y2="15"/>').format(at(chance)))
    if random is not None:
        parts.append(Markup('<circle class="ring" cx="{:.1f}" cy="9" r="3.6"/>').format(at(random)))
    if pretrained is not None:
        parts.append(Markup('<circle class="dot" cx="{:.1f}" cy="9" r="4.2"/>').format(at(pretrained)))
    return Markup('<svg class="dots" viewBox="0 0 160 18" aria-hidden="true">{}</svg>').format(Markup("").join(parts))


def symbol(number: int) -> Markup:
    """The mark of class `number`: eight colours, and after each eight another shape."""
    return Markup('<svg class="mark" viewBox="-6 -6 12 12" aria-hidden="true"><path style="fill:var(--c{})" d="{}"/></svg>').format(
        number % COLORS, _shape(number)
    )


def scatter(places: NDArray[np.float64], labels: NDArray[np.int64], keys: Sequence[str], title: str) -> Markup:
    """A map: points (n, 2) in any unit, the number of each one's class, its key for the pointer."""
    low, high = places.min(axis=0), places.max(axis=0)
    centre, span = (low + high) / 2, float((high - low).max()) or 1.0
    spots = 200 + (places - centre) / span * 380
    groups = []
    for number in np.unique(labels).tolist():
        marks = Markup("").join(
            Markup('<path transform="translate({:.1f} {:.1f})" d="{}" data-key="{}"/>').format(x, 400 - y, _shape(number), keys[i])
            for i, (x, y) in zip(np.flatnonzero(labels == number).tolist(), spots[labels == number].tolist(), strict=True)
        )
        groups.append(Markup('<g data-class="{}" style="fill:var(--c{})">{}</g>').format(number, number % COLORS, marks))
    return Markup('<svg class="map" viewBox="0 0 400 400" role="img" aria-label="{}">{}</svg>').format(title, Markup("").join(groups))


def _shape(number: int) -> str:
    return SHAPES[number // COLORS % len(SHAPES)]
