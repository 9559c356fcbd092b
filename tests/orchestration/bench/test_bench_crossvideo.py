import pytest
import torch

from orchestration.bench import crossvideo as bench
from training.encoders.p4transformer import P4TransformerConfig
from training.ops.point4d import Point4DConv

TINY = P4TransformerConfig(radius=0.5, neighbours=4, spatial_stride=8, width=8, depth=1, heads=2, head_dim=4, mlp_width=16)


@pytest.mark.parametrize(("channels", "widths", "kernel"), [(0, (7,), 3), (4, (6, 5), 3), (4, (6, 5), 1)])
def test_plain_and_ours_have_the_same_values_and_gradients(channels, widths, kernel):
    torch.manual_seed(0)
    conv = Point4DConv(channels, widths, 0.5, 6, 4, kernel, padding=(kernel // 2, kernel // 2), act=True).double()
    points = torch.rand(2, 4, 40, 3, dtype=torch.float64)
    features = torch.randn(2, 4, 40, channels, dtype=torch.float64) if channels else None
    results = []
    for route in (conv, lambda *inputs: bench.plain_conv(conv, *inputs)):
        anchors, out = route(points, features)
        results.append((anchors, out, *torch.autograd.grad(out.square().sum(), conv.parameters())))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_on_one_anchor_frame_and_kernel_1_norms_agree_too():
    torch.manual_seed(0)
    conv = Point4DConv(0, (6, 5), 0.5, 6, 4, 1, norm=True, act=True).double()
    points = torch.rand(2, 1, 40, 3, dtype=torch.float64)
    torch.testing.assert_close(bench.plain_conv(conv, points), conv(points), rtol=1e-9, atol=1e-9)


def test_every_subject_has_both_rows(monkeypatch):
    monkeypatch.setattr(bench, "configs", lambda size: (TINY, 4, 32))
    rows = bench.bench_crossvideo(clips=2, repeats=1)
    assert [row["candidate"] for row in rows] == ["plain", "ours"] * 6
    assert {row["ratio"] for row in rows if row["candidate"] == "plain"} == {1.0}


def test_plain_is_over_where_it_ends():
    before = Point4DConv.forward
    bench._plainly(lambda: None)
    assert Point4DConv.forward is before
