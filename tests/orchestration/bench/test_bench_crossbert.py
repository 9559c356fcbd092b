import copy

import pytest
import torch

from orchestration.bench import crossbert as bench
from training.encoders import PointTransformerConfig, ViTConfig
from training.encoders.fusion import FusionConfig
from training.objectives.crossbert import Alignment, CrossBertConfig
from training.tokenizer.dvae import DVAEConfig
from training.tokenizer.train import TokenizerConfig

PATCHES = {"groups": 8, "group_size": 8, "patch_widths": (8, 16, 32), "patch_feature": 16}
MODEL = DVAEConfig(**PATCHES, vocabulary=32, codebook=16, dgcnn_in=16, dgcnn_widths=(16, 16, 16, 32), k=3, decoder=32)
TINY = (
    CrossBertConfig(
        alignment=Alignment(width=16, queue=64),
        fusion=FusionConfig(depth=2, heads=2),
        image=ViTConfig(size=32, width=32, depth=2, heads=2),
        tokenizer=TokenizerConfig(model=MODEL),
    ),
    PointTransformerConfig(**PATCHES, width=32, depth=2, heads=2),
    128,
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "configs", lambda size: TINY)
    torch.manual_seed(0)


@pytest.mark.parametrize("which", [0, 1], ids=["tokenizer", "crossbert"])
def test_plain_and_ours_have_the_same_loss_and_gradients(tiny, which):
    _, module, batch = list(bench._steps("small", 4, "cpu"))[which]
    module = module.double()
    batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    module.progress = 0.5
    other = copy.deepcopy(module)
    loss, _ = module(batch)
    loss.backward()
    with bench.plain():
        expected, _ = other(batch)
        expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=0)
    theirs = {name: parameter.grad for name, parameter in other.named_parameters() if parameter.grad is not None}
    norm = float(torch.stack([grad.norm() for grad in theirs.values()]).norm())
    found = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-10 * norm)
    torch.testing.assert_close(dict(module.named_buffers()), dict(other.named_buffers()), rtol=1e-8, atol=1e-10)


def test_plain_is_over_where_it_ends():
    names = [(bench.transformer, "attend"), (bench.PatchPointNet, "forward"), (bench.CrossBert, "_predict")]
    before = [getattr(*name) for name in names]
    with bench.plain():
        assert all(now is not then for now, then in zip((getattr(*name) for name in names), before, strict=True))
    assert [getattr(*name) for name in names] == before


def test_every_subject_has_both_rows_and_steps_a_rate(tiny):
    rows = bench.bench_crossbert(clouds=3, repeats=1)
    assert [row["candidate"] for row in rows] == ["plain", "ours"] * 7
    assert all(row["ratio"] == 1 for row in rows[::2])
    for row in rows:
        assert (row["samples_per_s"] is None) == ("step" not in row["subject"])
        if "step" in row["subject"]:
            assert row["samples_per_s"] == pytest.approx(3e3 / row["ms"])
