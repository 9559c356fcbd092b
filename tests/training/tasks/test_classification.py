"""Classification: figures by hand, the sizes of two published classifiers, and dropout that belongs to the sample."""

import numpy as np
import pytest
import torch

from tests.training.finetune_cases import ENCODERS
from training.encoders import PointTransformerConfig, build
from training.noise import key_for
from training.tasks import Classification, ClassificationConfig
from training.tasks.classification import ClassificationHead
from training.tasks.layers import dropout

PETS = Classification(ClassificationConfig(hidden=(16, 8)), ("cat", "dog", "owl"), 1)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def forty(config: ClassificationConfig) -> Classification:
    return Classification(config, tuple(f"{i:02d}" for i in range(40)), 0)


@pytest.mark.parametrize(
    ("feature", "config", "count"),
    [
        (384, ClassificationConfig(), 22_099_752),
        (256, ClassificationConfig(hidden=(256,), norm=False), 22_065_960),
    ],
)
def test_parameter_counts_of_the_published_classifiers(feature: int, config: ClassificationConfig, count: int) -> None:
    encoder = build(PointTransformerConfig(patch_feature=feature))
    assert parameters(encoder) + parameters(forty(config).head(encoder)) == count


def test_accuracies_by_hand() -> None:
    # truth cat cat cat dog; owl does not occur, though it is predicted once
    rows = np.array([[0.1, 1, 0, 0], [0.1, 1, 0, 0], [0.1, 1, 0, 2], [0.1, 1, 1, 1]])
    accuracy, by_class = PETS.metrics(rows)
    assert accuracy.value == pytest.approx(3 / 4)
    assert by_class.value == pytest.approx((2 / 3 + 1) / 2)
    assert accuracy.chance == pytest.approx(1 / 4)  # always dog
    assert by_class.chance == pytest.approx(1 / 2)
    assert accuracy.details["per_class"] == {"cat": pytest.approx(2 / 3), "dog": 1.0}


def test_smoothed_labels_share_the_rest_among_all_classes() -> None:
    task = Classification(ClassificationConfig(label_smoothing=0.3), PETS.classes, 0)
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    loss, weight = task.loss(logits, {"label": torch.tensor([2])})
    log = torch.log_softmax(logits[0], 0)
    assert float(loss) == pytest.approx(-float(0.1 * log[0] + 0.1 * log[1] + 0.8 * log[2]), rel=1e-6)
    assert weight.tolist() == [1]


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_every_encoder_gets_logits_that_no_neighbour_changes(kind: str) -> None:
    torch.manual_seed(0)
    encoder = build(ENCODERS[kind])
    head = PETS.head(encoder)
    points, keys = torch.randn(4, 40, 3), torch.arange(4)
    PETS.logits(encoder, head, {"points": points}, keys)
    encoder.eval(), head.eval()
    with torch.no_grad():
        whole = PETS.logits(encoder, head, {"points": points}, keys)
        alone = PETS.logits(encoder, head, {"points": points[2:3]}, None)
    assert whole.shape == (4, 3)
    torch.testing.assert_close(alone[0], whole[2], rtol=1e-4, atol=1e-5)


def test_dropout_belongs_to_the_sample() -> None:
    keys = torch.tensor([key_for(0, 0, f"sample{i}") for i in range(64)])
    x = torch.ones(64, 50, 20)
    dropped = dropout(x, 0.3, keys, 0)
    assert torch.equal(dropped[5], dropout(x[5:6], 0.3, keys[5:6], 0)[0])
    assert not torch.equal(dropped[5], dropped[6])
    assert not torch.equal(dropped, dropout(x, 0.3, keys, 1))
    assert set(dropped.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.7)}
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=5 * (0.21 / 64_000) ** 0.5)


def test_the_head_tells_features_apart_beside_a_large_common_part_under_bf16() -> None:
    torch.manual_seed(0)
    head = ClassificationHead((16,), False, 0.0, 32, 4).eval()
    common, seen = 100 * torch.randn(32), torch.randn(8, 32)
    with torch.no_grad():
        exact = head(common + seen) - head(common.expand(1, 32))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = head(common + seen) - head(common.expand(1, 32))
    torch.testing.assert_close(found, exact, rtol=0, atol=0.01 * float(exact.abs().mean()))
