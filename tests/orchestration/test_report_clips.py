"""The report on clips: timelines, moving clouds and animated pictures are those that were kept, whatever labels are called."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestration.graph import Outcome
from orchestration.report import charts, clips, figures, tasks, trainings, write_report
from tests.training.clip_cases import write_clips
from training.journal import Journal

HOSTILE = "<b onclick=x>&'\""
TRUTH = np.array([[0] * 6 + [1] * 4, [1] * 5 + [-1] * 5])
ANSWER = np.array([[0] * 5 + [1] * 5, [1] * 3 + [0] * 2 + [-1] * 5])


def finetuning(folder: Path, task: str, start: str, details: dict[str, Any] | None = None, kind: str = "recognition") -> Outcome:
    name = f"finetune/{task}/{start}/s0"
    about = {"split": "test", "turned": False, "encoder_fingerprint": "e", "dataset_fingerprint": "d", "seed": 0, "chance": 0.5}
    figure = {"protocol": kind, "metric": "accuracy", "value": 0.5, "n": 2, "weights": "random", "details": details or {}, **about}
    inputs = {"encoder": {}, "task": {"kind": kind}}
    outputs = {"figures": [figure], "weights": "random" if start == "random" else "pretrained", "dataset": "d"}
    (folder / start / "evidence").mkdir(parents=True, exist_ok=True)
    return Outcome(name, "finetune", folder / start, inputs, outputs, 1.0, 0.0)


def keep(outcome: Outcome, name: str, labels: list[str], keys: list[str], **arrays: np.ndarray) -> None:
    about = {"keys": keys, "classes": ["bird"] * len(keys), "labels": labels, "fps": [10.0] * len(keys), "frames": [10, 5]}
    np.savez(outcome.folder / "evidence" / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    (outcome.folder / "evidence" / f"{name}.json").write_text(json.dumps(about))


def columns(folder: Path, name: str, labels: list[str], **arrays: np.ndarray) -> dict[str, list[tuple[int, Outcome]]]:
    found = {}
    for start in ("a", "random"):
        outcome = finetuning(folder, "t", start)
        keep(outcome, name, labels, ["one", "two"], **arrays)
        found[start] = [(0, outcome)]
    return found


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_a_timeline_has_a_block_for_each_run_and_the_scores_of_its_sequence(tmp_path: Path) -> None:
    found = clips.timelines(columns(tmp_path, "timelines", ["walk", HOSTILE], truth=TRUTH, predicted=ANSWER))
    assert found is not None
    first, second = found.sequences
    blocks = re.findall(r'<rect x="(\d+)" width="(\d+)"', first.truth)
    assert blocks == [("0", "6"), ("6", "4")]
    assert re.findall(r'<rect x="(\d+)" width="(\d+)"', second.truth) == [("0", "5")]
    assert (first.seconds, second.seconds) == (1.0, 0.5)
    scored = first.predicted[0]
    # one frame of ten is wrong; both segments overlap by more than half (5/6 and 4/5); nothing has to be edited
    assert (scored.accuracy, scored.edit, scored.f1) == (pytest.approx(0.9), 1.0, (1.0, 1.0, 1.0))
    # walk is too much: one of two segments; the other one is 3 of 5 frames long
    assert second.predicted[0].accuracy == pytest.approx(0.6)
    assert second.predicted[0].edit == pytest.approx(0.5)
    assert second.predicted[0].f1 == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert [one.start for one in first.predicted] == ["a", "random"]
    assert "<b " not in first.truth + first.predicted[0].bar
    assert [name for _, name in found.legend] == ["walk", HOSTILE]


def test_labels_of_another_start_are_matched_by_name(tmp_path: Path) -> None:
    kept = columns(tmp_path, "timelines", ["walk", "run"], truth=TRUTH, predicted=ANSWER)
    other = kept["random"][0][1]
    keep(other, "timelines", ["run", "walk"], ["one", "two"], truth=np.where(TRUTH < 0, -1, 1 - TRUTH), predicted=1 - ANSWER.clip(0))
    found = clips.timelines(kept)
    assert found is not None
    ours, theirs = found.sequences[0].predicted
    assert (ours.accuracy, ours.f1) == (theirs.accuracy, theirs.f1)
    keep(other, "timelines", ["walk", "run"], ["other", "clips"], truth=TRUTH, predicted=ANSWER)
    found = clips.timelines(kept)
    assert found is not None
    assert [one.start for one in found.sequences[0].predicted] == ["a"]


def test_moving_clouds_hold_true_and_predicted_labels_of_the_same_points(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(-1, 2, (2, 5, 40))
    answer = np.where(rng.random(truth.shape) < 0.25, 1 - truth.clip(0), truth.clip(0))
    points = rng.normal(size=(2, 5, 40, 3)).astype(np.float32) + 100
    found = clips.moving(columns(tmp_path, "clips", ["wing", "leg"], points=points, truth=truth, predicted=answer), {})
    for row, clip in enumerate(found):
        (start, right, cloud), _ = clip.predicted
        known = truth[row] >= 0
        assert (start, right) == ("a", pytest.approx((truth[row] == answer[row])[known].mean()))
        assert cloud.points == clip.truth.points
        assert cloud.frames == len(clip.reel.times_s) == 5
        numbers = np.frombuffer(base64.b64decode(clip.truth.parts), np.uint8).reshape(5, 40)
        assert (numbers == np.where(known, truth[row], 255)).all()
        assert (np.frombuffer(base64.b64decode(cloud.parts), np.uint8).reshape(5, 40) == answer[row]).all()


def test_a_report_of_clips_is_whole_the_same_again_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    uri = write_clips(tmp_path / "clips", parts=True)
    data = Outcome("dataset", "dataset", tmp_path, {}, {"uri": uri, "fingerprint": "d", "samples": 18, "failed": {}}, 1.0, 0.0)
    outcomes = {"dataset": data}
    for start in ("a", "random"):
        one = finetuning(tmp_path, "parts", start, {"confusion": {"swing": {"rise": 2, "swing": 1}, "rise": {"rise": 3}}})
        keep(one, "timelines", ["walk", HOSTILE], ["one", "two"], truth=TRUTH, predicted=ANSWER)
        truth = np.zeros((2, 3, 8), int)
        keep(one, "clips", ["body", HOSTILE], ["one", "two"], points=np.ones((2, 3, 8, 3), np.float32), truth=truth, predicted=truth + 1)
        outcomes[one.name] = one
    (first, second) = (write_report(tmp_path / name, "clips", outcomes).read_text() for name in ("r1", "r2"))
    assert first == second
    assert len(first) < 2_000_000
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(|https?://", first)
    tags = Tags(first).tags
    assert not [a for _, a in tags if any(name.startswith("on") for name in a)]
    assert sum(tag == "article" for tag, _ in tags) == 8
    assert sum(a.get("class") == "spans" for tag, a in tags if tag == "svg") == 2 * 3
    pictures = [a for tag, a in tags if tag == "source"]
    assert len(pictures) == 6
    assert all(a["media"] == "(prefers-reduced-motion: reduce)" for a in pictures)
    task = tasks.tuned(outcomes)[0]
    assert [(c.start, c.classes, c.counts) for c in task.confusions] == [
        (start, ["rise", "swing"], [[3, 0], [2, 1]]) for start in ("a", "random weights")
    ]


@pytest.mark.parametrize(
    ("protocol", "metric", "words", "main"),
    [
        ("frame_retrieval", "point_to_image@1", "Frames within their clip, point → image, recall@1", True),
        ("frame_retrieval", "still_point_to_point@1", "Frames of a clip that stands still, point → point, recall@1", False),
        ("retrieval", "image_to_point@5", "Image → point, recall@5", True),
        ("finetune/actions", "f1_25", "Fine-tuned actions, F1@25", True),
        ("finetune/actions", "edit", "Fine-tuned actions, edit score", True),
    ],
)
def test_figures_of_clips_have_names_in_words(protocol: str, metric: str, words: str, main: bool) -> None:
    assert figures.label(protocol, metric) == words
    assert figures.headline(metric) == main


def test_the_losses_of_clips_are_drawn_under_their_names(tmp_path: Path) -> None:
    names = ("intra_video", "intra_frame", "cross_video", "cross_frame")
    journal = Journal(tmp_path / "journal.jsonl")
    for step in (1, 2, 3):
        journal.write(step, {"loss": 1.0, "shortcut": 0.5, "shortcut_start": 0.25} | {f"loss_{name}": 1 / step for name in names})
    journal.close()
    _, groups = trainings.drawn("a", {"seed 0": tmp_path})
    drawn = dict(groups)
    assert [chart.title for chart in drawn["Parts of the loss"]] == [
        "contrast of two views of a clip",
        "contrast of frames of two views of a clip",
        "contrast of point video and image video",
        "contrast of frames of points and of images",
    ]
    (shortcut,) = drawn["Monitors"]
    assert shortcut.dashed == "what answering by the place gives"


def test_more_labels_than_colours_stay_apart() -> None:
    numbers = np.arange(16)
    bar = charts.timeline(numbers, [f"a{n}" for n in numbers], ("111111",) * 12, "bar")
    assert bar.count("opacity") == 4
    assert bar.count("<rect") == 16
