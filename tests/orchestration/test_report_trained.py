"""The report on arms, tokenizers and fine-tunings: what stands beside what, and that pictures and numbers are those that were kept."""

from __future__ import annotations

import base64
import json
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestration.graph import Outcome
from orchestration.report import arms, charts, figures, tasks, tokenizer, trainings, write_report
from orchestration.run import result_table
from pipeline.page import Cloud
from training.journal import Journal
from training.pretrain import PretrainConfig

KEYS = [f"test-{i}" for i in range(40)]
SMALL = {"kind": "point_transformer", "width": 32, "depth": 2, "heads": 2}
HOSTILE = "<b onclick=x>&'\""


def figure(scores: np.ndarray, weights: str, protocol: str = "svm", metric: str = "accuracy", **changes: Any) -> dict[str, Any]:
    about = {"split": "test", "turned": False, "encoder_fingerprint": f"{weights} encoder", "dataset_fingerprint": "d", "seed": 0}
    details = {"scores": scores.tolist(), "items": changes.pop("items", "same"), **changes.pop("details", {})}
    record = {"protocol": protocol, "metric": metric, "value": float(scores.mean()), "n": len(scores), "weights": weights, "chance": 0.1}
    return {**record, **about, "details": details, **changes}


def outcome(name: str, folder: Path, outputs: dict[str, Any], inputs: dict[str, Any] | None = None) -> Outcome:
    return Outcome(name, name.split("/")[0], folder / name.replace("/", "-"), inputs or {}, outputs, 1.0, 0.0)


def evaluated(folder: Path, scores: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]], **changes: Any) -> dict[str, Outcome]:
    """Evaluations with the (pretrained, random) scores of each arm and seed."""
    found = {}
    for (arm, seed), (pretrained, random) in scores.items():
        made = [figure(pretrained, "pretrained", **changes), figure(random, "random", **changes)]
        found[f"evaluate/{arm}/s{seed}"] = outcome(f"evaluate/{arm}/s{seed}", folder, {"figures": made})
    return found


def finetuned(
    folder: Path, task: str, start: str, seed: int, value: float, weights: str, encoder: dict[str, Any] | None = None, **outputs: Any
) -> dict[str, Outcome]:
    """A fine-tuning for parts whose shapes all have the IoU `value`."""
    scores = np.full(len(KEYS), value)
    about = {"per_category": {"mug": {"miou": value, "items": 40, "parts": {"cup": value, "handle": value / 2}}}}
    made = [figure(scores, weights, "parts", metric, details=about) for metric in ("instance_miou", "class_miou")]
    made.append(figure(scores, weights, "parts_vote10", "instance_miou"))
    curve = {"val_class_miou": [[1, 0.1], [2, 0.2]], "val_instance_miou": [[1, 0.25], [2, 0.75], [3, 0.5]], "val_loss": [[1, 1.0]]}
    result = {"figures": made, "weights": weights, "epoch": 2, "chosen_by": "validation", "validation": curve, "labelled_items": 7}
    result |= {"unlabelled_items": 63, "validation_items": 9, "test_items": 40, "dataset": "d", **outputs}
    name = f"finetune/{task}/{start}/s{seed}"
    return {name: outcome(name, folder, result, {"encoder": encoder or {"kind": "dgcnn"}, "fit": {"epochs": 3, "seed": seed}})}


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    @property
    def headings(self) -> list[str]:
        return [a["id"] or "" for tag, a in self.tags if tag == "h2"]


# ---- arms ------------------------------------------------------------------------------------------------------------


