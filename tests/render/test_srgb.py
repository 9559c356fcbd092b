"""The two curves of sRGB are those of the standard and each other's inverse."""

import numpy as np

from render import srgb
from render.paint import TO_LINEAR, TO_SRGB


def test_the_curves_have_the_values_of_the_standard() -> None:
    # 0.04045 and 0.0031308 are where its two pieces meet
    np.testing.assert_allclose(srgb.decode(np.array([0, 0.04045, 0.5, 1])), [0, 0.0031308, 0.21404114, 1], rtol=1e-5)
    np.testing.assert_allclose(srgb.encode(np.array([-1, 0.0031308, 0.18, 1, 7])), [0, 0.04045, 0.46135613, 1, 1], rtol=1e-5)


def test_every_byte_comes_back_from_linear_light_and_from_the_tables() -> None:
    every = np.arange(256)
    np.testing.assert_array_equal(np.round(255 * srgb.encode(srgb.decode(every / 255))), every)
    # the dark end has fewer steps of linear light than bytes
    assert np.abs(TO_SRGB[np.round(TO_LINEAR * 8191).astype(int)].astype(int) - every).max() <= 1
