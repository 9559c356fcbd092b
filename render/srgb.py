"""sRGB and linear light (IEC 61966-2-1), values 0 to 1.

Powers are rounded to 12 decimals, since their last bits differ between builds of the mathematical library.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def encode(linear: Floats) -> Floats:
    """sRGB values of linear light, which is clipped to 0 and 1."""
    x = np.clip(linear, 0, 1)
    return np.where(x <= 0.0031308, 12.92 * x, np.round(1.055 * x ** (1 / 2.4), 12) - 0.055)


def decode(srgb: Floats) -> Floats:
    """Linear light of sRGB values."""
    return np.where(srgb <= 0.04045, srgb / 12.92, np.round(((srgb + 0.055) / 1.055) ** 2.4, 12))
