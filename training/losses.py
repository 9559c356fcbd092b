"""NT-Xent, the normalised temperature-scaled cross entropy of SimCLR (Chen et al. 2020, arXiv 2002.05709, eq. 1)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Symmetric contrastive loss of the pairs (a[i], b[i]): a scalar in nats.

    `a`, `b`: (B, D) floats, B ≥ 2, not normalised. Rows are divided by their L2 norm (floor 1e-12); u are the rows of `a`,
    then those of `b`. Each of the 2B rows has one positive, its partner, and 2(B−1) negatives, from both sides:

        L = −1/(2B) Σᵢ log( exp(uᵢ·u₍ₚᵢ₎/τ) / Σ_{m≠i} exp(uᵢ·uₘ/τ) )

    Computed in float64 if an argument is, otherwise in float32, under autocast too.
    Raises ValueError for other shapes, for no negatives (B < 2), and for τ that is not positive and finite; TypeError for integers.
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"nt_xent needs two tensors of one shape (B, D), got {tuple(a.shape)} and {tuple(b.shape)}")
    if not (a.is_floating_point() and b.is_floating_point()):
        raise TypeError(f"nt_xent needs floating-point tensors, got {a.dtype} and {b.dtype}")
    pairs = a.shape[0]
    if pairs < 2:
        raise ValueError(f"nt_xent needs at least 2 pairs, got {pairs}: without negatives the loss is constant")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"nt_xent needs a positive finite temperature, got {temperature}")
    # half-precision products would round a similarity of 1 at a temperature of 0.1 by up to 0.04 nats
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    with torch.autocast(device_type=a.device.type, enabled=False):
        u = F.normalize(torch.cat((a.to(dtype), b.to(dtype))), dim=1, eps=1e-12)
        logits = (u @ u.T) / temperature
        itself = torch.eye(2 * pairs, dtype=torch.bool, device=u.device)
        positive = torch.arange(2 * pairs, device=u.device).roll(pairs)
        return F.cross_entropy(logits.masked_fill(itself, -torch.inf), positive)


def info_nce(queries: Tensor, keys: Tensor, targets: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Cross entropy of each query among its valid keys: (b,) in nats.

    queries (b, D) and keys (n, D), of length 1; targets (b, n), rows that sum to 1 and are 0 where `valid` (b, n) bool is false;

        L_b = − Σⱼ y_bj log( exp(q_b·k_j/τ) / Σ_{j' valid} exp(q_b·k_j'/τ) )

    In float32 at least, under autocast too.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(device_type=queries.device.type, enabled=False):
        scores = (queries.to(dtype) @ keys.to(dtype).T / temperature).masked_fill(~valid, -torch.inf)
        shares = scores - scores.logsumexp(1, keepdim=True)
        return -(targets.to(dtype) * shares.masked_fill(~valid, 0.0)).sum(1)


def nt_pairs(
    a: Tensor,
    b: Tensor,
    temperature: float,
    *,
    form: Literal["nt", "clip"] = "nt",
    excluded: Tensor | None = None,
    positives: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """`nt_xent` with a say in who is a negative and who a positive: a scalar in nats, 0 for no pairs and for a pair without negatives.

    a, b: (M, D) floats, M ≥ 0, not normalised; u are the rows of a, then those of b, s their cosines. With P(i) the positives of row i
    and N(i) the rows of its denominator,

        L = Σᵢ wᵢ · ( −1/|P(i)| Σ_{p ∈ P(i)} log( exp(s_ip/τ) / Σ_{m ∈ N(i)} exp(s_im/τ) ) ),      wᵢ = 1/2M

    form: "nt", N(i) has all rows but i; "clip", the other side's rows alone. excluded (2M, 2M) bool: entries that leave N; a row's partner
    never does. positives (2M, 2M) bool: rows of N that are positives beside the partner. weights (M,): of a pair, instead of 1/M.
    In float32 at least, under autocast too.
    """
    pairs = len(a)
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    with torch.autocast(device_type=a.device.type, enabled=False):
        u = F.normalize(torch.cat((a.to(dtype), b.to(dtype))), dim=1, eps=1e-12)
        if not pairs:
            return u.sum()
        itself = torch.eye(2 * pairs, dtype=torch.bool, device=u.device)
        partner = torch.arange(2 * pairs, device=u.device).roll(pairs)
        out = itself if excluded is None else excluded | itself
        if form == "clip":
            side = torch.arange(2 * pairs, device=u.device) < pairs
            out = out | (side[:, None] == side)
        own = itself.roll(pairs, 1)
        out = out & ~own
        scores = ((u @ u.T) / temperature).masked_fill(out, -torch.inf)
        if positives is None:
            rows = F.cross_entropy(scores, partner, reduction="none")
        else:
            share = ((positives & ~out) | own).to(dtype)
            rows = -(share * scores.log_softmax(1).masked_fill(out, 0.0)).sum(1) / share.sum(1)
        if weights is None:
            return rows.mean()
        return (rows * weights.to(dtype).repeat(2)).sum() / 2
