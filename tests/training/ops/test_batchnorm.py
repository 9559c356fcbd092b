"""Run as a program this file is one of two ranks: it trains each layer below on its slice of a batch and saves what it got."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from training.encoders import DGCNN, DGCNNConfig, PointNet, PointNetConfig
from training.ops.batchnorm import BatchNorm1d, BatchNorm2d, convert, merge_moments
from training.ops.edgeconv import EdgeConv

SLICES = (5, 3)  # of a batch of 8
LAYERS = ("flat", "sequence", "images", "edges", "dgcnn", "pointnet")
EXACT = {torch.float64: 1e-10, torch.float32: 1e-5}


class Flat(nn.Module):
    """Any layer, its output as one row per sample."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).flatten(1)


def make(name: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """A layer and the whole batch, the same in every process."""
    torch.manual_seed(LAYERS.index(name))
    if name == "flat":
        layer, x = BatchNorm1d(6), torch.randn(8, 6, dtype=torch.float64)
    elif name == "sequence":
        layer, x = BatchNorm1d(4, momentum=None), torch.randn(8, 4, 9, dtype=torch.float64)
    elif name == "images":
        layer, x = BatchNorm2d(3, affine=False), torch.randn(8, 3, 5, 4, dtype=torch.float64)
    elif name == "edges":
        layer, x = EdgeConv(3, 7, k=4), torch.randn(8, 20, 3, dtype=torch.float64)
    elif name == "dgcnn":
        layer, x = DGCNN(DGCNNConfig(k=4, widths=(8, 8), embedding=16)), torch.randn(8, 20, 3, dtype=torch.float64)
    else:
        layer, x = PointNet(PointNetConfig(widths=(8, 16))), torch.randn(8, 20, 3, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape) / 2)  # some scales are negative
    x = x * 0.5 + torch.linspace(-1, 2, 8, dtype=torch.float64).view(8, *[1] * (x.dim() - 1))  # slices differ in their means
    return Flat(layer).to(dtype), x.to(dtype)


def loss_of(outputs: Tensor) -> Tensor:
    """Every sample's output matters to every other's, as in a contrastive loss."""
    return (outputs @ outputs.T).tanh().mean() + outputs.sin().mean()


def rank(number: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    train_all(number, folder)  # a function of its own: a DDP wrapper that outlives the process group may never be freed
    dist.destroy_process_group()


def train_all(number: int, folder: Path) -> None:
    for dtype in EXACT:
        for name in LAYERS:
            layer, batch = make(name, dtype)
            x = torch.split(batch, SLICES)[number].clone().requires_grad_()
            wrapped = nn.parallel.DistributedDataParallel(layer) if any(True for _ in layer.parameters()) else layer
            for _ in range(2):
                layer.zero_grad()
                x.grad = None
                local = wrapped(x)
                padded = nn.functional.pad(local, (0, 0, 0, SLICES[0] - len(local)))
                everyone = torch.cat([part[:size] for part, size in zip(all_gather(padded), SLICES, strict=True)])
                loss_of(everyone).backward()
            result = {"y": local.detach(), "x": x.grad / 2, "state": layer.state_dict()}
            result["parameters"] = [parameter.grad for parameter in layer.parameters()]
            torch.save(result, folder / f"{name}-{dtype}-{number}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    processes = [subprocess.Popen([sys.executable, __file__, str(number), str(folder)]) for number in range(2)]
    try:
        assert [process.wait(300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return folder


@pytest.mark.parametrize("dtype", list(EXACT), ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_two_workers_on_unequal_slices_are_one_worker(ranks, name, dtype):
    layer, x = make(name, dtype)
    x.requires_grad_()
    for _ in range(2):
        layer.zero_grad()
        x.grad = None
        y = layer(x)
        loss_of(y).backward()
    one, two = (torch.load(ranks / f"{name}-{dtype}-{number}.pt") for number in range(2))
    close = {"rtol": EXACT[dtype], "atol": EXACT[dtype]}
    torch.testing.assert_close(torch.cat([one["y"], two["y"]]), y.detach(), **close)
    torch.testing.assert_close(torch.cat([one["x"], two["x"]]), x.grad, **close)
    for gradients in (one["parameters"], two["parameters"]):
        torch.testing.assert_close(gradients, [parameter.grad for parameter in layer.parameters()], **close)
    for state in (one["state"], two["state"]):
        torch.testing.assert_close(state, layer.state_dict(), **close)
    running = [key for key in one["state"] if "running" in key]
    assert running
    assert all(torch.equal(one["state"][key], two["state"][key]) for key in running)


@pytest.mark.parametrize(("ours", "theirs", "shape"), [(BatchNorm1d, nn.BatchNorm1d, (7, 5)), (BatchNorm2d, nn.BatchNorm2d, (4, 5, 3, 3))])
def test_one_worker_is_torchs_own_batch_norm(ours, theirs, shape):
    a, b = ours(5), theirs(5)
    assert a.state_dict().keys() == b.state_dict().keys()
    a.load_state_dict(b.state_dict())
    x = torch.randn(shape)
    for train in (True, False):
        torch.testing.assert_close(a.train(train)(x), b.train(train)(x), rtol=0, atol=0)


def test_converting_keeps_parameters_names_and_outputs():
    inner = nn.BatchNorm2d(4, eps=1e-3, momentum=0.3)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(inner, nn.ReLU()), nn.Flatten(), nn.BatchNorm1d(16, affine=False).eval())
    x, names = torch.randn(5, 3, 4, 4), list(network.state_dict())
    expected = network(x)
    inner.reset_running_stats()
    assert convert(network) is network
    assert list(network.state_dict()) == names
    assert [type(network[1][0]), type(network[3])] == [BatchNorm2d, BatchNorm1d]
    assert network[1][0].weight is inner.weight
    assert not network[3].training
    torch.testing.assert_close(network(x), expected, rtol=0, atol=0)
    assert network[1][0].momentum == 0.3


def test_moments_of_parts_merge_without_cancelling():
    values = np.random.default_rng(0).normal(1e6, 1e-2, (1000, 3))
    parts = np.split(values, [1, 400, 400, 990])  # one of them empty
    counts = torch.tensor([float(len(part)) for part in parts], dtype=torch.float64)
    means = torch.stack([torch.tensor(part.mean(0) if len(part) else np.zeros(3)) for part in parts])
    m2s = torch.stack([torch.tensor(((part - part.mean(0)) ** 2).sum(0) if len(part) else np.zeros(3)) for part in parts])
    count, mean, m2 = merge_moments(counts, means, m2s)
    assert float(count) == 1000
    np.testing.assert_allclose(mean.numpy(), values.mean(0), rtol=1e-14)
    np.testing.assert_allclose(m2.numpy() / 1000, values.var(0), rtol=1e-6)


if __name__ == "__main__":
    rank(int(sys.argv[1]), Path(sys.argv[2]))
