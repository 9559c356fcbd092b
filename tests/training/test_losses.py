import math

import numpy as np
import pytest
import torch

from training.losses import nt_pairs, nt_xent

TAU = 0.1


def published_rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    i, j = torch.arange(4, dtype=torch.float64)[:, None], torch.arange(8, dtype=torch.float64)[None]
    return torch.sin(1 + i + 2 * j + i * j), 3 * torch.sin(1.6 + i + 2 * j + i * j), torch.cos(0.5 * i + 0.3 * j * j)


def crosspoint_total(z1: torch.Tensor, z2: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    return nt_xent(z1, z2, TAU) + nt_xent((z1 + z2) / 2, h, TAU)


def by_loops(a: np.ndarray, b: np.ndarray, temperature: float) -> float:
    rows = [row / math.sqrt(sum(x * x for x in row)) for row in [*a, *b]]
    n, total = len(a), 0.0
    for i in range(2 * n):
        positive = i + n if i < n else i - n
        others = [math.exp(float(np.dot(rows[i], rows[m])) / temperature) for m in range(2 * n) if m != i]
        total -= math.log(math.exp(float(np.dot(rows[i], rows[positive])) / temperature) / math.fsum(others))
    return total / (2 * n)


def test_golden_values() -> None:
    z1, z2, h = published_rows()
    assert nt_xent(z1, z2, TAU).item() == pytest.approx(0.155088051, abs=1e-6)
    assert nt_xent((z1 + z2) / 2, h, TAU).item() == pytest.approx(6.083699831, abs=1e-6)
    assert crosspoint_total(z1, z2, h).item() == pytest.approx(6.238787882, abs=1e-6)


def test_neither_of_the_known_misreadings() -> None:
    z1, z2, h = published_rows()
    normalised_first = (torch.nn.functional.normalize(z1) + torch.nn.functional.normalize(z2)) / 2
    assert nt_xent(normalised_first, h, TAU).item() == pytest.approx(6.185694982, abs=1e-6)
    cross = nt_xent((z1 + z2) / 2, h, TAU).item()
    assert abs(cross - 6.185694982) > 0.1  # views normalised before their mean
    assert abs(cross - 3.633611088) > 0.1  # negatives from the other side only
    assert abs(nt_xent(z1, z2, TAU).item() - 0.088720713) > 0.05


@pytest.mark.parametrize("pairs", [2, 20])
def test_rows_all_equal_give_the_log_of_the_choices(pairs: int) -> None:
    same = torch.ones(pairs, 5, dtype=torch.float64)
    assert nt_xent(same, same, TAU).item() == pytest.approx(math.log(2 * pairs - 1), abs=1e-12)


def test_perfect_orthogonal_pairs() -> None:
    a = torch.eye(20, dtype=torch.float64)
    assert nt_xent(a, 7 * a, TAU).item() == pytest.approx(math.log(1 + 2 * 19 * math.exp(-10)), abs=1e-12)
    assert nt_xent(a, a, TAU).item() == pytest.approx(0.001723711, abs=1e-9)


@pytest.mark.parametrize(("pairs", "width", "temperature"), [(2, 3, 0.1), (7, 16, 0.5), (13, 4, 0.07)])
def test_equals_the_formula_written_as_loops(pairs: int, width: int, temperature: float) -> None:
    rng = np.random.default_rng(pairs)
    a, b = rng.standard_normal((2, pairs, width)) * 10 ** rng.uniform(-3, 3, (2, pairs, 1))
    expected = by_loops(a, b, temperature)
    assert nt_xent(torch.from_numpy(a), torch.from_numpy(b), temperature).item() == pytest.approx(expected, abs=1e-12)
    single = nt_xent(torch.from_numpy(a).float(), torch.from_numpy(b).float(), temperature)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, abs=1e-4)


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 4, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda x, y: nt_xent(x, y, TAU), (a, b))


def test_order_of_pairs_and_sides_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 9, 6, dtype=torch.float64, generator=generator)
    order = torch.randperm(9, generator=generator)
    expected = nt_xent(a, b, TAU).item()
    assert nt_xent(a[order], b[order], TAU).item() == pytest.approx(expected, abs=1e-12)
    assert nt_xent(b, a, TAU).item() == pytest.approx(expected, abs=1e-12)
    assert abs(nt_xent(a[order], b, TAU).item() - expected) > 1e-3


def test_a_tiny_temperature_and_zero_rows_stay_finite() -> None:
    a = torch.randn(6, 8, generator=torch.Generator().manual_seed(2)).requires_grad_()
    b = torch.zeros(6, 8).requires_grad_()
    loss = nt_xent(a, b, 1e-4)
    loss.backward()
    assert torch.isfinite(loss)
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()


def test_full_precision_under_autocast() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, 16, 32, generator=generator)
    plain = nt_xent(a, b, TAU)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nt_xent(a, b, TAU), plain)
        half = nt_xent(a.bfloat16(), b.bfloat16(), TAU)
    assert half.dtype == torch.float32
    assert torch.equal(half, nt_xent(a.bfloat16().float(), b.bfloat16().float(), TAU))