def test_a_difference_is_that_of_item_means_over_seeds_with_its_bootstrap_interval(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = {(arm, seed): (rng.random(200) + shift, rng.random(200)) for arm, shift in (("a", 0.3), ("b", 0.0)) for seed in (0, 1, 2)}
    (compared,) = arms.compare(evaluated(tmp_path, scores))
    rows = {(row.first, row.second): row for row, _ in compared.rows}
    assert list(rows) == [("a", "b"), ("a", arms.RANDOM), ("b", arms.RANDOM)]
    row = rows["a", "b"]
    each = sum(scores["a", s][0] - scores["b", s][0] for s in (0, 1, 2)) / 3
    resampled = np.sort([each[rng.integers(0, 200, 200)].mean() for _ in range(4000)])
    assert row.value == pytest.approx(each.mean())
    assert (row.low, row.high) == pytest.approx((resampled[100], resampled[3900]), abs=0.006)
    by_seed = [scores["a", s][0].mean() - scores["b", s][0].mean() for s in (0, 1, 2)]
    assert row.seeds == pytest.approx(by_seed)
    assert row.per_seed == f"+{100 * statistics.mean(by_seed):.1f} ± {100 * statistics.stdev(by_seed):.1f}"
    assert row.verdict == "a above b"
    beside_random = rows["b", arms.RANDOM]
    assert beside_random.value == pytest.approx(sum((scores["b", s][0] - scores["b", s][1]).mean() for s in (0, 1, 2)) / 3)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([1.0] * 40, [0.0] * 40, "a above b"),
        ([0.0] * 40, [1.0] * 40, "b above a"),
        ([1.0, 0.0] * 20, [0.0, 1.0] * 20, "not shown at this scale"),
        ([1.0] * 40, [1.0] * 40, "not shown at this scale"),
    ],
)
def test_what_an_interval_around_zero_shows_is_nothing(tmp_path: Path, first: list[float], second: list[float], verdict: str) -> None:
    scores = {("a", 0): (np.array(first), np.zeros(40)), ("b", 0): (np.array(second), np.zeros(40))}
    (compared,) = arms.compare(evaluated(tmp_path, scores))
    row, drawing = compared.rows[0]
    assert row.verdict == verdict
    assert ('class="ring"' in drawing) == (verdict == "not shown at this scale")
    assert row.per_seed == "one seed"


