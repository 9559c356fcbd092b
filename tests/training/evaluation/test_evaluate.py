import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.augment import ImageAugment
from training.evaluation.bootstrap import compare
from training.evaluation.evaluate import EvaluateConfig, Gathered, check, evaluate
from training.evaluation.fewshot import FewShot
from training.evaluation.figure import Figure

CLASSES = ("bar", "cube", "plate", "only-train", "only-test")
SETTING = FewShot(ways=2, shots=4, queries=5, runs=8)
CONFIG = EvaluateConfig(fewshot=(SETTING,), batch=7, recall=(1, 5))


class Boxes:
    """Boxes in memory: three classes with their own proportions in both splits, and one class in each split alone.

    The picture of a box shows its three sides as the brightness of the colours.
    """

    uri, fingerprint = "memory", "data"

    def __init__(self, shuffled: bool = False, per_class: int = 12) -> None:
        rng = np.random.default_rng(0)
        proportions = {
            "bar": (1, 0.1, 0.1),
            "cube": (1, 1, 1),
            "plate": (1, 1, 0.1),
            "only-train": (1, 0.5, 0.5),
            "only-test": (1, 0.5, 0.1),
        }
        rows = [
            (name, split) for name in CLASSES for split in ("train", "test") if name not in {"only-train", "only-test"} - {f"only-{split}"}
        ]
        rows = [row for row in rows for _ in range(per_class)]
        self.sides = np.array([proportions[name] for name, _ in rows]) * rng.uniform(0.8, 1.2, (len(rows), 3))
        self.points = (rng.uniform(-1, 1, (len(rows), 64, 3)) * self.sides[:, None]).astype(np.float32)
        self.classes = np.array([name for name, _ in rows])
        if shuffled:
            self.classes = rng.permutation(self.classes)
        self.splits = np.array([split for _, split in rows])
        self.keys = [f"box-{i:03}" for i in range(len(rows))]
        self.table = pa.table({"sha256": [f"{i:064x}" for i in range(len(rows))]})
        self.opened: list[int] = []

    def indices(self, split: str) -> NDArray[np.int64]:
        return np.flatnonzero(self.splits == split)

    def members(self, index: int) -> tuple[str, ...]:
        return ("points.npy", "v00.png", "v01.png")

    def load(self, index: int, members: tuple[str, ...]) -> dict[str, np.ndarray]:
        self.opened.append(index)
        picture = np.broadcast_to((self.sides[index] * 200).clip(0, 255).astype(np.uint8), (8, 8, 3))
        return {m: self.points[index] if m == "points.npy" else picture.copy() for m in members}


class Spread(nn.Module):
    """Deviation along each axis: good features of a box as long as it stays upright."""

    def forward(self, points: Tensor) -> Tensor:
        return points.std(1)


class Brightness(nn.Module):
    """The sides that a picture shows, in the units of `Spread` up to a factor."""

    def forward(self, image: Tensor) -> Tensor:
        std, mean = torch.tensor([0.229, 0.224, 0.225]), torch.tensor([0.485, 0.456, 0.406])
        return image.mean((2, 3)) * std + mean


def run(dataset: Boxes, config: EvaluateConfig = CONFIG, encoder: nn.Module | None = None, **more: object) -> dict[str, Figure]:
    arguments = {"point_head": nn.Identity(), "image_branch": Brightness(), "image": ImageAugment(size=8), **more}
    figures = evaluate(encoder or Spread(), dataset, config, weights="pretrained", fingerprint="weights", **arguments)  # type: ignore[arg-type]
    assert len({figure.name for figure in figures}) == len(figures)
    return {figure.name: figure for figure in figures}


def test_every_figure_has_its_family_tree() -> None:
    figures = run(Boxes())
    names = ["svm.accuracy", "svm.accuracy_C0.1", "svm.accuracy_C0.01", "knn.accuracy", "fewshot.2w4s5q"]
    names += [f"retrieval.{way}@{k}" for way in ("point_to_image", "image_to_point") for k in (1, 5)]
    assert list(figures) == names + [f"{name}.turned" for name in names]
    for figure in figures.values():
        assert (figure.encoder_fingerprint, figure.dataset_fingerprint, figure.weights, figure.split) == (
            "weights",
            "data",
            "pretrained",
            "test",
        )
        assert figure.value == pytest.approx(np.mean(figure.details["scores"]))
        assert figure.n == len(figure.details["scores"])
        assert 0 <= figure.value <= 1
        assert figure.chance is not None
        assert Figure(**json.loads(json.dumps(figure.record()))) == figure


def test_good_features_are_good_upright_and_worse_turned() -> None:
    figures = run(Boxes())
    assert figures["svm.accuracy"].value > 0.95
    assert figures["knn.accuracy"].value > 0.95
    assert figures["fewshot.2w4s5q"].value > 0.95
    assert figures["retrieval.point_to_image@5"].value > 4 * figures["retrieval.point_to_image@5"].chance
    assert figures["knn.accuracy.turned"].value < figures["knn.accuracy"].value
    assert figures["retrieval.point_to_image@5.turned"].value < figures["retrieval.point_to_image@5"].value
    difference = compare(figures["svm.accuracy"], run(Boxes(), encoder=nn.Sequential(Spread(), nn.Threshold(9, 0)))["svm.accuracy"])
    assert difference.low > 0.4


