"""The headline table: every figure of evaluations and fine-tunings beside random weights, with its family tree."""

from __future__ import annotations

import functools
import json
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestration.graph import Outcome, changed_keys

if TYPE_CHECKING:
    from training.evaluation.bootstrap import Difference

FINETUNED = "finetune/"
"""What a fine-tuned figure's protocol begins with; the task follows."""

_NAMES = {"svm": "Linear SVM", "knn": "k-NN", "fewshot": "Few-shot", "retrieval": "Retrieval", "frame_retrieval": "Frames of a clip"}
_METRICS = {
    "instance_miou": "instance mIoU",
    "class_miou": "class mIoU",
    "miou": "mIoU",
    "edit": "edit score",
    "f1_10": "F1@10",
    "f1_25": "F1@25",
    "f1_50": "F1@50",
}
_KEPT_OUT = {
    "scores",
    "items",
    "owners",
    "per_category",
    "per_class",
    "confusion",
    "labelled_items",
    "unlabelled_items",
    "validation_items",
}
_OF_CLIPS = {"recognition", "action_segmentation", "point_segmentation"}
# How each protocol differs from CrossPoint's own, where it has one (arXiv 2203.00680 and its released code).
_PROTOCOLS = {
    "svm": "the paper fits ModelNet40 and ScanObjectNN with C fixed at 0.1; here C is chosen by cross-validation on the training split",
    "fewshot": "the released code draws queries from the training split of ModelNet40",
    "knn": "no protocol of the paper",
    "retrieval": "no protocol of the paper",
    "frame_retrieval": "no protocol of the paper",
}
_FINETUNING = (
    "the codes of Point-BERT and Point-MAE, which the protocol follows, choose the epoch on the test split; here validation data choose it"
)
_CLIPS = "the public codes of these tasks report the best epoch on the test split; here validation data choose it"


@dataclass(frozen=True)
class Found:
    """A figure's record as the stage of a training seed left it."""

    seed: int
    figure: dict[str, Any]
    stage: Outcome

    @property
    def weights(self) -> str:
        return str(self.figure["weights"])


Groups = dict[tuple[str, str], dict[tuple[bool, str], list[Found]]]
"""(protocol, metric) → (turned, arm) → that arm's figures of all seeds, with pretrained and with random weights."""


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
    """95 % interval of pretrained minus random over the test items or their owners, the items' scores being means over the seeds"""

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
        """Whether it is one of the main figures; accuracies at other C, means over classes, votes and still clips stand apart."""
        return headline(self.metric)


def headline(metric: str) -> bool:
    """Whether a metric is one of the main ones."""
    return not (metric.startswith(("accuracy_C", "mean_class_accuracy", "still_")) or "_vote" in metric)


_OTHERS = {
    "accuracy_C": "accuracies at other values of C",
    "mean_class_accuracy": "means over classes",
    "_vote": "votes",
    "still_": "frames of clips that stand still, where chance is right",
}


def others(measures: Sequence[Measure]) -> str:
    """What there is among the figures that are no main ones, in words."""
    words = [words for part, words in _OTHERS.items() if any(part in measure.metric for measure in measures)]
    return ", ".join(words)


def label(protocol: str, metric: str) -> str:
    """A figure's name in words: "Linear SVM accuracy", "Few-shot, 5-way 10-shot", "Retrieval, point → image, recall@1"."""
    if protocol.startswith(FINETUNED):
        plain, _, votes = metric.partition("_vote")
        words = _METRICS.get(plain, plain.replace("_", " "))
        return f"Fine-tuned {protocol.removeprefix(FINETUNED)}, {words}" + (f", {votes} votes" if votes else "")
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
    if protocol == "frame_retrieval" and "@" in metric:
        direction, k = metric.removeprefix("still_").split("@")
        whose = "Frames of a clip that stands still" if metric.startswith("still_") else "Frames within their clip"
        return f"{whose}, {direction.replace('_to_', ' → ')}, recall@{k}"
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


def finetunings(outcomes: Mapping[str, Outcome]) -> dict[str, list[tuple[str, int, Outcome]]]:
    """(start, seed, outcome) of every fine-tuning by task, in order; `start` is an arm, or says that the weights were random."""
    found: dict[str, list[tuple[str, int, Outcome]]] = {}
    for name, outcome in outcomes.items():
        if outcome.kind == "finetune":
            _, task, start, seed = name.split("/")
            found.setdefault(task, []).append((start, int(seed.removeprefix("s")), outcome))
    return found


def from_random(finetuned: Outcome) -> bool:
    """Whether a fine-tuning started from random weights."""
    return bool(finetuned.outputs.get("weights") == "random")