def test_intervals_of_clips_are_over_their_characters_where_there_are_enough(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    said = {}
    for owners in (16, 3):
        whose = np.arange(160) % owners
        high = {("a", 0): (rng.standard_normal(owners)[whose], np.zeros(160)), ("b", 0): (np.zeros(160), np.zeros(160))}
        (compared,) = arms.compare(evaluated(tmp_path, high, details={"owners": whose.tolist()}))
        (plain,) = arms.compare(evaluated(tmp_path, high))
        row, over_items = compared.rows[0][0], plain.rows[0][0]
        assert row.value == over_items.value
        assert (row.high - row.low > 2 * (over_items.high - over_items.low)) == (owners == 16)
        said[owners] = compared.items
        outcomes = evaluated(tmp_path, high, details={"owners": whose.tolist()})
        assert compared.items in Page(write_report(tmp_path / "page", "e", outcomes)).text
    assert said[16] == "160 test items of 16 characters or persons: the intervals draw these, each with all of its items."
    assert "of 3 characters or persons: too few to draw" in said[3]
    right = {(arm, 0): (np.ones(160), np.ones(160)) for arm in "ab"}
    (constant,) = arms.compare(evaluated(tmp_path, right, details={"owners": (np.arange(160) % 16).tolist()}))
    assert constant.items == said[16]


def test_many_arms_are_held_against_the_first_and_against_random_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    names = ["e", "d", "c", "b", "a"]
    (compared,) = arms.compare(evaluated(tmp_path, {(arm, 0): (rng.random(9), rng.random(9)) for arm in names}))
    wanted = [(arm, "e") for arm in names[1:]] + [(arm, arms.RANDOM) for arm in names]
    assert [(row.first, row.second) for row, _ in compared.rows] == wanted


def test_other_test_items_are_named_and_not_compared(tmp_path: Path) -> None:
    ones = np.ones(10)
    outcomes = evaluated(tmp_path, {("a", 0): (ones, ones * 0)}) | evaluated(tmp_path, {("b", 0): (ones, ones * 0)}, items="other")
    outcomes |= evaluated(tmp_path, {("c", 7): (ones, ones * 0)})  # no seed in common
    (compared,) = arms.compare(outcomes)
    assert {row.second for row, _ in compared.rows} == {arms.RANDOM}
    assert compared.unpaired == ["a and b", "a and c", "b and c"]


def test_one_arm_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    outcomes = evaluated(tmp_path, {("a", 0): (np.ones(10), np.zeros(10))})
    assert arms.compare(outcomes) == []
    assert "arms" not in Page(write_report(tmp_path / "page", "e", outcomes)).headings


# ---- fine-tunings ----------------------------------------------------------------------------------------------------


def test_a_fine_tuned_arm_stands_beside_random_weights_of_its_own_encoder(tmp_path: Path) -> None:
    outcomes: dict[str, Outcome] = {}
    for seed in (0, 1):
        for start, encoder, value, weights in (
            ("random-a", {"kind": "dgcnn"}, 0.2, "random"),
            ("random-b", SMALL, 0.3, "random"),
            ("a", {"kind": "dgcnn"}, 0.6, "pretrained"),
            ("b", SMALL, 0.5, "pretrained"),
        ):
            outcomes |= finetuned(tmp_path, "parts-10", start, seed, value + 0.1 * seed, weights, encoder)
    found = {(m.label, m.arm): m for m in figures.measures(outcomes) if m.headline}
    names = ("Fine-tuned parts-10, instance mIoU", "Fine-tuned parts-10, class mIoU")
    assert list(found) == [(name, arm) for name in names for arm in ("a", "b")]
    for (_, arm), measure in found.items():
        pretrained, random = {"a": (0.6, 0.2), "b": (0.5, 0.3)}[arm]
        assert measure.protocol == "finetune/parts-10"
        assert measure.pretrained == pytest.approx((pretrained, pretrained + 0.1))
        assert measure.random == pytest.approx((random, random + 0.1))
        tree = dict(measure.tree)
        assert tree["labelled items"] == "7 of 70"
        assert tree["epoch, pretrained"] == "2, 2 of 3, chosen on validation items"
        assert tree["dataset"] == "d"
    assert "Fine-tuned parts-10, instance mIoU, 10 votes" in {m.label for m in figures.measures(outcomes) if not m.headline}
    cells = [list(column.cells) for column in result_table(outcomes).columns]
    assert [row[2:5] for row in zip(*cells, strict=True)][:2] == [("a", "65.0 ± 7.1", "25.0 ± 7.1"), ("b", "55.0 ± 7.1", "35.0 ± 7.1")]


def test_a_task_shows_its_labels_the_chosen_epoch_and_means_over_seeds(tmp_path: Path) -> None:
    outcomes: dict[str, Outcome] = {"dataset/parts": outcome("dataset/parts", tmp_path, {"fingerprint": "d", "samples": 90})}
    for seed, value in ((0, 0.4), (1, 0.6)):
        outcomes |= finetuned(tmp_path, "parts", "random", seed, value / 2, "random")
        outcomes |= finetuned(tmp_path, "parts", "a", seed, value, "pretrained")
    (task,) = tasks.tuned(outcomes)
    assert [start.name for start in task.starts] == ["a", "random weights"]
    assert task.about == "7 of 70 training items with their labels, 9 validation items, 40 test items, all from dataset/parts"
    (group,) = task.groups
    assert (group.name, group.items, task.measured) == ("mug", 40, "instance mIoU")
    assert group.values == pytest.approx([0.5, 0.25])
    assert [part for part, _ in group.parts] == ["cup", "handle"]
    assert group.parts[1][1] == pytest.approx([0.25, 0.125])
    # The curve that chose is that of the first figure, and its second of three epochs is ringed: in the middle, at the top.
    assert task.validation is not None
    assert task.validation.title == "instance mIoU of the validation items"
    rings = re.findall(r'class="chosen"[^>]*cx="([\d.]+)" cy="([\d.]+)"', task.validation.drawing)
    line = re.search(r'class="line"[^>]*d="M([^"]+)"', task.validation.drawing)
    assert line
    points = [tuple(part.split()) for part in line[1].split("L")]
    assert rings == [points[1]] * 4


def parts_evidence(folder: Path, truth: np.ndarray, predicted: np.ndarray, labels: list[list[str]], key: str = "m0") -> np.ndarray:
    points = np.random.default_rng(3).uniform(-1, 1, (1, truth.shape[-1], 3)).astype(np.float32)
    (folder / "evidence").mkdir(parents=True)
    np.savez(folder / "evidence" / "parts.npz", points=points, truth=truth[None], predicted=predicted[None])
    about = {"keys": [key], "classes": ["mug"], "labels": labels}
    (folder / "evidence" / "parts.json").write_text(json.dumps(about))
    return points


def colors(cloud: Cloud) -> np.ndarray:
    return np.frombuffer(base64.b64decode(cloud.colors), np.uint8).reshape(-1, 3)


def test_parts_have_one_colour_each_in_truth_and_prediction(tmp_path: Path) -> None:
    outcomes = finetuned(tmp_path, "parts", "random", 0, 0.1, "random") | finetuned(tmp_path, "parts", "a", 0, 0.2, "pretrained")
    labels = [["bag", "strap"], ["mug", "cup"], ["mug", HOSTILE]]
    truth = np.array([1, 1, 2, 2, -1, 1])
    predicted = np.array([1, 2, 2, 1, 1, 1])
    parts_evidence(outcomes["finetune/parts/a/s0"].folder, truth, predicted, labels)
    (task,) = tasks.tuned(outcomes)
    (shape,) = task.shapes
    ((start, right, drawn),) = shape.predicted
    assert (start, right) == ("a", pytest.approx(3 / 5))
    true_colors, predicted_colors = colors(shape.truth), colors(drawn)
    assert len({tuple(color) for color in true_colors.tolist()}) == 3
    assert [tuple(a) == tuple(b) for a, b in zip(true_colors.tolist(), predicted_colors.tolist(), strict=True)] == (
        truth == predicted
    ).tolist()
    assert {part: color for color, part in shape.legend} == {
        "cup": "#" + bytes(true_colors[0].tolist()).hex(),
        HOSTILE: "#" + bytes(true_colors[2].tolist()).hex(),
    }
    page = Page(write_report(tmp_path / "page", "e", outcomes))
    assert HOSTILE in page.text
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]


