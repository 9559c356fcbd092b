"""The arms of an experiment against one another: every main figure's differences over the same test items."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestration.graph import Outcome
from orchestration.report import charts
from orchestration.report.figures import Found, grouped, headline, label, paired

RANDOM = "random weights"
_ALL_PAIRS = 4


@dataclass(frozen=True)
class Contrast:
    """First minus second, in [−1, 1]: `value` with its 95 % interval over the test items, and one difference for each training seed."""

    first: str
    second: str
    value: float
    low: float
    high: float
    seeds: tuple[float, ...]

    @property
    def shown(self) -> bool:
        return not self.low <= 0 <= self.high

    @property
    def verdict(self) -> str:
        if not self.shown:
            return "not shown at this scale"
        return f"{self.first} above {self.second}" if self.value > 0 else f"{self.second} above {self.first}"

    @property
    def per_seed(self) -> str:
        """Mean and standard deviation (ddof 1) over the seeds in points, each signed."""
        mean = signed(statistics.fmean(self.seeds))
        return f"{mean} ± {100 * statistics.stdev(self.seeds):.1f}" if len(self.seeds) > 1 else "one seed"


@dataclass(frozen=True)
class Compared:
    """One figure: its differences, each with a drawing on the figure's own scale, and the pairs without the same test items."""

    label: str
    turned: bool
    n: int
    owners: int | None
    rows: list[tuple[Contrast, Markup]]
    unpaired: list[str]

    @property
    def clouds(self) -> str:
        return "clouds turned" if self.turned else "clouds as they are"

    @property
    def items(self) -> str:
        """What the intervals are over."""
        from training.evaluation.bootstrap import FEWEST_OWNERS

        found = f"{self.n:,} test items"
        if self.owners is None:
            return found
        found += f" of {self.owners:,} character{'s' * (self.owners != 1)} or person{'s' * (self.owners != 1)}"
        if self.owners >= FEWEST_OWNERS:
            return f"{found}: the intervals draw these, each with all of its items."
        return f"{found}: too few to draw, so the intervals are over items and speak of these alone."

    @property
    def summary(self) -> str:
        """What is shown, in a line."""
        shown = [row.verdict for row, _ in self.rows if row.shown]
        rest = len(self.rows) - len(shown)
        if not shown:
            return "nothing shown at this scale"
        return "; ".join(shown) + (f"; {rest} of {len(self.rows)} not shown" if rest else "")


def signed(value: float) -> str:
    """A share as points with its sign: "+1.2", "−0.4"."""
    return f"{100 * value:+.1f}".replace("-", "−")


def compare(outcomes: Mapping[str, Outcome]) -> list[Compared]:
    """All pairs of up to four arms, of more each against the first; and each against its random weights. Empty for a single arm."""
    found = []
    for (protocol, metric), group in grouped(outcomes).items():
        for turned in (False, True):
            arms = {arm: figures for (way, arm), figures in group.items() if way == turned}
            if headline(metric) and len(arms) > 1:
                found.append(_compared(label(protocol, metric), turned, arms))
    return found


def _compared(name: str, turned: bool, arms: Mapping[str, list[Found]]) -> Compared:
    names = list(arms)
    pairs = list(itertools.combinations(names, 2)) if len(names) <= _ALL_PAIRS else [(arm, names[0]) for arm in names[1:]]
    pairs += [(arm, RANDOM) for arm in names]
    rows, unpaired = [], []
    for first, second in pairs:
        contrast = _contrast(first, second, arms)
        if contrast is not None:
            rows.append(contrast)
        elif second != RANDOM or any(one.weights == "random" for one in arms[first]):
            unpaired.append(f"{first} and {second}")
    reach = max((max(map(abs, (row.low, row.high, *row.seeds))) for row in rows), default=0.0)
    drawn = [(row, charts.interval(row.value, row.low, row.high, row.seeds, reach)) for row in rows]
    figure = next(iter(arms.values()))[0].figure
    owners = figure["details"].get("owners")
    return Compared(name, turned, figure["n"], None if owners is None else len(set(owners)), drawn, unpaired)


def _contrast(first: str, second: str, arms: Mapping[str, list[Found]]) -> Contrast | None:
    ours = _of(arms[first], "pretrained")
    theirs = _of(arms[first], "random") if second == RANDOM else _of(arms[second], "pretrained")
    between = paired(ours, theirs)
    if between is None:
        return None
    values = [{one.seed: float(one.figure["value"]) for one in side} for side in (ours, theirs)]
    seeds = sorted(values[0].keys() & values[1].keys())
    return Contrast(first, second, between.value, between.low, between.high, tuple(values[0][seed] - values[1][seed] for seed in seeds))


def _of(found: Sequence[Found], weights: str) -> list[Found]:
    return [one for one in found if one.weights == weights]
