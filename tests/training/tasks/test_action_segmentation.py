"""Each frame of a clip is named once, with the label of its own instant, and runs are measured by the metrics of C.4.1."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.reader import Dataset
from tests.training.clip_cases import ACTIONS, write_clips
from tests.training.finetune_cases import VIDEO_CONFIG
from training.clip_views import ClipAugment
from training.distributed import World
from training.evaluation.segments import edit_score, f1, hits
from training.finetune import FinetuneConfig, Finetuned, _score
from training.tasks import ActionSegmentation, ActionSegmentationConfig, open_task
from training.tasks.action_segmentation import nearest
from training.tasks.clips import draw, tiles
from training.tasks.viewing import Viewing


class HeightEncoder(nn.Module):
    """Each `stride`-th frame's features: the mean of its points."""

    frame_dim = 3

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def frame_index(self, frames: int) -> Tensor:
        return torch.arange(0, frames, self.stride)

    def frame_features(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        return points.mean(2)[:, :: self.stride]


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clips(tmp_path_factory.mktemp("sequences"), sequences=True, images=False, lengths=(30, 21, 40), train=6, test=6)


def opened(uri: str, **config: Any) -> tuple[ActionSegmentation, Dataset]:
    dataset = Dataset.open(uri)
    task = open_task(ActionSegmentationConfig(**config), dataset, dataset.indices("train"))
    assert isinstance(task, ActionSegmentation)
    return task, dataset


@pytest.mark.parametrize(
    ("frames", "step", "mode"), [(8, 1, "window"), (8, 3, "window"), (1, 1, "window"), (8, 1, "bins"), (5, 2, "shared")]
)
def test_every_frame_is_fresh_in_one_window(frames: int, step: int, mode: Any) -> None:
    augment = ClipAugment(frames=frames, step=step, mode=mode)
    for length in (1, 2, 7, 8, 9, 16, 17, 40):
        found = tiles(length, augment)
        numbers = np.concatenate([window[fresh] for window, fresh in found])
        assert sorted(numbers.tolist()) == list(range(length))
        for window, _ in found:
            assert window.shape == (frames,)
            steps = np.diff(window)
            apart = step if mode != "bins" else max(1, -(-length // frames))
            # a window keeps its pace, but for repetitions where the clip ends
            assert set(steps.tolist()) <= {apart, 0}
            assert (np.diff((steps == 0).astype(int)) >= 0).all()


def test_a_frame_takes_the_output_that_is_nearest_the_earlier_of_two() -> None:
    assert nearest(torch.tensor([0, 2, 4]), 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert nearest(torch.tensor([1, 4]), 6).tolist() == [0, 0, 0, 1, 1, 1]
    assert nearest(torch.arange(5), 5).tolist() == [0, 1, 2, 3, 4]


def test_labels_are_those_of_the_frames_that_are_seen(sequences: str) -> None:
    task, dataset = opened(sequences)
    still = Viewing(ClipAugment(frames=8, step=2, normalise="none", rotation="none", scale=(1, 1), translate=0, jitter_sigma=0), 16, 0)
    for index in dataset.indices("train").tolist():
        sample = dataset.load(index, ("clip.npy", "actions.npy", "json"))
        named = [sample["json"]["action_names"][number] for number in sample["actions.npy"]]
        frame_of = {point.tobytes(): number for number, frame in enumerate(sample["clip.npy"]) for point in frame}
        for item in (task.drawn(dataset, index, still, 1), *task.seen(dataset, index, still, 0)):
            for frame, label in zip(item["points"], item["label"].tolist(), strict=True):
                (number,) = {frame_of[point.tobytes()] for point in frame}
                assert label == -1 or task.actions[label] == named[number]
        assert (task.drawn(dataset, index, still, 1)["label"] >= 0).all()


def test_frames_that_fill_a_short_clip_up_have_no_label(tmp_path: Path) -> None:
    task, dataset = opened(write_clips(tmp_path, train=3, test=0, sequences=True, images=False, frames=5))
    item = task.drawn(dataset, 0, Viewing(ClipAugment(frames=8), None, 0), 0)
    assert (item["label"] >= 0).tolist() == [True] * 5 + [False] * 3


@pytest.mark.parametrize(("stride", "step", "end"), [(1, 1, "fixed"), (2, 1, "fixed"), (1, 2, "legacy")])
def test_figures_are_those_of_the_whole_sequences(stride: int, step: int, end: Any, sequences: str) -> None:
    task, dataset = opened(sequences, end=end)
    config = FinetuneConfig.model_validate(
        VIDEO_CONFIG | {"task": task.config.model_dump(), "augment": {"frames": 8, "step": step, "normalise": "none"}}
    )
    module = Finetuned(task, HeightEncoder(stride), 5).eval()
    test = dataset.indices("test")
    truth, predicted = [], []
    for index in test.tolist():
        # The encoder looks at frames one by one, so its window does not matter, only which frame it stands for.
        line = np.full(len(task.labels(dataset, index)), -1)
        with torch.no_grad():
            for sample in task.seen(dataset, index, config.viewing(), 0):
                logits = module.head(module.encoder.frame_features(torch.from_numpy(sample["points"])[None]))[0]
                for place, number in enumerate(sample["frame"].tolist()):
                    if number >= 0:
                        line[number] = int(logits[place // stride].argmax())
        truth.append(task.labels(dataset, index))
        predicted.append(line)
    assert len({int(label) for line in predicted for label in line}) > 1
    rows = _score(module, config, dataset, test, World())
    found = {metric.name: metric for metric in task.metrics(rows)}
    assert next(iter(found)) == "frame_accuracy"
    everything, answer = np.concatenate(truth), np.concatenate(predicted)
    assert found["frame_accuracy"].value == pytest.approx((answer == everything).mean())
    assert found["edit"].value == pytest.approx(np.mean([edit_score(t, p) for t, p in zip(truth, predicted, strict=True)]))
    counted = sum(hits(t, p, end=end) for t, p in zip(truth, predicted, strict=True))
    assert [found[f"f1_{k}"].value for k in (10, 25, 50)] == pytest.approx(f1(counted).tolist())
    constant = [np.full_like(t, task.commonest) for t in truth]
    assert found["frame_accuracy"].chance == pytest.approx((everything == task.commonest).mean())
    assert found["edit"].chance == pytest.approx(np.mean([edit_score(t, c) for t, c in zip(truth, constant, strict=True)]))
    assert found["f1_10"].chance == pytest.approx(f1(sum(hits(t, c, end=end) for t, c in zip(truth, constant, strict=True)))[0])
    assert {len(metric.scores) for metric in found.values()} == {len(test)}
    recall = {name: (answer == c)[everything == c].mean() for c, name in enumerate(task.actions)}
    assert found["frame_accuracy"].details["per_class"] == pytest.approx(recall)


def test_a_perfect_answer_has_every_figure_at_its_top(sequences: str) -> None:
    task, dataset = opened(sequences)
    lines = [task.labels(dataset, index) for index in dataset.indices("test").tolist()]
    kept = [[torch.from_numpy(np.stack([np.arange(len(t)), t, t, 0 * t, 0 * t], 1).astype(float))] for t in lines]
    assert [metric.value for metric in task.metrics(task.scored(kept, []).numpy())] == pytest.approx([1.0] * 5)


def test_the_loss_is_the_mean_over_labelled_frames() -> None:
    task = ActionSegmentation(ActionSegmentationConfig(dropout=0.0), ("a", "b"), 0, ("x",))
    module = Finetuned(task, HeightEncoder(2))
    label = torch.tensor([[0, 1, 1, 0, 1], [1, -1, -1, -1, -1], [-1] * 5])
    batch = {"points": torch.randn(3, 5, 4, 3), "label": label}
    loss, terms = module(batch)
    logits = module.logits(batch)
    assert logits.shape == (3, 5, 2)
    torch.testing.assert_close(logits[:, 1], logits[:, 0])
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits.flatten(0, 1), label.flatten(), ignore_index=-1))
    right = (logits.argmax(-1) == label).sum() / 6
    assert float(terms["train_accuracy"]) == pytest.approx(float(right))


def test_frames_without_a_known_label_count_nowhere() -> None:
    task = ActionSegmentation(ActionSegmentationConfig(background=("b",)), ("a", "b"), 0, ("x",))
    truth = np.array([0, 0, -1, -1, 0, 1, 1])
    given = np.array([0, 0, 0, 0, 0, 1, 0])
    kept = torch.from_numpy(np.stack([np.arange(7), truth, given, np.ones(7), np.zeros(7)], 1).astype(float))
    row = task.scored([[kept]], []).numpy()
    found = {metric.name: metric.value for metric in task.metrics(row)}
    assert (row[0, 0], row[0, 1]) == (5.0, 5.0)
    assert found["frame_accuracy"] == pytest.approx(4 / 5)
    # runs of a at 0–2, 4–5 in the truth; in the answer also at 6–7; b is background
    assert found["edit"] == pytest.approx(2 / 3)
    assert found["f1_50"] == pytest.approx(2 * 2 / (2 * 2 + 1))


def test_families_that_training_never_saw_are_scored_and_unknown_actions_are_none(sequences: str) -> None:
    dataset = Dataset.open(sequences)
    dataset.classes = np.where(dataset.splits == "test", "another", dataset.classes)
    task = open_task(ActionSegmentationConfig(), dataset, dataset.indices("train"))
    assert "another" in task.categories
    few = ActionSegmentation(task.config, tuple(sorted(ACTIONS)[:2]), 0, task.categories)
    index = int(dataset.indices("test")[0])
    all_labels, some = task.labels(dataset, index), few.labels(dataset, index)
    np.testing.assert_array_equal(some, np.where(all_labels < 2, all_labels, -1))


def test_training_windows_lie_inside_the_clip() -> None:
    augment = ClipAugment(frames=4, step=3)
    rng = np.random.default_rng(0)
    found = {tuple(draw(14, augment, rng).tolist()) for _ in range(200)}
    assert found == {tuple(range(o, o + 10, 3)) for o in range(5)}


def test_a_dataset_without_two_actions_or_the_background_is_refused(clips_dataset: str) -> None:
    dataset = Dataset.open(clips_dataset)
    with pytest.raises(ValueError, match="have 1 action: segmentation needs two"):
        open_task(ActionSegmentationConfig(), dataset, np.flatnonzero(dataset.classes == "rise"))
    with pytest.raises(ValueError, match="has the action 'rest'; it has circle, rise, swing"):
        open_task(ActionSegmentationConfig(background=("rest",)), dataset, dataset.indices("train"))