def _encoder(finetuned: Outcome) -> str:
    return json.dumps(finetuned.inputs.get("encoder"), sort_keys=True)


def grouped(outcomes: Mapping[str, Outcome]) -> Groups:
    """Every figure of the experiment, clouds as they are first, arms in order.

    A fine-tuned arm has its twin's figures too: those of the same task and seed from random weights of the same encoder.
    """
    groups: Groups = {}
    arms: dict[str, int] = {}

    def add(arm: str, found: Found, protocol: str, metric: str) -> None:
        arms.setdefault(arm, len(arms))
        groups.setdefault((protocol, metric), {}).setdefault((bool(found.figure["turned"]), arm), []).append(found)

    for arm, seed, outcome in evaluations(outcomes):
        for figure in outcome.outputs.get("figures", ()):
            add(arm, Found(seed, figure, outcome), figure["protocol"], figure["metric"])
    for task, stages in finetunings(outcomes).items():
        twins = {(seed, _encoder(o)): o for _, seed, o in stages if from_random(o)}
        for arm, seed, outcome in stages:
            if from_random(outcome):
                continue
            twin = twins.get((seed, _encoder(outcome)))
            for stage in (outcome, *([twin] if twin else ())):
                for figure in stage.outputs.get("figures", ()):
                    _, _, votes = figure["protocol"].partition("_vote")
                    add(arm, Found(seed, figure, stage), FINETUNED + task, figure["metric"] + (f"_vote{votes}" if votes else ""))
    return {names: dict(sorted(group.items(), key=lambda item: (item[0][0], arms[item[0][1]]))) for names, group in groups.items()}


def measures(outcomes: Mapping[str, Outcome], intervals: bool = True) -> list[Measure]:
    """One for each arm, protocol, metric and kind of clouds, in the order of the figures, fine-tuned ones last.

    intervals: False saves the seconds that they take.
    """
    return [
        _measure(arm, protocol, metric, found, outcomes, intervals)
        for (protocol, metric), group in grouped(outcomes).items()
        for (_, arm), found in group.items()
    ]


def _measure(arm: str, protocol: str, metric: str, found: list[Found], outcomes: Mapping[str, Outcome], intervals: bool) -> Measure:
    by_weights = {weights: [one for one in found if one.weights == weights] for weights in ("pretrained", "random")}
    figure = (by_weights["pretrained"] or found)[0].figure
    seeds = tuple(sorted({one.seed for one in found}))
    between = paired(*by_weights.values()) if intervals else None
    return Measure(
        arm,
        protocol,
        metric,
        bool(figure["turned"]),
        figure["n"],
        figure["split"],
        figure["chance"],
        seeds,
        tuple(one.figure["value"] for one in by_weights["pretrained"]),
        tuple(one.figure["value"] for one in by_weights["random"]),
        _tree(arm, protocol, metric, seeds, by_weights, outcomes),
        (between.low, between.high) if between else None,
    )


