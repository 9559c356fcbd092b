"""Part segmentation: IoU by hand and by loops, predictions within the category, labels by name, and the head as its formula."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.reader import Dataset
from tests.training.finetune_cases import ENCODERS
from training.encoders import build
from training.tasks import Parts, PartsConfig, open_task
from training.tasks.parts import part_iou

CUP = Parts(PartsConfig(embed=8, category=4, hidden=(16, 8)), ("cup", "jug"), (("body", "handle"), ("body", "lid", "spout")), (0, 2))


def test_iou_by_hand() -> None:
    predicted, truth = torch.tensor([[0, 0, 1, 1, 2]]), torch.tensor([[0, 1, 1, -1, -1]])
    # label 0: one point of two; label 1: one of two; label 2: predicted only where there is no truth; label 3: nowhere
    assert part_iou(predicted, truth, 4).tolist() == [[0.5, 0.5, 1.0, 1.0]]


def test_iou_against_sets() -> None:
    rng = np.random.default_rng(0)
    predicted, truth = rng.integers(0, 6, (7, 40)), rng.integers(-1, 6, (7, 40))
    truth[2][truth[2] == 4] = 1
    predicted[2][predicted[2] == 4] = 1
    expected = np.ones((7, 6))
    for i in range(7):
        for label in range(6):
            a = {n for n in range(40) if predicted[i, n] == label and truth[i, n] >= 0}
            b = {n for n in range(40) if truth[i, n] == label}
            if a | b:
                expected[i, label] = len(a & b) / len(a | b)
    np.testing.assert_array_equal(part_iou(torch.from_numpy(predicted), torch.from_numpy(truth), 6).numpy(), expected)


def test_instance_and_class_means_by_hand() -> None:
    # loss, weight, category, IoU of the five labels, the same of a constant prediction; labels of the other category hold nonsense
    rows = np.array(
        [
            [1.0, 4, 0, 1.0, 0.5, 9, 9, 9, 0.5, 0.0, 9, 9, 9],
            [1.0, 4, 0, 0.5, 0.0, 9, 9, 9, 0.5, 0.0, 9, 9, 9],
            [1.0, 4, 1, 9, 9, 0.9, 0.6, 0.0, 9, 9, 0.3, 0.0, 0.0],
        ]
    )
    instance, by_class = CUP.metrics(rows)
    np.testing.assert_allclose(instance.scores, [0.75, 0.25, 0.5])
    assert instance.value == pytest.approx(0.5)
    assert by_class.value == pytest.approx((0.5 + 0.5) / 2)
    assert instance.chance == pytest.approx((0.25 + 0.25 + 0.1) / 3)
    assert by_class.chance == pytest.approx((0.25 + 0.1) / 2)
    cups = instance.details["per_category"]["cup"]
    assert cups == {"miou": pytest.approx(0.5), "items": 2, "parts": {"body": 0.75, "handle": 0.25}}


def test_class_mean_differs_from_instance_mean_for_categories_of_different_size() -> None:
    rows = np.zeros((3, 13))
    rows[:, 2] = [0, 0, 1]
    rows[2, 5:8] = 1.0
    instance, by_class = CUP.metrics(rows)
    assert instance.value == pytest.approx(1 / 3)
    assert by_class.value == pytest.approx(1 / 2)


def test_prediction_is_the_best_label_of_the_category_even_where_another_is_higher() -> None:
    logits = torch.tensor([[[1.0, 2.0, 0.0, 0.5, 9.0]], [[9.0, 0.0, -3.0, -2.0, -4.0]]])
    assert CUP.predict(logits, torch.tensor([0, 1])).tolist() == [[1], [3]]


@pytest.mark.parametrize("loss_over", ["category", "all"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_over_labelled_points_and_the_labels_of_the_category(loss_over: str, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 4, 5, generator=generator, requires_grad=True)
    label, category = torch.tensor([[0, 1, -1, 1], [-1, -1, -1, 4], [-1, -1, -1, -1]]), torch.tensor([0, 1, 1])
    config = PartsConfig.model_validate({"loss_over": loss_over, "label_smoothing": smoothing})
    loss, weight = replace(CUP, config=config).loss(logits, {"label": label, "category": category})
    for i in range(3):
        own = [0, 1] if category[i] == 0 else [2, 3, 4]
        own = own if loss_over == "category" else list(range(5))
        expected = 0.0
        for n in range(4):
            if label[i, n] >= 0:
                p = torch.exp(logits.detach()[i, n, own]) / torch.exp(logits.detach()[i, n, own]).sum()
                target = [(1 - smoothing) * (label[i, n] == k) + smoothing / len(own) for k in own]
                expected -= sum(float(t) * float(torch.log(q)) for t, q in zip(target, p, strict=True))
        assert float(loss.detach()[i]) == pytest.approx(expected, rel=1e-5)
    assert weight.tolist() == [3, 1, 0]
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[2].any()
    assert bool(logits.grad[0, 0, 2:].any()) == (loss_over == "all")


def test_labels_follow_names_whatever_number_a_sample_gives_them(parts_dataset: str) -> None:
    dataset = Dataset.open(parts_dataset)
    train = dataset.indices("train")
    task = open_task(PartsConfig(), dataset, train)
    assert isinstance(task, Parts)
    names = [name for parts in task.parts for name in parts]
    seen: dict[str, dict[str, int]] = {}
    numbers = set()
    for index in range(len(dataset)):
        sample, item = dataset.load(index, ("parts.npy", "json")), task.item(dataset, index)
        own = [sample["json"]["part_names"][number] for number in sample["parts.npy"]]
        numbers |= {(name, own.index(name)) for name in own}
        assert [names[label] for label in item["label"]] == own
        assert {task.categories[task.owner[label]] for label in item["label"]} == {dataset.classes[index]}
        if index in train:
            for name in own:
                counts = seen.setdefault(str(dataset.classes[index]), {})
                counts[name] = counts.get(name, 0) + 1
    assert task.parts == tuple(tuple(sorted(seen[category])) for category in task.categories)
    assert [names[label] for label in task.commonest] == [max(seen[c], key=seen[c].__getitem__) for c in task.categories]


def test_parts_that_training_never_saw_are_left_out(parts_dataset: str) -> None:
    dataset = Dataset.open(parts_dataset)
    task = Parts(PartsConfig(), ("chair", "mug"), (("back", "leg", "seat"), ("cup", "drink", "saucer")), (0, 3))
    for index in range(len(dataset)):
        sample, label = dataset.load(index, ("parts.npy", "json")), task.item(dataset, index)["label"]
        unknown = [sample["json"]["part_names"][number] in ("base", "band", "handle") for number in sample["parts.npy"]]
        np.testing.assert_array_equal(label == -1, unknown)


def test_the_label_space_survives_its_record() -> None:
    assert Parts.from_record(CUP.config, CUP.record()) == CUP


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_every_encoder_gets_logits_for_every_point_in_the_order_of_the_points(kind: str) -> None:
    torch.manual_seed(0)
    encoder = build(ENCODERS[kind])
    head = CUP.head(encoder)
    batch = {"points": torch.randn(3, 40, 3), "category": torch.tensor([0, 1, 1])}
    for _ in range(3):
        CUP.logits(encoder, head, batch, torch.arange(3))  # running statistics
    encoder.eval(), head.eval()
    with torch.no_grad():
        whole = CUP.logits(encoder, head, batch, None)
        alone = CUP.logits(encoder, head, {name: value[1:2] for name, value in batch.items()}, None)
    assert whole.shape == (3, 40, 5)
    torch.testing.assert_close(alone[0], whole[1], rtol=1e-4, atol=1e-5)


def test_the_head_is_its_formula() -> None:
    torch.manual_seed(2)
    config = PartsConfig(embed=8, category=4, hidden=(16, 6), dropout=0.0)
    task = Parts(config, CUP.categories, CUP.parts, CUP.commonest)
    encoder = build(ENCODERS["pointnet"])
    head = task.head(encoder).double().train()
    points, features = torch.randn(2, 11, 3, dtype=torch.float64), torch.randn(2, 11, encoder.point_dim, dtype=torch.float64)
    category = torch.tensor([1, 0])

    def normed(rows: torch.Tensor) -> torch.Tensor:
        return functional.relu((rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt())

    e = normed((torch.cat([features, points], -1) @ head.embed.weight.T).flatten(0, 1)).view(2, 11, -1)
    g = torch.cat([e.amax(1), e.mean(1), head.category.weight[category]], -1)
    first = torch.cat([head.linears[0].weight, head.whole.weight], 1)
    h = normed((torch.cat([e, g[:, None].expand(-1, 11, -1)], -1) @ first.T).flatten(0, 1))
    h = normed(h @ head.linears[1].weight.T)
    expected = (h @ head.last.weight.T + head.last.bias).view(2, 11, -1)
    torch.testing.assert_close(head(points, features, category), expected)
