"""The report shows what the stages found, beside random weights, with its origin, and is made whatever is missing."""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestration.graph import Outcome
from orchestration.report import charts, evidence, figures, write_report
from pipeline.reader import Dataset
from training.journal import Journal
from training.pretrain import PretrainConfig

HOSTILE = "<script>alert(1)<" + "|img src=x onerror=alert(1)>&amp;\"'"


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def table(self) -> list[list[str]]:
        return [[re.sub(r"\s+", " ", cell).strip() for cell in row] for row in self.rows]


def unit(array: np.ndarray) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def experiment(uri: str, to: Path, arms: tuple[str, ...] = ("dgcnn",), seeds: tuple[int, ...] = (0,)) -> dict[str, Outcome]:
    """Outcomes as the stages of an experiment leave them."""
    dataset = Dataset.open(uri)
    rng = np.random.default_rng(0)
    test = dataset.indices("test")
    n = len(test)
    outputs: dict[str, Any] = {"uri": uri, "fingerprint": dataset.fingerprint, "samples": len(dataset), "failed": {}, "throughput": {}}
    found = {"dataset": Outcome("dataset", "dataset", to, {"recipe": dataset.info["recipe"]}, outputs, 10.0, 0.0)}
    for arm in arms:
        for seed in seeds:
            folder = to / f"{arm}{seed}"
            journal = Journal(folder / "journal.jsonl")
            for step in range(1, 41):
                journal.write(step, {"loss": 5.0 / step + seed, "lr": 1e-3, "total_steps": 40, "epoch": step / 4})
            journal.close()
            config = PretrainConfig.model_validate({"encoder": {"kind": "dgcnn"}, "fit": {"epochs": 7, "seed": seed}}).model_dump(
                mode="json"
            )
            trained = {"config": config, "steps": 40, "steps_per_second": 2.0, "parameters": {"encoder": 617856}, "metrics": {"loss": 1.25}}
            trained |= {"workers": 1, "device": "cpu", "fingerprint": "e"}
            found[f"pretrain/{arm}/s{seed}"] = Outcome(f"pretrain/{arm}/s{seed}", "pretrain", folder, config, trained, 20.0, 0.0)
            home = to / f"evaluate{arm}{seed}"
            (home / "evidence").mkdir(parents=True)
            arrays = {
                "features_pretrained": rng.normal(size=(n, 6)).astype(np.float32),
                "features_random": rng.normal(size=(n, 6)).astype(np.float32),
                "points": unit(rng.normal(size=(n, 5))),
                "images": unit(rng.normal(size=(n, 5))),
            }
            for name, array in arrays.items():
                np.save(home / "evidence" / f"{name}.npy", array)
            keys = [dataset.keys[i] for i in test.tolist()]
            about = {"keys": keys, "classes": dataset.classes[test].tolist(), "indices": test.tolist(), "views": ["v01.png"] * n}
            (home / "evidence" / "keys.json").write_text(json.dumps(about))
            made = [
                figure(seed, weights, turned, dataset.fingerprint, n) for turned in (False, True) for weights in ("pretrained", "random")
            ]
            outputs = {"figures": made, "table": [], "fingerprint": "f"}
            found[f"evaluate/{arm}/s{seed}"] = Outcome(
                f"evaluate/{arm}/s{seed}", "evaluate", home, {"protocols": ["svm"]}, outputs, 3.0, 0.0
            )
    return found