# ---- tokenizers ------------------------------------------------------------------------------------------------------


def tokenized(folder: Path, seeds: tuple[int, ...] = (0, 1)) -> dict[str, Outcome]:
    """Arms `masked` and `both` on one tokenizer, and `plain` without one."""
    rng = np.random.default_rng(4)
    found: dict[str, Outcome] = {}
    shared = {"kind": "crossbert", "tokenizer": {"model": {"vocabulary": 16}}}
    objectives = {"masked": shared, "both": shared, "plain": {"kind": "crosspoint"}}
    for seed in seeds:
        for arm, objective in objectives.items():
            encoder = {"kind": "point_transformer" if objective is shared else "dgcnn"}
            config = PretrainConfig.model_validate({"encoder": encoder, "objective": objective, "fit": {"seed": seed}}).model_dump(
                mode="json"
            )
            if arm == "masked":
                own = json.loads(json.dumps(config["objective"]["tokenizer"]))
                own["fit"]["seed"] = seed
                split = {
                    "clouds": 12,
                    "chamfer_fine": 0.04,
                    "chamfer_coarse": 0.05,
                    "chamfer_fixed_patch": 0.16,
                    "codes_used": 3,
                    "flips": None,
                }
                split |= {"chamfer_patch_kmeans": 0.08, "perplexity": 2.5, "commonest_share": 0.5}
                judgement = {
                    "training": split,
                    "validation": split,
                    "test": split,
                    "vocabulary": 16,
                    "fixed_patch": "mean",
                    "evidence": "test",
                }
                made = outcome(f"tokenizer/masked/s{seed}", folder, {"judgement": judgement, "parameters": {"codebook": 64}}, own)
                found[made.name] = made
                (made.folder / "evidence").mkdir(parents=True)
                clouds = rng.uniform(-0.5, 0.5, (10, 64, 3)).astype(np.float32)
                usage = np.array([8, 0, 4, 1] + [0] * 12)
                np.savez(made.folder / "evidence" / "reconstructions.npz", points=clouds, reassembled=clouds[:, ::2] * 3, usage=usage)
                items = [{"key": f"k{i}", "class": HOSTILE} for i in range(10)]
                (made.folder / "evidence" / "reconstructions.json").write_text(json.dumps(items))
                journal = Journal(made.folder / "journal.jsonl")
                for step in range(1, 4):
                    journal.write(
                        step, {"loss": 1.0 / step, "loss_kl": 0.1, "temperature": 1.0, "perplexity": 3.0, "codes_used": 0.5, "lr": 1e-3}
                    )
                journal.close()
            found[f"pretrain/{arm}/s{seed}"] = outcome(f"pretrain/{arm}/s{seed}", folder, {"config": config}, config)
    return found


