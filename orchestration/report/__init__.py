"""The report of an experiment: one page with its figures, curves, times, pairs, retrieval sheets and maps. No network, no other files."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from orchestration.graph import Outcome
from orchestration.report import charts, evidence
from orchestration.report.arms import compare, signed
from orchestration.report.clips import animated
from orchestration.report.evidence import Evidence, Sheet
from orchestration.report.figures import FINETUNED, evaluations, headline, label, mean, measures, others, percent
from orchestration.report.tasks import tuned
from orchestration.report.tokenizer import tokenizers
from orchestration.report.trainings import arms_of, run, training
from orchestration.run import duration
from pipeline import page
from pipeline.dataset import DatasetError
from pipeline.gallery import choose, essentials
from pipeline.page import Cloud
from pipeline.page.clips import ClipSample, are_clips, load_clip
from pipeline.reader import Dataset

_PAIRS = 8
_CLOUD_POINTS = 512
_CLIP_BYTES = 160_000
_PACKAGES = ("crossloom", "torch", "numpy", "numba", "scikit-learn", "transformers", "ray", "mlflow")
_OPEN_ROWS = 24


@dataclass(frozen=True)
class Query:
    """A retrieval sheet with its pictures."""

    sheet: Sheet
    key: str
    cls: str
    cloud: Cloud
    images: list[tuple[Any, str, str, str]]
    """(hit, key, class, data URI); the query's own image comes last where it is not among the nearest"""


@dataclass(frozen=True)
class Sheets:
    arm: str
    seed: int
    n: int
    regular: list[Query]
    missed: list[Query]


@dataclass(frozen=True)
class Map:
    """A map of test features with the share of nearest neighbours of the same class in the features themselves."""

    weights: str
    drawing: Markup
    neighbours: float
    method: str


@dataclass(frozen=True)
class Maps:
    arm: str
    seed: int
    shown: int
    n: int
    maps: list[Map]
    classes: list[int] = field(default_factory=list)


def write_report(folder: Path, name: str, outcomes: Mapping[str, Outcome]) -> Path:
    """Writes FOLDER/index.html from the outcomes of an experiment's stages and gives its path.

    Whatever an outcome lacks is left out of the page: evidence, journals, a dataset that is no longer there.
    """
    dataset = _dataset(outcomes)
    found = [(arm, seed, kept) for arm, seed, outcome in _first_seeds(outcomes) if (kept := evidence.load(outcome.folder)) is not None]
    names = sorted({cls for _, _, kept in found for cls in kept.classes})
    compared = compare(outcomes)
    environment = page.environment(Path(__file__).parent)
    environment.filters["capitalized"] = _capitalized
    text = environment.get_template("report.html.j2").render(
        name=name,
        data=_data(outcomes),
        datasets=[(o.name, o.outputs) for o in outcomes.values() if o.kind == "dataset"][1:],
        info=dataset.info if dataset else None,
        essentials=essentials(dataset.info) if dataset else [],
        measures=measures(outcomes),
        others=others,
        percent=percent,
        compared=compared,
        compared_open=sum(len(one.rows) for one in compared) <= _OPEN_ROWS,
        signed=signed,
        dots=lambda m: charts.dots(mean(m.pretrained), mean(m.random), m.chance),
        trainings=[training(arm, stages) for arm, stages in arms_of(outcomes, "pretrain").items()],
        tokenizers=tokenizers(outcomes),
        tasks=tuned(outcomes),
        stages=_stages(outcomes),
        pairs=_pairs(dataset),
        clips=_clips(dataset),
        animated=animated(dataset),
        sheets=[s for arm, seed, kept in found if dataset and (s := _sheets(arm, seed, kept, dataset))],
        maps=[m for arm, seed, kept in found if (m := _maps(arm, seed, kept, names))],
        names=names,
        symbol=charts.symbol,
        duration=duration,
        colors=charts.COLORS,
        configuration=_configuration(outcomes),
        versions=_versions(dataset),
    )
    return page.write(Path(folder) / "index.html", text)


def _capitalized(words: str) -> str:
    """With a large first letter, the rest as it is, as are names like mIoU."""
    return words if words[1:2].isupper() else words[:1].upper() + words[1:]


def _dataset(outcomes: Mapping[str, Outcome]) -> Dataset | None:
    found = next((outcome for outcome in outcomes.values() if outcome.kind == "dataset" and "uri" in outcome.outputs), None)
    if found is None:
        return None
    try:
        return Dataset.open(str(found.folder / found.outputs["uri"]))
    except DatasetError:
        return None