def figure(seed: int, weights: str, turned: bool, dataset: str, n: int) -> dict[str, Any]:
    value = {("pretrained", False): 0.8125, ("random", False): 0.4375, ("pretrained", True): 0.625, ("random", True): 0.25}[weights, turned]
    value += 0.02 * seed * seed
    return {
        "protocol": "svm",
        "metric": "accuracy",
        "value": value,
        "n": n,
        "split": "test",
        "turned": turned,
        "weights": weights,
        "encoder_fingerprint": f"{weights}-fingerprint-{seed}",
        "dataset_fingerprint": dataset,
        "seed": 11,
        "details": {"C": 0.25, "items": "same", "scores": [1.0, 0.0] * (n // 2)},
        "chance": 0.125,
    }


MESHES = [f"{split}/{cls}/m{i}" for split, count in (("train", 3), ("test", 4)) for cls in ("chair", "lamp") for i in range(count)]


def test_figures_stand_beside_random_weights_and_chance_with_their_family_tree(written, tmp_path: Path) -> None:
    uri = written(MESHES)
    page = Page(write_report(tmp_path / "report", "two words", experiment(uri, tmp_path)))
    rows = [row for row in page.table() if len(row) == 8 and row[1] == "dgcnn"]
    assert [row[:4] + row[5:7] for row in rows] == [
        ["as they are", "dgcnn", "81.2", "43.8", "12.5", "8"],
        ["turned", "dgcnn", "62.5", "25.0", "12.5", "8"],
    ]
    assert [row[4].split()[0] for row in rows] == ["+37.5", "+37.5"]
    for needed in (
        Dataset.open(uri).fingerprint,
        "pretrained-fingerprint-0",
        "random-fingerprint-0",
        "evaluation 11",
        "test, n = 8",
        "fit.epochs 100 → 7",
    ):
        assert needed in page.text


def test_several_seeds_become_mean_and_deviation(written, tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "report", "e", experiment(written(MESHES), tmp_path, ("a", "b"), (0, 1, 2))))
    values = [81.25 + 2 * s * s for s in (0, 1, 2)]
    rows = [row for row in page.table() if len(row) == 8 and row[1] in ("a", "b") and row[0] == "as they are"]
    assert [row[2] for row in rows] == [f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"] * 2
    assert sum("chart" in (a.get("class") or "") for t, a in page.tags if t == "svg") == 2 * 2
    assert sum(a.get("class") == "line" for t, a in page.tags if t == "path") == 2 * 2 * 3


def test_the_report_needs_nothing_from_outside(written, tmp_path: Path) -> None:
    path = write_report(tmp_path / "report", "e", experiment(written(MESHES), tmp_path))
    for tag, attributes in Page(path).tags:
        for name in ("src", "href", "data", "action", "poster", "srcset", "xlink:href"):
            value = attributes.get(name)
            assert not value or value.startswith(("data:", "#")), (tag, value)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(|https?://", path.read_text())
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]


def test_names_stay_text(written, tmp_path: Path) -> None:
    cls = HOSTILE.replace("/", "")
    outcomes = experiment(written([f"train/{cls}/a", f"test/{cls}/b", "train/x/c", "test/x/d"], name=HOSTILE), tmp_path)
    outcomes["dataset"].outputs["failed"] = {HOSTILE: 2}
    about = tmp_path / "evaluatedgcnn0" / "evidence" / "keys.json"
    about.write_text(about.read_text().replace("test-", "<b>test-"))
    page = Page(write_report(tmp_path / "report", f"</title>{HOSTILE}", outcomes))
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    own = [a for tag, a in page.tags if tag == "figure" and a.get("class") in ("right", "own")]
    assert sum(tag == "b" for tag, _ in page.tags) == len(own) > 0
    assert any((a.get("data-key") or "").startswith("<b>test-") for _, a in page.tags)
    assert HOSTILE.split("|")[0] in page.text


@pytest.mark.parametrize("missing", ["evidence", "journal", "figures", "random", "dataset", "embeddings", "config", "everything"])
def test_a_report_is_made_of_what_there_is(written, tmp_path: Path, missing: str) -> None:
    outcomes = experiment(written(MESHES), tmp_path)
    home, train = outcomes["evaluate/dgcnn/s0"].folder / "evidence", outcomes["pretrain/dgcnn/s0"]
    figures_ = outcomes["evaluate/dgcnn/s0"].outputs
    sections = {"retrieval", "maps", "pairs", "figures", "training", "stages", "making"}
    match missing:
        case "evidence":
            (home / "keys.json").unlink()
            sections -= {"retrieval", "maps"}
        case "journal":
            (train.folder / "journal.jsonl").unlink()
        case "figures":
            figures_.pop("figures")
        case "random":
            figures_["figures"] = [f for f in figures_["figures"] if f["weights"] == "pretrained"]
            (home / "features_random.npy").unlink()
        case "dataset":
            outcomes["dataset"].outputs["uri"] = str(tmp_path / "gone")
            sections -= {"retrieval", "pairs"}
        case "embeddings":
            (home / "images.npy").unlink()
            sections -= {"retrieval"}
        case "config":
            train.outputs.pop("config")
        case "everything":
            outcomes = {}
            sections = {"figures", "stages", "making"}
    page = Page(write_report(tmp_path / "report", "e", outcomes))
    assert {a["id"] for t, a in page.tags if t == "h2"} == sections


def test_one_class_and_one_test_sample_suffice(written, tmp_path: Path) -> None:
    outcomes = experiment(written(["train/x/a", "test/x/b"], views={"rig": {"count": 2, "size": 8}}), tmp_path)
    page = Page(write_report(tmp_path / "report", "e", outcomes))
    assert "Every query finds its own image among the five nearest" in page.text


def test_a_sheet_ranks_as_a_plain_loop_does(written, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    n = 57
    points, images = unit(rng.normal(size=(n, 4))), unit(rng.normal(size=(n, 4)))
    images[7] = images[3]  # a tie
    ranked = {}
    for query in range(n):
        similar = [float(np.float32(points[query] @ image)) for image in images]
        ranked[query] = sorted(range(n), key=lambda row: (-round(similar[row], 6), row))
    regular, missed = evidence.sheets(points, images)
    for sheet in [*regular, *missed]:
        order = ranked[sheet.row]
        assert [hit.row for hit in sheet.hits] == order[:5]
        assert [hit.rank for hit in sheet.hits] == [1, 2, 3, 4, 5]
        assert (sheet.own.row, sheet.own.rank) == (sheet.row, order.index(sheet.row) + 1)
        assert [hit.right for hit in sheet.hits] == [row == sheet.row for row in order[:5]]
    steps = {b.row - a.row for a, b in itertools.pairwise(regular)}
    assert len(regular) <= 10
    assert len(steps) == 1
    failed = [query for query in range(n) if ranked[query].index(query) >= 5]
    assert [failed.index(sheet.row) for sheet in missed] == list(range(0, len(failed), math.ceil(len(failed) / 4)))


def test_the_page_shows_the_ranked_images_in_order(written, tmp_path: Path) -> None:
    outcomes = experiment(written(MESHES), tmp_path)
    home = outcomes["evaluate/dgcnn/s0"].folder / "evidence"
    points, images, keys = np.load(home / "points.npy"), np.load(home / "images.npy"), json.loads((home / "keys.json").read_text())["keys"]
    page = Page(write_report(tmp_path / "report", "e", outcomes))
    shown = [(a["title"] or "").split(" · ")[0] for t, a in page.tags if t == "figure" and a.get("title")]
    first = [keys[row] for row in np.argsort(-(points[0] @ images.T))[:5]]
    assert shown[:5] == first
    marked = [(a["title"] or "").split(" · ")[0] for t, a in page.tags if t == "figure" and a.get("class") in ("right", "own")]
    assert marked[: len(keys)] == keys  # eight queries, all of them shown, each with its own image marked


def test_maps_repeat_and_neighbours_are_counted() -> None:
    rng = np.random.default_rng(1)
    features = np.concatenate([rng.normal(size=(20, 5)), rng.normal(size=(20, 5)) + 8]).astype(np.float32)
    labels = np.repeat([0, 1], 20)
    first, method = evidence.flat_map(features)
    again, _ = evidence.flat_map(features)
    assert (first == again).all()
    assert "t-SNE" in method
    assert evidence.same_class_neighbour(first.astype(np.float32), labels) == 1.0
    mixed = rng.integers(0, 3, 40)
    nearest = [min((j for j in range(40) if j != i), key=lambda j: float(((features[i] - features[j]) ** 2).sum())) for i in range(40)]
    assert evidence.same_class_neighbour(features, mixed) == pytest.approx(np.mean([mixed[i] == mixed[j] for i, j in enumerate(nearest)]))


@pytest.mark.parametrize("shape", [(1, 4), (2, 4), (5, 1), (11, 3), (30, 1), (30, 64)])
def test_a_map_is_made_of_any_shape(shape: tuple[int, int]) -> None:
    for features in (np.random.default_rng(0).normal(size=shape), np.zeros(shape)):
        places, _ = evidence.flat_map(features.astype(np.float32))
        assert places.shape == (shape[0], 2)
        assert np.isfinite(places).all()


def test_the_papers_recipe_differs_in_nothing() -> None:
    for kind in ("dgcnn", "pointnet"):
        config = PretrainConfig.model_validate({"encoder": {"kind": kind}})
        assert figures.differences(config.model_dump(mode="json")) == []
    other = config.model_copy(update={"fit": config.fit.model_copy(update={"batch": 32, "seed": 5})})
    assert figures.differences(other.model_dump(mode="json")) == [("fit.batch", "20", "32")]


def test_smoothing_and_thinning_keep_the_curve() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=101)
    smooth = charts.smooth(values, 11)
    for i in (0, 3, 50, 99, 100):
        half = min(5, i, 100 - i)
        assert smooth[i] == pytest.approx(np.mean(values[i - half : i + half + 1]))
    assert charts.smooth(np.arange(20.0), 7) == pytest.approx(np.arange(20.0))
    points = [(float(x), float(y)) for x, y in enumerate(rng.normal(size=5000))]
    kept = charts.thin(points, 200)
    assert len(kept) <= 200
    assert set(kept) <= set(points)
    assert kept == sorted(kept)
    assert {max(points, key=lambda p: p[1]), min(points, key=lambda p: p[1])} <= set(kept)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.3, 1.9), (-3.0, 7.5), (0.0, 4e-6), (0.0, 123456.0), (2.0, 2.0)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = charts.ticks(low, high)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    gaps = np.diff(found)
    assert len(gaps) == 0 or np.allclose(gaps, gaps[0])
    assert all(f"{gap:.0e}"[0] in "125" or f"{gap:.1e}"[:3] == "2.5" for gap in gaps)


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, 0.0), (2, 0.0)], [(1, math.nan), (2, 1.0), (3, math.inf)]])
def test_a_chart_is_drawn_of_few_and_broken_values(points: list[tuple[float, float]]) -> None:
    drawn = charts.lines("loss", [charts.Series("seed 0", points)])
    assert "nan" not in drawn
    assert "inf" not in drawn
    assert bool(drawn) == any(math.isfinite(y) for _, y in points)


def test_each_of_32_classes_has_a_mark_of_its_own() -> None:
    assert len({str(charts.symbol(number)) for number in range(32)}) == 32


def test_an_unpaired_figure_has_no_interval(written, tmp_path: Path) -> None:
    outcomes = experiment(written(MESHES), tmp_path)
    outcome = outcomes["evaluate/dgcnn/s0"]
    same = figures.measures(outcomes)[0].interval
    assert same == (0.0, 0.0)  # equal scores of equal items
    changed = [{**f, "details": {**f["details"], "items": f["weights"]}} for f in outcome.outputs["figures"]]
    outcomes[outcome.name] = replace(outcome, outputs={**outcome.outputs, "figures": changed})
    assert figures.measures(outcomes)[0].interval is None
