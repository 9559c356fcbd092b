"""Labels stay with their points, every point of every frame counts once, and mIoU is that of the whole split."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.reader import Dataset
from tests.training.clip_cases import write_clips
from tests.training.finetune_cases import VIDEO_CONFIG
from training.clip_views import ClipAugment
from training.distributed import World
from training.evaluation.miou import confusion, mean_iou
from training.finetune import FinetuneConfig, Finetuned, _figures, _score
from training.tasks import PointSegmentation, PointSegmentationConfig, open_task
from training.tasks.items import Items
from training.tasks.viewing import Viewing


class PlaceEncoder(nn.Module):
    """The features of a point are its coordinates."""

    point_dim = 3

    def point_features(self, points: Tensor, keys: Tensor | None = None) -> Tensor:
        return points[..., :3]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clips(tmp_path_factory.mktemp("labelled"), parts=True, features=True, valid=True, images=False, lengths=(11, 8, 5))


def opened(uri: str, **config: Any) -> tuple[PointSegmentation, Dataset]:
    dataset = Dataset.open(uri)
    task = open_task(PointSegmentationConfig(**config), dataset, dataset.indices("train"))
    assert isinstance(task, PointSegmentation)
    return task, dataset


def test_labels_stay_with_their_points(labelled: str) -> None:
    task, dataset = opened(labelled)
    assert task.names == ("arm", "body")
    viewing = Viewing(ClipAugment(frames=3, features=("part",)), 20, 0)
    for index in (0, 1, 2):
        for item in (task.drawn(dataset, index, viewing, 4), *task.seen(dataset, index, viewing, 0)):
            assert item["points"].shape == (3, 20, 4)
            told = item["points"][:, :, 3].astype(int)  # 0 the body, 1 the arm
            known = item["label"] >= 0
            np.testing.assert_array_equal(item["label"][known], 1 - told[known])
            assert known.any()


def test_points_that_fill_up_and_frames_that_repeat_have_no_label(labelled: str) -> None:
    task, dataset = opened(labelled)
    whole = Viewing(ClipAugment(frames=3), None, 0)
    stored = dataset.load(0, ("valid.npy",))["valid.npy"]
    counted = sum(int((item["label"] >= 0).sum()) for item in task.seen(dataset, 0, whole, 0))
    assert counted == stored.sum()
    long = Viewing(ClipAugment(frames=16), None, 0)
    (item,) = task.seen(dataset, 0, long, 0)
    assert (item["label"] >= 0).any(axis=1).tolist() == [True] * len(stored) + [False] * (16 - len(stored))


@pytest.mark.parametrize("ignored", [(), ("body",)])
@pytest.mark.parametrize("points", ["left_out", "in_union"])
@pytest.mark.parametrize("absent", ["exclude", "zero"])
def test_miou_is_that_of_all_points_of_the_split_together(ignored: tuple[str, ...], points: Any, absent: Any, labelled: str) -> None:
    dataset = Dataset.open(labelled)
    # a label that no test point has, and enough others when one is ignored
    task = PointSegmentation(
        PointSegmentationConfig(ignored=ignored, ignored_points=points, absent=absent),
        tuple(sorted({"arm", "body", "tail"} - set(ignored))),
        0,
        tuple(np.unique(dataset.classes).tolist()),
    )
    config = FinetuneConfig.model_validate(VIDEO_CONFIG | {"task": task.config.model_dump(), "augment": {"frames": 4}, "points": None})
    module = Finetuned(task, PlaceEncoder(), 1).eval()
    count = len(task.names)
    matrix = np.zeros((count + 1, count + 1), int)
    right = known = 0
    for index in dataset.indices("test").tolist():
        for sample in task.seen(dataset, index, config.viewing(), 0):
            with torch.no_grad():
                called = module.head(torch.from_numpy(sample["points"])).argmax(-1).numpy()
            matrix += confusion(sample["label"], called, count + 1)
            right += int((sample["label"] == called).sum())
            known += int(((sample["label"] >= 0) & (sample["label"] < count)).sum())
    rows = _score(module, config, dataset, dataset.indices("test"), World())
    miou, accuracy = task.metrics(rows)
    assert miou.value == pytest.approx(mean_iou(matrix, [count], absent, points))
    assert accuracy.value == pytest.approx(right / known)
    assert rows[:, 1].sum() == known
    assert miou.details["labels_without_test_points"] == ["tail"]
    constant = np.zeros_like(matrix)
    constant[:, task.commonest] = matrix.sum(1)
    assert miou.chance == pytest.approx(mean_iou(constant, [count], absent, points))
    assert len(miou.scores) == len(dataset.indices("test"))


@pytest.mark.parametrize("points", ["left_out", "in_union"])
def test_a_clip_of_ignored_points_alone_counts_in_unions_as_ignored_points_of_other_clips_do(
    points: Any, labelled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset.open(labelled)
    test = dataset.indices("test")
    plain = PointSegmentation.labels

    def labels(task: PointSegmentation, dataset: Dataset, index: int, valid: Any) -> Any:
        found = plain(task, dataset, index, valid)
        return np.where((index == test[0]) & (found >= 0), 2, found)  # the first test clip: ignored points and fillings

    monkeypatch.setattr(PointSegmentation, "labels", labels)
    families = tuple(np.unique(dataset.classes).tolist())
    task = PointSegmentation(PointSegmentationConfig(ignored_points=points), ("arm", "body"), 0, families)
    config = FinetuneConfig.model_validate(VIDEO_CONFIG | {"task": task.config.model_dump(), "augment": {"frames": 4}, "points": None})
    module = Finetuned(task, PlaceEncoder(), 1).eval()
    matrix = np.zeros((3, 3), int)
    for index in test.tolist():
        for sample in task.seen(dataset, index, config.viewing(), 0):
            with torch.no_grad():
                called = module.head(torch.from_numpy(sample["points"])).argmax(-1).numpy()
            matrix += confusion(sample["label"], called, 3)
    assert matrix[2].any()
    miou, _ = _figures(module, config, dataset, Items(test[:0], test[:0], test[:0], test, {}), World(), "random", "")
    assert miou.value == pytest.approx(mean_iou(matrix, [2], points=points))
    assert miou.n == len(test) - (points == "left_out")
    assert miou.details["test_items_without_labels"] == (points == "left_out")


def test_the_loss_is_the_mean_over_labelled_points() -> None:
    task = PointSegmentation(PointSegmentationConfig(ignored=("noise",)), ("a", "b"), 0, ("x",))
    module = Finetuned(task, PlaceEncoder())
    label = torch.tensor([[[0, 1, 2], [1, -1, 0]], [[2, -1, 0], [-1, -1, -1]]])  # 2: ignored
    batch = {"points": torch.randn(2, 2, 3, 3), "label": label}
    loss, terms = module(batch)
    logits, kept = module.logits(batch).flatten(0, 2), torch.where(label == 2, -1, label).flatten()
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, kept, ignore_index=-1))
    assert float(terms["train_accuracy"]) == pytest.approx(float((logits.argmax(1) == kept).sum() / 5))


def test_points_without_labels_and_unknown_names_are_refused(clips_dataset: str, sequence_free: str) -> None:
    dataset = Dataset.open(sequence_free)
    with pytest.raises(ValueError, match=r"has no parts: generate it with points\.parts true"):
        open_task(PointSegmentationConfig(), dataset, dataset.indices("train"))
    dataset = Dataset.open(clips_dataset)
    with pytest.raises(ValueError, match="has the label 'noise'; it has arm, body"):
        open_task(PointSegmentationConfig(ignored=("noise",)), dataset, dataset.indices("train"))
    with pytest.raises(ValueError, match="have 1 label: segmentation needs two"):
        open_task(PointSegmentationConfig(ignored=("arm",)), dataset, dataset.indices("train"))


@pytest.fixture(scope="module")
def sequence_free(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Clips without parts."""
    folder: Path = tmp_path_factory.mktemp("plain")
    return write_clips(folder, train=3, test=0, images=False)