def paired(first: Sequence[Found], second: Sequence[Found]) -> Difference | None:
    """The difference over the test items, of each item the mean over the seeds that both have. None where the items are not the same."""
    import numpy as np

    by_seed = [{one.seed: one.figure for one in found} for found in (first, second)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    figures = [one[seed] for one in by_seed for seed in seeds]
    kinds = {(f["dataset_fingerprint"], f["split"], f["details"].get("items"), len(f["details"].get("scores") or ())) for f in figures}
    if len(kinds) != 1 or not figures[0]["details"].get("scores"):
        return None
    ours, theirs = (np.array([one[seed]["details"]["scores"] for seed in seeds], np.float64) for one in by_seed)
    owners = np.array(figures[0]["details"].get("owners", ()), np.int64)
    return _bootstrap(np.mean(ours, axis=0).tobytes(), np.mean(theirs, axis=0).tobytes(), owners.tobytes())


@functools.lru_cache(maxsize=4096)
def _bootstrap(first: bytes, second: bytes, owners: bytes) -> Difference:
    """Remembered, for the page shows some differences twice."""
    import numpy as np

    from training.evaluation.bootstrap import paired_difference

    whose = np.frombuffer(owners, np.int64) if owners else None
    return paired_difference(np.frombuffer(first), np.frombuffer(second), owners=whose)


def _tree(
    arm: str,
    protocol: str,
    metric: str,
    seeds: tuple[int, ...],
    by_weights: Mapping[str, list[Found]],
    outcomes: Mapping[str, Outcome],
) -> list[tuple[str, str]]:
    first = (by_weights["pretrained"] or by_weights["random"])[0]
    figure = first.figure
    finetuned = protocol.startswith(FINETUNED)
    found = [("dataset", figure["dataset_fingerprint"])]
    for weights, figures in by_weights.items():
        several = len(figures) > 1
        found += [(f"encoder, {weights}" + (f", seed {f.seed}" if several else ""), f.figure["encoder_fingerprint"]) for f in figures]
    training = f"training {', '.join(map(str, seeds))}"
    found += [
        ("split", f"{figure['split']}, n = {figure['n']:,}" + (" runs" if protocol == "fewshot" else "")),
        ("seeds", training if finetuned else f"{training}; evaluation {figure['seed']}"),
        ("protocol", f"{label(protocol, metric)}; clouds {'turned at random' if figure['turned'] else 'as they are'}"),
    ]
    if finetuned:
        found += _finetuning(by_weights, first)
    if len(seeds) > 1:
        found.append(("  of training seed", str(first.seed)))
    found += [(f"  {name}".replace("_", " "), _words(value)) for name, value in figure["details"].items() if name not in _KEPT_OUT]
    config = next((o.outputs.get("config") for n, o in outcomes.items() if n == f"pretrain/{arm}/s{seeds[0]}"), None)
    changed = differences(config) if config else []
    note = _CLIPS if finetuned and figure["protocol"] in _OF_CLIPS else _protocol(protocol, metric)
    if config and paper_known(config):
        lines = [_data(outcomes, figure), *(f"{key} {default} → {here}" for key, default, here in changed), note]
        found.append(("differs from the paper", "\n".join(filter(None, lines))))
    elif config:
        lines = [f"its recipe is not known; {len(changed)} settings differ from the reconstruction's defaults: see Training"]
        found.append(("paper", "\n".join([*lines, *([note] if finetuned else [])])))
    return [row for row in found if row[1]]


def _finetuning(by_weights: Mapping[str, list[Found]], first: Found) -> list[tuple[str, str]]:
    """What a fine-tuned figure rests on beyond a frozen one: labels, and the epochs chosen on validation items."""
    about = first.stage.outputs
    labelled, left = about.get("labelled_items"), about.get("unlabelled_items", 0)
    rows = [("labelled items", f"{labelled:,} of {labelled + left:,}" if labelled is not None else "")]
    rows.append(("validation items", f"{about['validation_items']:,}" if about.get("validation_items") is not None else ""))
    total = first.stage.inputs.get("fit", {}).get("epochs")
    for weights, found in by_weights.items():
        epochs = [str(one.stage.outputs["epoch"]) for one in found if one.stage.outputs.get("epoch") is not None]
        chosen = "chosen on validation items" if about.get("chosen_by") == "validation" else about.get("chosen_by", "")
        rows.append((f"epoch, {weights}", f"{', '.join(epochs)}{f' of {total}' if total else ''}, {chosen}" if epochs else ""))
    return rows


def _protocol(protocol: str, metric: str) -> str:
    if protocol.startswith(FINETUNED):
        return _FINETUNING
    return "" if metric.startswith("accuracy_C") else _PROTOCOLS.get(protocol, "")


def _data(outcomes: Mapping[str, Outcome], figure: Mapping[str, Any]) -> str:
    datasets = [o.outputs for o in outcomes.values() if o.kind == "dataset"]
    own = [found for found in datasets if found.get("fingerprint") == figure["dataset_fingerprint"]] or datasets[:1]
    samples = own[0].get("samples") if own else None
    here = f" (here {samples:,} samples in all)" if isinstance(samples, int) else ""
    return f"other data than ShapeNet's 43,783 objects{here}"


def paper_known(config: Mapping[str, Any]) -> bool:
    """Whether the paper's own recipe is known, and a pretraining's configuration can be held against it."""
    return bool(config.get("objective", {}).get("kind", "crosspoint") == "crosspoint")


def differences(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, the default, ours) wherever a pretraining leaves CrossPoint's published recipe or, as Cross-BERT's is not known, the
    reconstruction's defaults: the sizes and the training that Point-BERT has."""
    from training.pretrain import PretrainConfig

    default: dict[str, Any] = {"encoder": {"kind": config["encoder"]["kind"]}}
    objective = {"kind": "crosspoint", **config.get("objective", {})}
    kept_out: tuple[str, ...] = ("fit.seed", "split")
    if not paper_known(config):
        default |= {"objective": {"kind": objective["kind"]}}
    here = PretrainConfig.model_validate({**config, "objective": objective})
    if not getattr(here.objective, "uses_tokenizer", True):
        kept_out += ("objective.tokenizer",)
    ours, theirs = (one.model_dump(mode="json") for one in (here, PretrainConfig.model_validate(default)))
    keys = [key for key in changed_keys(theirs, ours) if not key.startswith(kept_out)]
    return [(key, _words(_at(theirs, key)), _words(_at(ours, key))) for key in keys]


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
