"""Random numbers inside a module, from the sample's own key: equal for any batch, any number of workers, on CPU and GPU.

A key is 63 bits of a hash of (seed, epoch, sample). Numbers follow from it by SplitMix64 (Steele, Lea, Flood 2014) in counter mode: the
i-th is the mixed sum of key and i times the golden gamma. Keys of several uses within one sample come from `fold`. On a CPU a kernel
makes them in one pass, bit for bit what the operations of other devices give.
"""

import hashlib
import math
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from training.ops.threads import in_threads

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def key_for(seed: int, epoch: int, sample_key: str) -> int:
    """The key of one sample in one epoch, from 0 to 2⁶³ − 1."""
    text = f"{seed}/{epoch}/{sample_key}/noise".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def _mix(x: Tensor) -> Tensor:
    """Changes x (int64) in place; products wrap, shifts are logical."""
    x.bitwise_xor_((x >> 30).bitwise_and_((1 << 34) - 1)).mul_(_FIRST)
    x.bitwise_xor_((x >> 27).bitwise_and_((1 << 37) - 1)).mul_(_SECOND)
    return x.bitwise_xor_((x >> 31).bitwise_and_((1 << 33) - 1))


def fold(keys: Tensor, stream: int) -> Tensor:
    """Keys of the use number `stream` (0 or above): (B,) int64 to (B,) int64."""
    return _mix(_mix(keys + (stream + 1) * 0x5851F42D4C957F2D % (1 << 62)))


def uniforms(keys: Tensor, *shape: int) -> Tensor:
    """(B,) int64 keys to (B, *shape) float32, uniform in the open interval (0, 1), in steps of 2⁻²⁴."""
    if keys.device.type == "cpu":
        number = math.prod(shape)
        out = torch.empty(len(keys), *shape)
        in_threads(_fill, out.numel(), keys.contiguous().numpy().view(np.uint64), number, out.view(-1).numpy())
        return out
    return tensor_uniforms(keys, *shape)


def tensor_uniforms(keys: Tensor, *shape: int) -> Tensor:
    """The same by operations of tensors, on any device."""
    count = torch.arange(1, math.prod(shape) + 1, device=keys.device)
    bits = _mix(keys[:, None] + count * _GAMMA)
    return ((bits >> 40).bitwise_and_((1 << 24) - 1).float().add_(0.5).mul_(2.0**-24)).clamp_(max=1 - 2.0**-24).view(len(keys), *shape)


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(first: int, last: int, keys: Any, number: int, out: Any) -> None:
    gamma, one, two = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
    row, column = divmod(first, number) if number else (0, 0)
    for place in range(first, last):
        x = keys[row] + np.uint64(column + 1) * gamma
        x = (x ^ (x >> np.uint64(30))) * one
        x = (x ^ (x >> np.uint64(27))) * two
        x ^= x >> np.uint64(31)
        unit = (np.float32(np.int64(x >> np.uint64(40))) + np.float32(0.5)) * np.float32(2.0**-24)
        out[place] = min(unit, np.float32(1 - 2.0**-24))
        column += 1
        if column == number:
            row, column = row + 1, 0