@pytest.mark.parametrize(
    ("a", "b", "temperature", "error"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), 0.1, ValueError),
        (torch.ones(3), torch.ones(3), 0.1, ValueError),
        (torch.ones(1, 2), torch.ones(1, 2), 0.1, ValueError),
        (torch.ones(3, 2), torch.ones(3, 2), 0.0, ValueError),
        (torch.ones(3, 2), torch.ones(3, 2), math.nan, ValueError),
        (torch.ones(3, 2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.int64), 0.1, TypeError),
    ],
)
def test_refuses(a: torch.Tensor, b: torch.Tensor, temperature: float, error: type[Exception]) -> None:
    with pytest.raises(error, match="nt_xent needs"):
        nt_xent(a, b, temperature)


# ---- pairs with masks --------------------------------------------------------------------------------------------------


def rows(pairs: int, seed: int = 0, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.randn(2, pairs, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return a, b


def by_masks(a: torch.Tensor, b: torch.Tensor, temperature: float, allowed: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float:
    """Row by row from explicit masks: allowed and positive (2M, 2M), weights (2M,) that sum to 1."""
    u = torch.cat([a, b]).numpy()
    u = u / np.sqrt((u * u).sum(1, keepdims=True))
    total = 0.0
    for i in range(len(u)):
        choices = [m for m in range(len(u)) if allowed[i, m]]
        below = math.fsum(math.exp(float(u[i] @ u[m]) / temperature) for m in choices)
        own = [p for p in choices if positive[i, p]]
        total -= weights[i] * math.fsum(math.log(math.exp(float(u[i] @ u[p]) / temperature) / below) for p in own) / len(own)
    return total


@pytest.mark.parametrize("pairs", [2, 3, 20])
def test_pairs_without_masks_are_nt_xent(pairs: int) -> None:
    a, b = rows(pairs)
    assert nt_pairs(a, b, TAU).item() == pytest.approx(nt_xent(a, b, TAU).item(), abs=1e-12)


@pytest.mark.parametrize("pairs", [2, 9])
def test_collapsed_and_perfect_pairs_in_both_forms(pairs: int) -> None:
    same, perfect = torch.ones(pairs, 4, dtype=torch.float64), torch.eye(pairs, dtype=torch.float64)
    assert nt_pairs(same, same, TAU).item() == pytest.approx(math.log(2 * pairs - 1), abs=1e-12)
    assert nt_pairs(same, same, TAU, form="clip").item() == pytest.approx(math.log(pairs), abs=1e-12)
    far = math.exp(-1 / TAU)
    assert nt_pairs(perfect, 3 * perfect, TAU).item() == pytest.approx(math.log(1 + (2 * pairs - 2) * far), abs=1e-12)
    assert nt_pairs(perfect, 3 * perfect, TAU, form="clip").item() == pytest.approx(math.log(1 + (pairs - 1) * far), abs=1e-12)


@pytest.mark.parametrize("form", ["nt", "clip"])
def test_sides_order_and_lengths_do_not_matter_to_pairs(form: str) -> None:
    a, b = rows(7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    expected = nt_pairs(a, b, TAU, form=form).item()
    for other in ((b, a), (a[order], b[order]), (5 * a, 0.1 * b)):
        assert nt_pairs(*other, TAU, form=form).item() == pytest.approx(expected, abs=1e-12)
    assert abs(nt_pairs(a[order], b, TAU, form=form).item() - expected) > 1e-3


@pytest.mark.parametrize("form", ["nt", "clip"])
@pytest.mark.parametrize("more_positives", [False, True])
def test_any_masks_equal_the_formula_written_as_loops(form: str, more_positives: bool) -> None:
    rng = np.random.default_rng(3)
    pairs = 6
    a, b = rows(pairs, 4)
    partner = np.arange(2 * pairs).reshape(2, pairs)[::-1].ravel()
    for _ in range(5):
        excluded, extra = rng.random((2, 2 * pairs, 2 * pairs)) < 0.3
        weights = rng.random(pairs)
        weights /= weights.sum()
        allowed = ~excluded
        np.fill_diagonal(allowed, False)
        if form == "clip":
            allowed[:pairs, :pairs] = allowed[pairs:, pairs:] = False
        allowed[np.arange(2 * pairs), partner] = True
        positive = np.zeros_like(allowed) if not more_positives else extra & allowed
        positive[np.arange(2 * pairs), partner] = True
        found = nt_pairs(
            a,
            b,
            TAU,
            form=form,
            excluded=torch.from_numpy(excluded),
            positives=torch.from_numpy(extra) if more_positives else None,
            weights=torch.from_numpy(weights),
        )
        assert found.item() == pytest.approx(by_masks(a, b, TAU, allowed, positive, np.tile(weights, 2) / 2), abs=1e-12)


def test_no_pairs_and_one_pair_cost_nothing_and_pull_nowhere() -> None:
    for pairs in (0, 1):
        a, b = (x.requires_grad_() for x in rows(pairs))
        loss = nt_pairs(a, b, TAU)
        loss.backward()
        assert loss.item() == 0
        assert a.grad is not None
        assert not a.grad.any()


def test_gradients_of_masked_pairs() -> None:
    a, b = (x.requires_grad_() for x in rows(4, 6))
    excluded = torch.rand(8, 8, generator=torch.Generator().manual_seed(7)) < 0.4
    assert torch.autograd.gradcheck(lambda x, y: nt_pairs(x, y, TAU, excluded=excluded, positives=~excluded), (a, b))
