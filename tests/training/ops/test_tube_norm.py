"""Point 4D convolutions on two workers, each with a slice of the clips: one worker on all of them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from training.ops.point4d import Point4DConv

SLICES = (3, 2)
CASES = {"one layer": (0, (7,)), "two layers": (0, (6, 5)), "features": (4, (6, 5, 7))}


def make(name: str) -> tuple[Point4DConv, Tensor, Tensor | None]:
    torch.manual_seed(0)
    channels, widths = CASES[name]
    conv = Point4DConv(channels, widths, 0.8, 6, 4, 3, 1, (1, 1), norm=True, act=True).double()
    for parameter in conv.parameters():
        nn.init.normal_(parameter)
    grow = torch.linspace(0.5, 2, sum(SLICES)).double().view(-1, 1, 1, 1)  # slices differ in their statistics
    points, features = torch.rand(sum(SLICES), 3, 16, 3).double() * grow, torch.randn(sum(SLICES), 3, 16, 4).double() + grow
    return conv, points, features.requires_grad_() if channels else None


def loss_of(outputs: Tensor) -> Tensor:
    outputs = outputs.flatten(1)
    return (outputs @ outputs.T / 100).tanh().mean() + outputs.sin().mean()


def rank(number: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    for name in CASES:
        conv, points, features = make(name)
        mine = None if features is None else features.detach().split(SLICES)[number].requires_grad_()
        _, local = conv(points.split(SLICES)[number], mine)
        padded = nn.functional.pad(local, (0, 0, 0, 0, 0, 0, 0, SLICES[0] - len(local)))
        everyone = torch.cat([part[:size] for part, size in zip(all_gather(padded), SLICES, strict=True)])
        loss_of(everyone).backward()
        for parameter in conv.parameters():  # what a DDP wrapper does
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
        gradients = [parameter.grad for parameter in conv.parameters()]
        result = {"y": local.detach(), "gradients": gradients, "state": conv.state_dict()}
        torch.save(result | ({} if mine is None else {"features": mine.grad / 2}), folder / f"{name}-{number}.pt")
    dist.destroy_process_group()


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


@pytest.mark.parametrize("name", CASES)
def test_two_workers_on_unequal_slices_are_one_worker(ranks, name):
    conv, points, features = make(name)
    _, y = conv(points, features)
    loss_of(y).backward()
    one, two = (torch.load(ranks / f"{name}-{number}.pt") for number in range(2))
    close = {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(torch.cat([one["y"], two["y"]]), y.detach(), **close)
    if features is not None:
        torch.testing.assert_close(torch.cat([one["features"], two["features"]]), features.grad, **close)
    for result in (one, two):
        torch.testing.assert_close(result["gradients"], [parameter.grad for parameter in conv.parameters()], **close)
        torch.testing.assert_close(result["state"], conv.state_dict(), **close)
    running = [key for key in one["state"] if "running" in key]
    assert all(torch.equal(one["state"][key], two["state"][key]) for key in running)


if __name__ == "__main__":
    rank(int(sys.argv[1]), Path(sys.argv[2]))