def _data(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    return next((outcome.outputs for outcome in outcomes.values() if outcome.kind == "dataset"), {})


def _first_seeds(outcomes: Mapping[str, Outcome]) -> list[tuple[str, int, Outcome]]:
    """One evaluation of each arm, the first."""
    found: dict[str, tuple[str, int, Outcome]] = {}
    for arm, seed, outcome in evaluations(outcomes):
        found.setdefault(arm, (arm, seed, outcome))
    return list(found.values())


def _stages(outcomes: Mapping[str, Outcome]) -> list[tuple[str, float, str, float]]:
    """(name, seconds, what it gave, share of the longest) of each stage."""
    longest = max((outcome.seconds for outcome in outcomes.values()), default=0.0) or 1.0
    rows = []
    for outcome in outcomes.values():
        outputs = outcome.outputs
        words = ""
        if outcome.kind == "dataset":
            words = f"{outputs.get('samples', 0):,} samples" + _throughput(outputs.get("throughput"))
        elif outcome.kind == "pretrain":
            words = run({key: value for key, value in outputs.items() if key != "metrics"})
        elif outcome.kind == "tokenizer":
            judged = outputs.get("judgement", {}).get("validation", {})
            words = ", ".join(filter(None, [run(outputs), f"{judged['codes_used']:,} codes in use" if "codes_used" in judged else ""]))
        elif outcome.kind == "finetune":
            main = [f for f in outputs.get("figures", ()) if headline(f["metric"]) and "_vote" not in f["protocol"]]
            words = ", ".join(f"{label(FINETUNED, f['metric']).split(', ')[1]} {100 * f['value']:.1f} %" for f in main)
        elif outcome.kind == "evaluate":
            words = f"{len(outputs.get('figures', ())):,} figures"
        rows.append((outcome.name, outcome.seconds, words, outcome.seconds / longest))
    return rows


def _throughput(value: Any) -> str:
    """ ", 12.3 assets per s" and the like, of the numbers that a generation told."""
    if not isinstance(value, Mapping):
        return ""
    known = [(name, number) for name, number in value.items() if isinstance(number, int | float) and name.endswith("_per_s") and number]
    words = "".join(f", {number:,.1f} {name.removesuffix('_per_s').replace('_', ' ')} a second" for name, number in known)
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in (value.get("shares") or {}).items())
    return words + (f" ({shares})" if shares else "")


def _pairs(dataset: Dataset | None) -> list[page.Pair]:
    if dataset is None or are_clips(dataset):
        return []
    return [page.load_pair(dataset, index, most_views=6, layers=False) for index in choose(dataset, _PAIRS, 0)]


def _clips(dataset: Dataset | None) -> list[ClipSample]:
    if dataset is None or not are_clips(dataset):
        return []
    return [load_clip(dataset, index, bytes_allowed=_CLIP_BYTES) for index in choose(dataset, _PAIRS, 0)]


def _sheets(arm: str, seed: int, kept: Evidence, dataset: Dataset) -> Sheets | None:
    if kept.points is None or kept.images is None or not len(kept.points):
        return None
    pictures: dict[int, str] = {}

    def picture(row: int) -> str:
        if row not in pictures:
            pictures[row] = page.thumbnail(dataset.load(kept.indices[row], [kept.views[row]])[kept.views[row]], 112)
        return pictures[row]

    def query(sheet: Sheet) -> Query:
        hits = sheet.hits if any(hit.right for hit in sheet.hits) else [*sheet.hits, sheet.own]
        points = _cloud(dataset, kept.indices[sheet.row], kept.views[sheet.row])
        return Query(
            sheet,
            kept.keys[sheet.row],
            kept.classes[sheet.row],
            page.cloud(points, most=_CLOUD_POINTS),
            [(hit, kept.keys[hit.row], kept.classes[hit.row], picture(hit.row)) for hit in hits],
        )

    try:
        regular, missed = evidence.sheets(kept.points, kept.images)
        return Sheets(arm, seed, len(kept.keys), [query(s) for s in regular], [query(s) for s in missed])
    except (DatasetError, IndexError):
        # the dataset has been made anew since, or lies elsewhere
        return None


def _cloud(dataset: Dataset, index: int, view: str) -> NDArray[np.float32]:
    """A sample's cloud; of a clip that of the instant of its frame `view`."""
    names = dataset.members(index)
    if "clip.npy" not in names:
        points: NDArray[np.float32] = dataset.load(index, ["points.npy"])["points.npy"]
        return points
    instant: NDArray[np.float32] = dataset.load(index, ["clip.npy"])["clip.npy"][int(view[1:].partition(".")[0])]
    return instant


def _maps(arm: str, seed: int, kept: Evidence, names: list[str]) -> Maps | None:
    numbers = {cls: number for number, cls in enumerate(names)}
    rows = evidence.subset(len(kept.keys))
    labels = np.array([numbers[kept.classes[row]] for row in rows.tolist()], np.int64)
    keys = [f"{kept.keys[row]} · {kept.classes[row]}" for row in rows.tolist()]
    maps = []
    for weights, features in (("pretrained", kept.pretrained), ("random", kept.random)):
        if features is None or not len(features):
            continue
        places, method = evidence.flat_map(features[rows])
        share = evidence.same_class_neighbour(features[rows], labels)
        title = f"Map of the test features of {arm}, {weights} weights"
        maps.append(Map(weights, charts.scatter(places, labels, keys, title), share, method))
    return Maps(arm, seed, len(rows), len(kept.keys), maps, sorted(set(labels.tolist()))) if maps else None


def _configuration(outcomes: Mapping[str, Outcome]) -> list[tuple[str, str]]:
    """(stages, their inputs as YAML), those that differ in nothing but the seed of their training together, without it."""
    import yaml

    found: dict[str, list[str]] = {}
    for outcome in outcomes.values():
        if outcome.kind != "report" and outcome.inputs:
            inputs = dict(outcome.inputs)
            if isinstance(inputs.get("fit"), Mapping):
                inputs["fit"] = {key: value for key, value in inputs["fit"].items() if key != "seed"}
            found.setdefault(yaml.safe_dump(inputs, sort_keys=False, allow_unicode=True), []).append(outcome.name)
    return [(", ".join(names), text) for text, names in found.items()]


def _versions(dataset: Dataset | None) -> list[tuple[str, str]]:
    found = [("Python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    if dataset is not None:
        found.append(("renderer of the dataset", str(dataset.info["renderer"])))
    return found