def test_a_tokenizer_shows_its_clouds_its_codes_and_simpler_ones(tmp_path: Path) -> None:
    outcomes = tokenized(tmp_path)
    (found,) = tokenizer.tokenizers(outcomes)
    assert found.arms == ["masked", "both"]
    assert (found.used, found.codes, found.seed) == (3, 16, 0)
    assert [(row.split, row.seed) for row in found.rows] == [(s, n) for s in ("test", "validation", "training") for n in (0, 1)]
    assert [row.below_fixed for row in found.rows] == pytest.approx([0.75] * 6)
    # Both clouds of a pair are shrunk alike until the larger one fits; the drawing has steps of 1/127.
    with np.load(outcomes["tokenizer/masked/s0"].folder / "evidence" / "reconstructions.npz") as kept:
        for picture, points, made in zip(found.pictures, kept["points"], kept["reassembled"], strict=True):
            scale = max(1.0, np.abs(made).max())
            for cloud, wanted in ((picture.original, points), (picture.made, made)):
                shown = np.frombuffer(base64.b64decode(cloud.points), np.int8).reshape(-1, 3) / 127
                assert shown == pytest.approx(wanted / scale, abs=0.5 / 127 + 1e-6)
    page = Page(write_report(tmp_path / "page", "e", outcomes))
    assert sum("orbit" in (a.get("class") or "") for tag, a in page.tags if tag == "canvas") == 20
    assert "0.0400" in page.text
    assert "3 in use, 13 never" in page.text
    assert HOSTILE in page.text
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]


@pytest.mark.parametrize("missing", ["evidence", "journal", "judgement", "figures", "validation", "tokenizer"])
def test_a_report_on_tokenizers_and_tasks_is_made_of_what_there_is(tmp_path: Path, missing: str) -> None:
    outcomes = tokenized(tmp_path, (0,)) | finetuned(tmp_path, "parts", "masked", 0, 0.5, "pretrained", SMALL)
    tokens, tuned = outcomes["tokenizer/masked/s0"], outcomes["finetune/parts/masked/s0"]
    sections = ["figures", "training", "tokenizer", "task-parts", "stages", "making"]
    match missing:
        case "evidence":
            (tokens.folder / "evidence" / "reconstructions.npz").unlink()
        case "journal":
            (tokens.folder / "journal.jsonl").unlink()
        case "judgement":
            tokens.outputs.pop("judgement")
        case "figures":
            tuned.outputs.pop("figures")
        case "validation":
            tuned.outputs.update(validation={}, chosen_by="last epoch")
        case "tokenizer":
            outcomes.pop(tokens.name)
            sections.remove("tokenizer")
    assert Page(write_report(tmp_path / "page", "e", outcomes)).headings == sections


