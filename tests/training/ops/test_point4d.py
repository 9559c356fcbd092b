"""Point 4D convolution against loops over frames, anchors and points, and its properties (methods-C, C.5, 1 to 4)."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from training.ops.point4d import Point4DConv

POOLS = ("max", "sum", "mean")
OPTIONS = {"radius": 0.6, "neighbours": 5, "spatial_stride": 3}
TIMES = [  # kernel, stride, pad, frames
    (1, 1, (0, 0), 3),
    (1, 2, (0, 0), 5),
    (1, 1, (1, 2), 2),
    (3, 1, (0, 0), 4),
    (3, 1, (1, 1), 4),
    (3, 2, (1, 0), 4),
    (3, 2, (0, 0), 5),
    (3, 1, (2, 1), 3),
]


def grid(*shape: int, seed: int = 0) -> Tensor:
    """Coordinates whose squared distances are exact in float32: no ball and no farthest point depends on rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1024, 1025, shape, generator=generator).double() / 1024


def loop_farthest(points: Tensor, count: int, skip: bool) -> list[int]:
    rows = points.tolist()
    found, distances = [0], [float("inf")] * len(rows)
    while len(found) < count:
        best, farthest = -1.0, 0
        for j, row in enumerate(rows):
            if skip and sum(x * x for x in row) <= 1e-3:
                continue
            distances[j] = min(distances[j], squared(row, rows[found[-1]]))
            if distances[j] > best:
                best, farthest = distances[j], j
        found.append(farthest)
    return found


def loop_ball(points: Tensor, centre: Tensor, radius: float, k: int) -> list[int]:
    inside = [j for j, row in enumerate(points.tolist()) if squared(row, centre.tolist()) < radius * radius][:k]
    return (inside + [inside[0] if inside else 0] * k)[:k]


