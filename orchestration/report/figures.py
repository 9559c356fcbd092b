"""The headline table: every figure of the evaluations beside random weights, with its family tree."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestration.graph import Outcome, changed_keys

_NAMES = {"svm": "Linear SVM", "knn": "k-NN", "fewshot": "Few-shot", "retrieval": "Retrieval"}
_KEPT_OUT = {"scores", "items"}
# How each protocol differs from CrossPoint's own, where it has one (arXiv 2203.00680 and its released code).
_PROTOCOLS = {
    "svm": "the paper fits ModelNet40 and ScanObjectNN with C fixed at 0.1; here C is chosen by cross-validation on the training split",
    "fewshot": "the released code draws queries from the training split of ModelNet40",
    "knn": "no protocol of the paper",
    "retrieval": "no protocol of the paper",
}


@dataclass(frozen=True)
class Measure:
    """One figure of one arm: values by training seed, pretrained and random, in [0, 1]; and all that says what it means."""

    arm: str
    protocol: str
    metric: str
    turned: bool
    n: int
    split: str
    chance: float | None
    seeds: tuple[int, ...]
    pretrained: tuple[float, ...]
    random: tuple[float, ...]
    tree: list[tuple[str, str]] = field(default_factory=list)
    interval: tuple[float, float] | None = None
    """95 % interval of pretrained minus random over the test items, where there is one seed"""

    @property
    def label(self) -> str:
        return label(self.protocol, self.metric)

    @property
    def clouds(self) -> str:
        return "turned" if self.turned else "as they are"

    @property
    def gain(self) -> float | None:
        first, second = mean(self.pretrained), mean(self.random)
        return None if first is None or second is None else first - second

    @property
    def headline(self) -> bool:
        """Whether it is one of the main figures; accuracies at other C stand apart."""
        return not self.metric.startswith("accuracy_C")


def label(protocol: str, metric: str) -> str:
    """A figure's name in words: "Linear SVM accuracy", "Few-shot, 5-way 10-shot", "Retrieval, point → image, recall@1"."""
    name = _NAMES.get(protocol, protocol)
    if metric.startswith("accuracy_C"):
        return f"{name} accuracy, C = {metric.removeprefix('accuracy_C')}"
    if setting := re.fullmatch(r"(\d+)w(\d+)s(?:(\d+)q)?(-train)?", metric) if protocol == "fewshot" else None:
        ways, shots, queries, train = setting.groups()
        more = (f", {queries} queries" if queries else "") + (", queries from train" if train else "")
        return f"{name} accuracy, {ways}-way {shots}-shot{more}"
    if protocol == "retrieval" and "@" in metric:
        direction, k = metric.split("@")
        return f"{direction.replace('_to_', ' → ').capitalize()}, recall@{k}"
    return f"{name} {metric.replace('_', ' ')}"


def mean(values: tuple[float, ...]) -> float | None:
    """None for no values."""
    return statistics.fmean(values) if values else None


def percent(values: tuple[float, ...]) -> str:
    """ "71.3", or "71.3 ± 0.8" with the standard deviation (ddof 1) over seeds where there are several."""
    if not values:
        return "–"
    words = f"{100 * statistics.fmean(values):.1f}"
    return words if len(values) < 2 else f"{words} ± {100 * statistics.stdev(values):.1f}"


def evaluations(outcomes: Mapping[str, Outcome]) -> Iterator[tuple[str, int, Outcome]]:
    """(arm, seed, outcome) of every evaluation, in order."""
    for name, outcome in outcomes.items():
        if outcome.kind == "evaluate":
            _, arm, seed = name.split("/")
            yield arm, int(seed.removeprefix("s")), outcome


def measures(outcomes: Mapping[str, Outcome]) -> list[Measure]:
    """One for each arm, protocol, metric and kind of clouds, in the order of the figures, clouds as they are first."""
    groups: dict[tuple[str, str], dict[tuple[bool, str], list[tuple[int, dict[str, Any]]]]] = {}
    arms: dict[str, int] = {}
    for arm, seed, outcome in evaluations(outcomes):
        arms.setdefault(arm, len(arms))
        for figure in outcome.outputs.get("figures", ()):
            group = groups.setdefault((figure["protocol"], figure["metric"]), {})
            group.setdefault((bool(figure["turned"]), arm), []).append((seed, figure))
    return [
        _measure(arm, found, outcomes)
        for group in groups.values()
        for (_, arm), found in sorted(group.items(), key=lambda item: (item[0][0], arms[item[0][1]]))
    ]