# ---- what a configuration is held against ------------------------------------------------------------------------------


def crossbert(**changes: Any) -> dict[str, Any]:
    values = {"encoder": {"kind": "point_transformer"}, "objective": {"kind": "crossbert"}} | changes
    return PretrainConfig.model_validate(values).model_dump(mode="json")


def test_crossbert_is_held_against_the_reconstructions_defaults_and_against_no_paper(tmp_path: Path) -> None:
    assert not figures.paper_known(crossbert())
    assert figures.differences(crossbert()) == []
    changed = crossbert(objective={"kind": "crossbert", "momentum": 0.9, "tokenizer": {"model": {"vocabulary": 64}}})
    assert figures.differences(changed) == [("objective.momentum", "0.999", "0.9"), ("objective.tokenizer.model.vocabulary", "8192", "64")]
    untokenized = {"kind": "crossbert", "modelling": {"weight": 0.0}, "tokenizer": {"model": {"vocabulary": 64}}}
    assert figures.differences(crossbert(objective=untokenized)) == [("objective.modelling.weight", "1", "0")]
    outcomes = evaluated(tmp_path, {("a", 0): (np.ones(4), np.zeros(4))})
    outcomes["pretrain/a/s0"] = outcome("pretrain/a/s0", tmp_path, {"config": changed}, changed)
    tree = dict(figures.measures(outcomes)[0].tree)
    assert "differs from the paper" not in tree
    assert tree["paper"].startswith("its recipe is not known; 2 settings differ")
    text = Page(write_report(tmp_path / "page", "e", outcomes)).text
    assert "What differs from the reconstruction’s defaults (2)" in text
    assert "paper’s recipe (" not in text


# ---- curves and charts -------------------------------------------------------------------------------------------------


def test_every_curve_is_drawn_once_and_a_token_accuracy_with_its_yardstick(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    names = (
        "loss",
        "loss_pi",
        "loss_mcm",
        "target_entropy",
        "token_accuracy",
        "commonest_token",
        "effective_rank",
        "lr",
        "wait_share",
        "strange_term",
    )
    for step in (1, 2):
        journal.write(step, {**{name: float(step) for name in names}, "total_steps": 2, "epoch": 0})
    journal.close()
    loss, groups = trainings.drawn("arm", {"seed 0": tmp_path})
    assert loss
    found = {title: [(chart.title, chart.dashed) for chart in drawn] for title, drawn in groups}
    assert list(found) == ["Parts of the loss", "Monitors", "Pace"]
    named = [name for drawn in found.values() for pair in drawn for name in pair if name]
    assert sorted(named) == sorted(trainings.title(name) for name in names if name != "loss")
    pairs = [pair for drawn in found.values() for pair in drawn if pair[1]]
    assert pairs == [tuple(map(trainings.title, pair)) for pair in (("loss_mcm", "target_entropy"), ("token_accuracy", "commonest_token"))]
    assert "strange term" in [name for name, _ in found["Monitors"]]


def test_a_histogram_has_a_step_for_each_code_in_use() -> None:
    drawn = charts.histogram("codes", [0, 100, 10, 0, 1, 10])
    path = re.search(r'class="area" d="M[\d.]+ [\d.]+L([^z]*)z', drawn)
    assert path
    points = [tuple(map(float, part.split())) for part in path[1].split("L")]
    (left, top), (first, _), (second, middle), (third, _), (fourth, bottom), (end, _) = points[:6]
    assert second == first
    assert fourth == third
    assert middle - top == pytest.approx(bottom - middle, abs=0.11)  # 100, 10, 1: even steps
    assert third - second == pytest.approx(2 * (first - left), abs=0.11)  # two codes with 10
    assert end - left == pytest.approx(4 * (first - left), abs=0.11)  # four of six in use
    assert charts.histogram("codes", [0, 0]) == charts.histogram("codes", []) == ""
    assert "nan" not in charts.histogram("codes", [1])
