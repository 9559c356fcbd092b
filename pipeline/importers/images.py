"""The images that go with a recording's frames: a folder of files, cut to squares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from pipeline.importers.recording import RecordingError

# More is no photograph; nothing of it is decoded.
_LARGEST_SIDE = 16384


def square(file: Path, size: int) -> npt.NDArray[np.uint8]:
    """(size, size, 3) uint8, sRGB: the shorter side resized to `size` by bilinear weights as wide as the reduction (antialiased), the
    longer cut to its middle. Raises RecordingError: io_error for a file that is not there or not readable, unreadable for a damaged one."""
    try:
        with Image.open(file, formats=("JPEG", "PNG")) as picture:
            if not isinstance(picture, ImageFile.ImageFile) or max(picture.size) > _LARGEST_SIDE:
                raise ValueError(f"it has {picture.size[0]} × {picture.size[1]} pixels")
            width, height = picture.size
            short = min(width, height)
            left, top = (width - short) / 2, (height - short) / 2
            cut = picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + short, top + short))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise RecordingError(
                "io_error", f"The image {file} cannot be read ({error.strerror}); decode the release's videos again."
            ) from None
        text = " ".join(str(error).replace(str(file), file.name).split())[:120].rstrip(".")
        raise RecordingError("unreadable", f"The image {file} is damaged ({text}); decode the release's videos again.") from None
    return np.asarray(cut)
