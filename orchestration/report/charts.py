"""Charts as inline SVG: they take the page's colours and fonts, and scale with it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

COLORS = 8
SHAPES = ("m0 -3.6a3.6 3.6 0 1 0 .01 0z", "m-3.2 -3.2h6.4v6.4h-6.4z", "m0 -4.3l4.2 7.3h-8.4z", "m0 -4.6l4.6 4.6l-4.6 4.6l-4.6 -4.6z")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 520, 250, 44, 8, 10, 26


@dataclass(frozen=True)
class Series:
    """One line: x ascending. color: its number, by default that of the series; mark: the x of a point that is ringed."""

    label: str
    points: Sequence[tuple[float, float]]
    color: int | None = None
    dashed: bool = False
    mark: float | None = None


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
    series = [replace(s, points=[(x, y) for x, y in s.points if math.isfinite(y)]) for s in series]
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
        color = (number if one.color is None else one.color) % COLORS
        width = (max(5, len(one.points) // 30) if len(one.points) >= 20 else 1) if window is None else window
        values = smooth(np.array([y for _, y in one.points], np.float64), width)
        even = [(x, float(y)) for (x, _), y in zip(one.points, values, strict=True)]
        if width > 1:
            drawn.append(Markup('<path class="raw" style="stroke:var(--c{})" d="{}"/>').format(color, path(thin(one.points, 400))))
        kind = "line dashed" if one.dashed else "line"
        drawn.append(Markup('<path class="{}" style="stroke:var(--c{})" d="{}"/>').format(kind, color, path(thin(even, 400))))
        ringed = min(even, key=lambda point, at=one.mark: abs(point[0] - at)) if one.mark is not None else None  # type: ignore[misc]
        if ringed:
            ring = Markup('<circle class="chosen" style="stroke:var(--c{})" cx="{:.1f}" cy="{:.1f}" r="5"/>')
            drawn.append(ring.format(color, px(ringed[0]), py(ringed[1])))
        last = even[-1]
        drawn.append(Markup('<circle style="fill:var(--c{})" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(color, px(last[0]), py(last[1])))
    ends = ", ".join(f"{s.label} ends at {s.points[-1][1]:.4g}" for s in series)
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{} by {}: {}">{}</svg>').format(
        _WIDTH, _HEIGHT, title, x_label, ends, Markup("").join(drawn)
    )


def histogram(title: str, counts: Sequence[int]) -> Markup:
    """Counts, largest first, as bars on a logarithmic scale; zeros leave their places empty."""
    ranked = sorted((int(count) for count in counts), reverse=True)
    if not ranked or not ranked[0]:
        return Markup("")
    used = sum(count > 0 for count in ranked)
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    decades = math.log10(ranked[0]) + 0.3 or 1.0

    def py(count: float) -> float:
        return _HEIGHT - _BOTTOM - (math.log10(count) + 0.15) / decades * high

    drawn: list[Markup] = []
    for power in range(math.floor(math.log10(ranked[0])) + 1):
        y = py(10**power)
        drawn.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(_LEFT, _WIDTH - _RIGHT, y, y))
        drawn.append(Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{:,}</text>').format(_LEFT - 6, y + 4, 10**power))
    for x in ticks(0, len(ranked), 5):
        place = _LEFT + x / len(ranked) * wide
        drawn.append(Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{:,g}</text>').format(place, _HEIGHT - 8, x))
    steps = []
    runs = itertools.groupby(ranked[:used])
    right = 0
    for count, run in runs:
        left, right = right, right + len(list(run))
        ends = (_LEFT + left / len(ranked) * wide, _LEFT + right / len(ranked) * wide)
        steps.append(f"L{ends[0]:.1f} {py(count):.1f}L{ends[1]:.1f} {py(count):.1f}")
    floor, end = _HEIGHT - _BOTTOM, _LEFT + used / len(ranked) * wide
    drawn.append(Markup('<path class="area" d="M{} {}{}L{:.1f} {}z"/>').format(_LEFT, floor, "".join(steps), end, floor))
    words = f"{title}: {used:,} of {len(ranked):,} in use, the commonest {ranked[0]:,} times"
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, words, Markup("").join(drawn)
    )


def interval(value: float, low: float, high: float, singles: Sequence[float], reach: float) -> Markup:
    """A difference on a scale from −reach to reach: a bar for the interval, a dot for the value, small strokes for single differences."""

    def at(number: float) -> float:
        return 80 + 74 * min(max(number / (reach or 1.0), -1.0), 1.0)

    parts = [Markup('<line class="grid" x1="6" x2="154" y1="9" y2="9"/><line class="chance" x1="80" x2="80" y1="2" y2="16"/>')]
    parts.append(Markup('<line class="span" x1="{:.1f}" x2="{:.1f}" y1="9" y2="9"/>').format(at(low), at(high)))
    stroke = Markup('<line class="single" x1="{0:.1f}" x2="{0:.1f}" y1="5" y2="13"/>')
    parts += [stroke.format(at(single)) for single in singles if len(singles) > 1]
    parts.append(Markup('<circle class="{}" cx="{:.1f}" cy="9" r="3.8"/>').format("ring" if low <= 0 <= high else "dot", at(value)))
    return Markup('<svg class="dots interval" viewBox="0 0 160 18" aria-hidden="true">{}</svg>').format(Markup("").join(parts))


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


def timeline(numbers: NDArray[np.int64], names: Sequence[str], palette: Sequence[str], title: str) -> Markup:
    """A sequence of labels (T,), indices into names, −1 for none, as a bar: a block for each run, which names itself."""
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    block = Markup('<rect x="{}" width="{}" height="10" fill="#{}"{}><title>{}</title></rect>')
    drawn = []
    for first, last in itertools.pairwise(edges):
        number = int(numbers[first]) if last > first else -1
        if number >= 0:
            faint = Markup(' opacity="0.55"') if number // len(palette) % 2 else ""
            words = f"{names[number]}, frames {first + 1} to {last}"
            drawn.append(block.format(first, last - first, palette[number % len(palette)], faint, words))
    return Markup('<svg class="spans" viewBox="0 0 {} 10" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>').format(
        len(numbers), f"{title}: {', '.join(_runs(numbers, names))}", Markup("").join(drawn)
    )


def _runs(numbers: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    return [names[number] if number >= 0 else "none" for number, _ in itertools.groupby(numbers.tolist())]


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