def test_classes_of_one_split_are_left_out_and_named() -> None:
    figure = run(Boxes())["svm.accuracy"]
    assert figure.details["left_out_classes"] == ["only-test", "only-train"]
    assert (figure.n, figure.details["training_items"], figure.details["classes"]) == (36, 36, 3)
    assert figure.chance == pytest.approx(1 / 3)
    assert run(Boxes())["fewshot.2w4s5q"].details["skipped_classes"] == ["only-test", "only-train"]
    assert run(Boxes())["retrieval.image_to_point@1"].n == 48


def test_items_of_the_training_split_are_left_out_of_the_test() -> None:
    dataset = Boxes()
    contents = dataset.table["sha256"].to_pylist()
    copied = [int(i) for i in dataset.indices("test")[:3]]
    for place, index in enumerate(copied):
        contents[index] = contents[int(dataset.indices("train")[place])]
    dataset.table = pa.table({"sha256": contents})
    figures = run(dataset)
    assert figures["svm.accuracy"].n == 33
    assert figures["retrieval.point_to_image@1"].n == 45
    assert figures["svm.accuracy"].details["left_out_as_training_items"] == [dataset.keys[i] for i in copied]
    assert not set(copied) & set(dataset.opened)


def test_random_labels_give_chance() -> None:
    dataset = Boxes(shuffled=True, per_class=60)
    figures = run(dataset, CONFIG.model_copy(update={"protocols": ("svm", "knn", "fewshot"), "turned": (False,)}))
    classes = figures["svm.accuracy"].details["classes"]
    for name in ("svm.accuracy", "knn.accuracy"):
        assert abs(figures[name].value - 1 / classes) < 4 * np.sqrt(0.25 / figures[name].n)
    assert abs(figures["fewshot.2w4s5q"].value - 0.5) < 0.2


def test_nothing_is_chosen_on_the_test_split() -> None:
    dataset, other = Boxes(), Boxes()
    test = other.indices("test")
    other.classes[test] = np.random.default_rng(1).permutation(other.classes[test])
    first, second = run(dataset), run(other)
    for name, choice in (("svm.accuracy", "C"), ("knn.accuracy", "k")):
        assert first[name].details[choice] == second[name].details[choice]
        assert first[name].details["validation"] == second[name].details["validation"]
        assert first[name].value != second[name].value


def test_figures_repeat_and_no_batch_matters() -> None:
    first = run(Boxes())
    assert run(Boxes(), CONFIG.model_copy(update={"batch": 64})) == first


def test_pretrained_and_random_meet_the_same_clouds() -> None:
    seen: list[list[Tensor]] = []

    class Watching(Spread):
        def forward(self, points: Tensor) -> Tensor:
            seen[-1].append(points.clone())
            return super().forward(points)

    for _ in range(2):
        seen.append([])
        run(Boxes(), encoder=Watching())
    assert torch.equal(torch.cat(seen[0]), torch.cat(seen[1]))


def test_what_the_figures_come_from_can_be_kept() -> None:
    kept: list[Gathered] = []
    run(Boxes(), keep=kept.append)
    still, turned = kept
    assert (still.turned, turned.turned) == (False, True)
    assert still.train_features.shape == (48, 3)
    assert still.test_features.shape == (48, 3)
    assert [still.classes[label] for label in still.test_labels] == Boxes().classes[still.test].tolist()
    np.testing.assert_array_equal(still.image_embeddings, turned.image_embeddings)
    assert np.abs(still.test_features - turned.test_features).max() > 0.1


def test_errors_come_before_the_encoder_runs() -> None:
    class Never(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            raise AssertionError("the encoder ran")

    dataset = Boxes()
    with pytest.raises(ValueError, match="few-shot 5w4s5q: 3 of 5 classes have 4 training and 5 test items, 5 are needed"):
        run(dataset, CONFIG.model_copy(update={"fewshot": (SETTING.model_copy(update={"ways": 5}),)}), Never())
    with pytest.raises(ValueError, match="retrieval needs the projections of a pretraining"):
        run(dataset, encoder=Never(), point_head=None)
    with pytest.raises(ValueError, match="has no samples in the split 'val'"):
        run(dataset, CONFIG.model_copy(update={"test_split": "val"}), Never())
    dataset.classes[dataset.indices("test")] = "else"
    with pytest.raises(ValueError, match="share 0 classes"):
        check(dataset, CONFIG.model_copy(update={"protocols": ("knn",)}))
    with pytest.raises(ValueError, match="share 0 classes"):
        run(dataset, CONFIG.model_copy(update={"protocols": ("svm",)}), Never())