def _measure(arm: str, found: list[tuple[int, dict[str, Any]]], outcomes: Mapping[str, Outcome]) -> Measure:
    by_weights = {weights: [(seed, f) for seed, f in found if f["weights"] == weights] for weights in ("pretrained", "random")}
    figure = (by_weights["pretrained"] or found)[0][1]
    seeds = tuple(sorted({seed for seed, _ in found}))
    return Measure(
        arm,
        figure["protocol"],
        figure["metric"],
        bool(figure["turned"]),
        figure["n"],
        figure["split"],
        figure["chance"],
        seeds,
        tuple(f["value"] for _, f in by_weights["pretrained"]),
        tuple(f["value"] for _, f in by_weights["random"]),
        _tree(arm, seeds, figure, by_weights, outcomes),
        _interval(by_weights) if len(seeds) == 1 else None,
    )


def _interval(by_weights: Mapping[str, list[tuple[int, dict[str, Any]]]]) -> tuple[float, float] | None:
    import numpy as np

    from training.evaluation.bootstrap import paired_difference

    if not all(by_weights.values()):
        return None
    first, second = (by_weights[weights][0][1]["details"] for weights in ("pretrained", "random"))
    if not first.get("scores") or first.get("items") != second.get("items"):
        return None
    found = paired_difference(np.array(first["scores"], float), np.array(second["scores"], float))
    return found.low, found.high


def _tree(
    arm: str,
    seeds: tuple[int, ...],
    figure: dict[str, Any],
    by_weights: Mapping[str, list[tuple[int, dict[str, Any]]]],
    outcomes: Mapping[str, Outcome],
) -> list[tuple[str, str]]:
    found = [("dataset", figure["dataset_fingerprint"])]
    for weights, figures in by_weights.items():
        for seed, one in figures:
            found.append((f"encoder, {weights}" + (f", seed {seed}" if len(figures) > 1 else ""), one["encoder_fingerprint"]))
    found += [
        ("split", f"{figure['split']}, n = {figure['n']:,}" + (" runs" if figure["protocol"] == "fewshot" else "")),
        ("seeds", f"training {', '.join(map(str, seeds))}; evaluation {figure['seed']}"),
        ("protocol", f"{label(figure['protocol'], figure['metric'])}; clouds {'turned at random' if figure['turned'] else 'as they are'}"),
    ]
    if len(seeds) > 1:
        found.append(("  of training seed", str(seeds[0])))
    found += [(f"  {name}".replace("_", " "), _words(value)) for name, value in figure["details"].items() if name not in _KEPT_OUT]
    config = next((o.outputs.get("config") for n, o in outcomes.items() if n == f"pretrain/{arm}/s{seeds[0]}"), None)
    changed = [f"{key} {paper} → {here}" for key, paper, here in differences(config)] if config else []
    found.append(("differs from the paper", "\n".join(filter(None, [_data(outcomes), *changed, _protocol(figure)]))))
    return found


def _protocol(figure: Mapping[str, Any]) -> str:
    if figure["metric"].startswith("accuracy_C"):
        return ""
    return _PROTOCOLS.get(figure["protocol"], "")


def _data(outcomes: Mapping[str, Outcome]) -> str:
    samples = next((o.outputs.get("samples") for o in outcomes.values() if o.kind == "dataset"), None)
    here = f" (here {samples:,} samples in all)" if isinstance(samples, int) else ""
    return f"other data than ShapeNet's 43,783 objects{here}"


def differences(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, the paper's value, ours) wherever a pretraining leaves CrossPoint's published recipe, which is the configurations' default."""
    from training.pretrain import PretrainConfig

    kind = config["encoder"]["kind"]
    paper = PretrainConfig.model_validate({"encoder": {"kind": kind}}).model_dump(mode="json")
    keys = [key for key in changed_keys(paper, dict(config)) if key not in ("fit.seed", "split")]
    return [(key, _words(_at(paper, key)), _words(_at(config, key))) for key in keys]


def _at(tree: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def _words(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "not set", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value[:12])) + (f", … ({len(value)})" if len(value) > 12 else "") if value else "none"
    return str(value)
