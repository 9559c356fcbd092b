import pytest
import torch
from torch import nn

from orchestration.bench import train
from training.encoders import DGCNN, DGCNNConfig, PointNet, PointNetConfig, ResNetConfig
from training.ops.edgeconv import edge_conv
from training.ops.neighbors import knn


def test_the_candidates_compute_the_same():
    torch.manual_seed(0)
    x = torch.randn(2, 40, 5, dtype=torch.float64)
    near, weight = knn(x, 4), torch.randn(7, 10, dtype=torch.float64)
    values = [
        route(x, near, weight, nn.BatchNorm2d(7).double())
        for route in (train.usual_edge_conv, train._channels_last_edge_conv, train._torch_edge_conv, edge_conv)
    ]
    for other in values[1:]:
        torch.testing.assert_close(other, values[0], rtol=1e-10, atol=1e-10)
    points = torch.randn(2, 40, 3, dtype=torch.float64)
    for encoder, usual in (
        (DGCNN(DGCNNConfig(k=4, widths=(8, 8), embedding=16)), train._usual_dgcnn),
        (PointNet(PointNetConfig(widths=(8, 16))), train._usual_pointnet),
    ):
        torch.testing.assert_close(usual(encoder.double(), points), encoder(points), rtol=1e-9, atol=1e-9)


def test_peak_memory_counts_what_lives_at_the_same_time():
    def run() -> None:
        first = torch.zeros(1000, dtype=torch.float64)
        second = first + 1
        del first, second
        torch.zeros(500, dtype=torch.float64)

    assert 16_000 <= train._peak_bytes(run, "cpu") < 17_000


def test_every_subject_has_a_row_for_each_candidate_and_the_usual_one_is_the_measure():
    rows = train.bench_ops(clouds=2, points=24, k=3, repeats=2)
    for subject in {row["subject"] for row in rows}:
        mine = [row for row in rows if row["subject"] == subject]
        assert mine[0]["ratio"] == 1
        assert mine[-1]["candidate"] == "ours"


def test_the_branches_shares_make_a_whole():
    rows = train.bench_branches(PointNetConfig(widths=(8, 16)), ResNetConfig(depth=10, width=8), size=32, objects=2, points=32, repeats=2)
    assert [row["branch"] for row in rows] == ["points", "images", "optimiser", "step"]
    assert sum(row["share"] for row in rows[:3]) == pytest.approx(1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said():
    with pytest.raises(ValueError, match="cuda"):
        train.bench_ops(device="cuda")