def squared(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def reference(conv: Point4DConv, points: Tensor, features: Tensor | None, *, mode: str, pools: tuple[str, str], skip: bool = False):
    """Frame by frame and anchor by anchor; then every layer on the tensor of all neighbours."""
    (p0, p1), k, stride = conv.padding, conv.kernel, conv.temporal_stride
    blank = None if features is None else torch.zeros_like(features[:, 0])
    frames = list(points.unbind(1))
    contents = [None] * len(frames) if features is None else list(features.unbind(1))
    if mode == "zeros":
        none = torch.zeros_like(frames[0])
        frames, contents = [none] * p0 + frames + [none] * p1, [blank] * p0 + contents + [blank] * p1
    else:
        frames = [frames[0]] * p0 + frames + [frames[-1]] * p1
        contents = [contents[0]] * p0 + contents + [contents[-1]] * p1
    anchors, moves, near = [], [], []
    for b in range(len(points)):
        for a in range(k // 2, len(frames) - k // 2, stride):
            own = frames[a][b]
            for g in loop_farthest(own, len(own) // conv.spatial_stride, skip):
                anchors.append(own[g])
                for i in range(a - k // 2, a + k // 2 + 1):
                    for j in loop_ball(frames[i][b], own[g], conv.radius, conv.neighbours):
                        moves.append(torch.cat([frames[i][b, j] - own[g], own.new_tensor([i - a])]))
                        near.append(None if features is None else contents[i][b, j])
    number = points.shape[2] // conv.spatial_stride
    h = activated(conv, conv.conv_d(torch.stack(moves)), conv.norm_d)
    if features is not None:
        f = activated(conv, conv.conv_f(torch.stack(near)), conv.norm_f)
        h = h + f if conv.operation == "add" else h * f
    for layer, norm in zip(conv.layers, conv.norms, strict=True):
        h = activated(conv, layer(h), norm if isinstance(norm, nn.BatchNorm1d) else None)
    h = h.view(len(points), -1, number, k, conv.neighbours, h.shape[-1])
    for axis, pool in ((4, pools[0]), (3, pools[1])):
        h = h.max(axis).values if pool == "max" else getattr(h, pool)(axis)
    return torch.stack(anchors).view(*h.shape[:3], 3), h


def activated(conv: Point4DConv, h: Tensor, norm: nn.BatchNorm1d | None) -> Tensor:
    if norm is not None:
        h = (h - h.mean(0)) / (h.var(0, correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
    return h.relu() if conv.act else h


def make(channels: int, widths: tuple[int, ...], kernel: int, stride: int, padding: tuple[int, int], **options) -> Point4DConv:
    torch.manual_seed(1)
    conv = Point4DConv(channels, widths, kernel=kernel, temporal_stride=stride, padding=padding, **{**OPTIONS, **options}).double()
    for name, parameter in conv.named_parameters():
        if "norm" in name:  # scales of both signs
            nn.init.normal_(parameter)
    return conv


def agree(conv: Point4DConv, points: Tensor, features: Tensor | None, *, dtype=torch.float64, moving: bool = False, **how) -> None:
    """Values, and gradients to parameters, features and, where `moving`, points."""
    theirs = [x if x is None else x.clone().requires_grad_() for x in (points, features)]
    anchors, expected = reference(conv, *theirs, **how)
    towards = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    leaves = [x for x in (theirs[1], theirs[0] if moving else None) if x is not None]
    wanted = torch.autograd.grad((expected * towards).sum(), [*conv.parameters(), *leaves])
    ours = conv.to(dtype)
    mine = [x if x is None else x.clone().to(dtype).requires_grad_(moving or x is features) for x in (points, features)]
    places, found = ours(*mine)
    leaves = [x for x in (mine[1], mine[0] if moving else None) if x is not None]
    got = torch.autograd.grad((found * towards.to(dtype)).sum(), [*ours.parameters(), *leaves])
    assert torch.equal(places.double(), anchors)
    bound = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(
        found.detach().double(), expected.detach(), rtol=bound, atol=bound * max(1.0, float(expected.detach().abs().max()))
    )
    # of the whole gradient: a norm's shift before another norm has one of exactly zero
    largest = max(1.0, *(float(b.abs().max()) for b in wanted))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=bound, atol=bound * largest)


@pytest.mark.parametrize("mode", ["replicate", "zeros"])
@pytest.mark.parametrize(("kernel", "stride", "padding", "frames"), TIMES)
def test_equals_the_loop_for_every_kernel_stride_and_pad(kernel, stride, padding, frames, mode):
    points, features = grid(2, frames, 13, 3), grid(2, frames, 13, 4, seed=1)
    for channels, widths, norm, pools in product((0, 4), ((5,), (6, 5)), (False, True), (("max", "max"), ("max", "sum"))):
        how = {"spatial_pool": pools[0], "temporal_pool": pools[1], "norm": norm, "act": norm}
        for dtype, moving in ((torch.float64, False), (torch.float64, True), (torch.float32, False)):
            conv = make(channels, widths, kernel, stride, padding, padding_mode=mode, **how)
            agree(conv, points, features if channels else None, dtype=dtype, moving=moving, mode=mode, pools=pools)


@pytest.mark.parametrize("pools", list(product(POOLS, POOLS)))
@pytest.mark.parametrize(("norm", "act"), list(product((False, True), (False, True))))
def test_equals_the_loop_for_every_layer_and_pool(norm, act, pools):
    points, features = grid(2, 4, 13, 3), grid(2, 4, 13, 4, seed=1)
    how = {"norm": norm, "act": act, "spatial_pool": pools[0], "temporal_pool": pools[1]}
    for channels, operation, widths in (
        (0, "add", (20,)),
        (4, "add", (20,)),
        (4, "mul", (20,)),
        (4, "mul", (20, 7)),
        (4, "add", (6, 5, 7)),
    ):
        for dtype in (torch.float64, torch.float32):
            conv = make(channels, widths, 3, 1, (1, 1), operation=operation, **how)
            agree(conv, points, features if channels else None, dtype=dtype, mode="replicate", pools=pools)


def test_every_clip_length_that_does_not_divide_is_refused_in_a_sentence():
    for kernel, stride, padding, frames in ((3, 2, (0, 0), 4), (3, 2, (1, 1), 4), (3, 1, (0, 0), 2), (1, 2, (0, 0), 4), (3, 1, (1, 1), 0)):
        conv = Point4DConv(0, (4,), kernel=kernel, temporal_stride=stride, padding=padding, **OPTIONS)
        with pytest.raises(ValueError, match=rf"A clip of {frames} frames .*: change the number of frames"):
            conv(torch.zeros(1, frames, 6, 3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernel": 2}, "odd temporal kernel"),
        ({"widths": ()}, "at least 1"),
        ({"neighbours": 0}, "at least 1"),
        ({"padding": (-1, 0)}, "pads"),
    ],
)
def test_options_that_cannot_be_are_refused(changes, words):
    options = {"channels_in": 0, "widths": (4,), "kernel": 3, **OPTIONS} | changes
    with pytest.raises(ValueError, match=words):
        Point4DConv(**options)


def test_features_where_none_were_announced_and_too_few_points_are_refused():
    conv = Point4DConv(0, (4,), kernel=1, **OPTIONS)
    with pytest.raises(ValueError, match="channels_in"):
        conv(torch.zeros(1, 1, 6, 3), torch.zeros(1, 1, 6, 2))
    with pytest.raises(ValueError, match="no anchor"):
        conv(torch.zeros(1, 1, 2, 3))


def test_a_shift_of_all_frames_moves_anchors_alone():
    points, features, shift = grid(2, 4, 40, 3), grid(2, 4, 40, 4, seed=1), torch.tensor([5.0, -3.0, 0.5]).double()
    conv = make(4, (6, 5), 3, 1, (1, 1), norm=True, act=True)
    (anchors, out), (moved, same) = conv(points, features), conv(points + shift, features)
    assert torch.equal(moved, anchors + shift)
    torch.testing.assert_close(same, out, rtol=1e-12, atol=1e-12)


def test_with_the_origins_habit_a_shift_does_matter_and_the_loop_agrees():
    points = grid(1, 3, 20, 3) * torch.rand(1, 3, 20, 1, generator=torch.Generator().manual_seed(0)).round().double().clamp(min=1 / 64)
    conv = make(0, (5,), 3, 1, (1, 1), skip_origin=True, spatial_stride=2, spatial_pool="max", temporal_pool="max")
    agree(conv, points, None, mode="replicate", pools=("max", "max"), skip=True)
    assert not torch.allclose(conv(points + 4)[1], conv(points)[1])


def test_the_order_of_the_points_changes_nothing_but_the_order_of_the_anchors():
    points, features = grid(1, 3, 12, 3), grid(1, 3, 12, 4, seed=1)
    conv = make(4, (6, 5), 3, 1, (1, 1), norm=True, act=True, radius=9.0, neighbours=12, spatial_stride=1)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    results = [conv(points, features), conv(points[:, :, order], features[:, :, order])]
    for frame in range(3):
        rows = [sorted(zip(a[0, frame].tolist(), y[0, frame].tolist(), strict=True)) for a, y in results]
        torch.testing.assert_close(torch.tensor([y for _, y in rows[0]]), torch.tensor([y for _, y in rows[1]]))
        assert [a for a, _ in rows[0]] == [a for a, _ in rows[1]]


@pytest.mark.parametrize("mode", ["replicate", "zeros"])
def test_of_a_clip_that_stands_still_the_displacement_in_time_is_exactly_known(mode):
    points = grid(1, 1, 20, 3).expand(1, 4, 20, 3).contiguous()
    for pool, weight, expected in (("max", 1.0, 1.0), ("max", -1.0, 1.0), ("sum", 1.0, 0.0)):
        conv = Point4DConv(0, (1,), kernel=3, padding=(1, 1), padding_mode=mode, temporal_pool=pool, **OPTIONS).double()
        conv.load_state_dict({"conv_d.weight": torch.tensor([[0.0, 0, 0, weight]])})
        assert torch.equal(conv(points)[1], torch.full((1, 4, 6, 1), expected).double())
    found = []
    for i in range(3):  # each of the three frames by itself: a frame's features are zero elsewhere
        conv = make(1, (1,), 3, 1, (0, 0), operation="mul", temporal_pool="sum")
        conv.load_state_dict({"conv_d.weight": torch.tensor([[0.0, 0, 0, 1]]), "conv_f.weight": torch.ones(1, 1)})
        features = torch.zeros(1, 3, 20, 1).double()
        features[:, i] = 1
        found.append(conv(points[:, :3], features)[1].unique().tolist())
    assert found == [[-1], [0], [1]]


def test_frames_beyond_the_kernel_do_not_matter():
    points, features = grid(1, 7, 15, 3).requires_grad_(), grid(1, 7, 15, 4, seed=1).requires_grad_()
    conv = make(4, (5,), 3, 1, (1, 1))
    _, out = conv(points, features)
    for gradient in torch.autograd.grad(out[:, 3].square().sum(), (points, features)):
        assert gradient.abs().sum((0, 2, 3)).gt(0).tolist() == [False, False, True, True, True, False, False]


@pytest.mark.parametrize("stride", [1, 2])
def test_the_frame_index_is_where_the_anchors_lie(stride):
    conv = make(0, (4,), 3, stride, (1, 2 - stride))
    points = grid(1, 6, 9, 3)
    anchors, _ = conv(points)
    for place, frame in enumerate(conv.frame_index(6)):
        assert all((points[0, frame] == anchor).all(-1).any() for anchor in anchors[0, place])


def test_without_gradient_in_parts_as_in_one(monkeypatch):
    points, features = grid(2, 4, 30, 3), grid(2, 4, 30, 4, seed=1)
    for channels, widths in ((0, (5,)), (4, (6, 5))):
        conv = make(channels, widths, 3, 1, (1, 1), norm=True, act=True)
        given = (points, features if channels else None)
        conv(*given)  # moves the running statistics
        conv.eval()
        whole = conv(*given)[1].detach()
        monkeypatch.setattr("training.ops.point4d._ELEMENTS", 400)
        with torch.no_grad():
            torch.testing.assert_close(conv(*given)[1], whole, rtol=1e-12, atol=1e-12)
        monkeypatch.undo()


def test_running_statistics_are_those_of_all_neighbours():
    points, features = grid(2, 4, 30, 3), grid(2, 4, 30, 4, seed=1)
    conv = make(4, (6, 5), 3, 1, (1, 1), norm=True, act=True)
    seen: dict[str, Tensor] = {}
    plain = activated

    def watched(conv: Point4DConv, h: Tensor, norm: nn.BatchNorm1d | None) -> Tensor:
        name = next(name for name, module in conv.named_modules() if module is norm)
        seen[f"{name}.running_mean"], seen[f"{name}.running_var"] = 0.1 * h.mean(0), 0.9 + 0.1 * h.var(0)
        return plain(conv, h, norm)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setitem(globals(), "activated", watched)
        reference(conv, points, features, mode="replicate", pools=("max", "sum"))
    conv(points, features)
    assert len(seen) == 6
    torch.testing.assert_close({name: dict(conv.named_buffers())[name] for name in seen}, seen, rtol=1e-10, atol=1e-12)


def test_threads_change_no_bit():
    points, features = grid(2, 5, 60, 3).float(), grid(2, 5, 60, 4, seed=1).float()
    before = torch.get_num_threads()
    try:
        for channels, widths in ((0, (40,)), (4, (24, 5))):
            results = []
            for threads in (1, 3):
                torch.set_num_threads(threads)
                conv = make(channels, widths, 3, 1, (1, 1)).float()
                _, out = conv(points, features if channels else None)
                results.append((out, *torch.autograd.grad(out.square().sum(), conv.parameters())))
            assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    finally:
        torch.set_num_threads(before)


def test_under_autocast_the_result_is_that_without():
    points, features = grid(1, 3, 30, 3).float(), grid(1, 3, 30, 4, seed=1).float()
    conv = make(4, (6, 5), 3, 1, (1, 1), norm=True, act=True).float()
    expected = conv(points, features)[1]
    with torch.autocast("cpu", torch.bfloat16):
        anchors, out = conv(points, features.bfloat16().float())
        nearly = conv(points, features.bfloat16())[1]
    out.sum().backward()
    assert anchors.dtype == out.dtype == torch.float32
    torch.testing.assert_close(out, nearly)
    torch.testing.assert_close(out, expected, rtol=0.05, atol=0.05)
