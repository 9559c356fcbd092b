"""Sine and cosine from additions and multiplications alone, so that every host gets the same bits: libm's and numpy's last digit varies."""

from __future__ import annotations

import math


def cos_sin(angle_rad: float) -> tuple[float, float]:
    """(cosine, sine) within about 3e-16 for |angle| < 1000 rad."""
    quarter = math.floor(angle_rad / (math.pi / 2) + 0.5)
    # pi/2 in two parts; the first has so few bits that its multiples are exact.
    x = (angle_rad - quarter * 1.5707963267341256) - quarter * 6.077100506506192e-11
    square = x * x
    cosine, sine = 1.0, x
    cosine_term, sine_term = 1.0, x
    for n in range(1, 10):
        cosine_term *= -square / ((2 * n - 1) * (2 * n))
        sine_term *= -square / ((2 * n) * (2 * n + 1))
        cosine += cosine_term
        sine += sine_term
    return ((cosine, sine), (-sine, cosine), (-cosine, -sine), (sine, -cosine))[quarter % 4]


def tan(angle_rad: float) -> float:
    """Tangent by `cos_sin`."""
    cosine, sine = cos_sin(angle_rad)
    return sine / cosine
