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


def test_a_flip_mirrors_every_point_of_every_frame_under_its_label(labelled: str) -> None:
    task, dataset = opened(labelled)
    still = {"rotation": "none", "scale": [1.0, 1.0], "translate": 0.0, "jitter_sigma": 0.0, "normalise": "none", "features": ["part"]}
    plain, flipped = (
        task.drawn(dataset, 1, Viewing(ClipAugment.model_validate({"frames": 3, "flip": flip, **still}), 20, 0), 4) for flip in (0, 1)
    )
    np.testing.assert_array_equal(flipped["points"], plain["points"] * np.array([-1, 1, 1, 1], np.float32))
    np.testing.assert_array_equal(flipped["label"], plain["label"])


def test_points_that_fill_up_and_frames_that_repeat_have_no_label(labelled: str) -> None:
    task, dataset = opened(labelled)
    whole = Viewing(ClipAugment(frames=3), None, 0)
    stored = dataset.load(0, ("valid.npy",))["valid.npy"]
    counted = sum(int((item["label"] >= 0).sum()) for item in task.seen(dataset, 0, whole, 0))
    assert counted == stored.sum()
    long = Viewing(ClipAugment(frames=16), None, 0)
    (item,) = task.seen(dataset, 0, long, 0)
    assert (item["label"] >= 0).any(axis=1).tolist() == [True] * len(stored) + [False] * (16 - len(stored))


def mean_iou(truth: np.ndarray, called: np.ndarray, count: int, absent: str, points: str) -> float:
    """Of points, label by label; truth −1: none, `count`: an ignored one."""
    known = (truth >= 0) & ((truth < count) | (points == "in_union"))
    found = []
    for label in range(count):
        so, so_called = truth[known] == label, called[known] == label
        if so.any() or absent == "zero":
            found.append((so & so_called).sum() / max((so | so_called).sum(), 1))
    return float(np.mean(found))


def figure(truth: list[int], called: list[int], names: tuple[str, ...], **config: Any) -> float:
    """mIoU of one clip of these points."""
    task = PointSegmentation(PointSegmentationConfig(**config), names, 0, ("x",))
    batch = {"label": torch.tensor(truth)[None, None], "short": torch.tensor([False])}
    logits = nn.functional.one_hot(torch.tensor(called), len(names)).float()[None, None]
    return task.metrics(task.scored([[task.kept(logits, batch)[0]]], []).numpy())[0].value


def test_a_label_without_true_points_is_left_out_or_is_zero() -> None:
    truth, called, names = [0, 0, 1, 1, -1], [0, 2, 1, 1, 1], ("a", "b", "c", "d")
    assert figure(truth, called, names) == pytest.approx((1 / 2 + 1) / 2)
    assert figure(truth, called, names, absent="zero") == pytest.approx((1 / 2 + 1) / 4)


def test_points_of_ignored_labels_count_nowhere_or_in_the_union_of_what_they_are_called() -> None:
    truth, called, names = [2, 2, 0, 0, 1, 1], [0, 1, 0, 0, 1, 0], ("a", "b")
    assert figure(truth, called, names) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert figure(truth, called, names, ignored_points="in_union") == pytest.approx((2 / 4 + 1 / 3) / 2)
    # an ignored label is no absent one
    assert figure(truth, called, names, absent="zero") == pytest.approx((2 / 3 + 1 / 2) / 2)


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
    labels, answers = [], []
    for index in dataset.indices("test").tolist():
        for sample in task.seen(dataset, index, config.viewing(), 0):
            with torch.no_grad():
                called = module.head(torch.from_numpy(sample["points"])).argmax(-1).numpy()
            labels.append(sample["label"].ravel())
            answers.append(called.ravel())
    truth, answer = np.concatenate(labels), np.concatenate(answers)
    known = (truth >= 0) & (truth < count)
    rows = _score(module, config, dataset, dataset.indices("test"), World())
    miou, accuracy = task.metrics(rows)
    assert miou.value == pytest.approx(mean_iou(truth, answer, count, absent, points))
    assert accuracy.value == pytest.approx((truth == answer)[known].mean())
    assert rows[:, 1].sum() == known.sum()
    assert miou.details["labels_without_test_points"] == ["tail"]
    constant = np.full_like(truth, task.commonest)
    assert miou.chance == pytest.approx(mean_iou(truth, constant, count, absent, points))
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
    truth, answers = [], []
    for index in test.tolist():
        for sample in task.seen(dataset, index, config.viewing(), 0):
            with torch.no_grad():
                called = module.head(torch.from_numpy(sample["points"])).argmax(-1).numpy()
            truth.append(sample["label"].ravel())
            answers.append(called.ravel())
    assert (np.concatenate(truth) == 2).any()
    miou, _ = _figures(module, config, dataset, Items(test[:0], test[:0], test[:0], test, {}), World(), "random", "")
    assert miou.value == pytest.approx(mean_iou(np.concatenate(truth), np.concatenate(answers), 2, "exclude", points))
    assert miou.n == len(test) - (points == "left_out")
    assert miou.details["test_items_without_labels"] == 1


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
