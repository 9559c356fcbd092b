"""Files that a mesh file names, found inside a root only, and pictures as arrays."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from render.meshes import MeshError

MAX_TEXTURE_PIXELS = 8192 * 8192


def find_inside(name: str, folder: Path, root: Path) -> Path | None:
    """The file that `name`, as written in a file of `folder`, means; None where there is none inside root, symlinks followed.

    Windows' separators and letter case are forgiven, and of a path of another computer the file name beside the mesh is taken.
    """
    name = name.replace("\\", "/").strip()
    inside = root.resolve()
    exact = [folder / name, folder / name.rsplit("/", 1)[-1]]
    for candidate in (exact[0], *map(_any_case, exact)):
        try:
            if candidate is not None and candidate.is_file() and candidate.resolve().is_relative_to(inside):
                return candidate.resolve()
        except (OSError, ValueError):
            continue
    return None


def _any_case(path: Path) -> Path | None:
    try:
        return next((entry for entry in sorted(path.parent.iterdir()) if entry.name.lower() == path.name.lower()), None)
    except (OSError, ValueError):
        return None


def read_picture(source: Path | bytes, name: str) -> npt.NDArray[np.uint8] | None:
    """(H, W, 4) uint8, sRGB; None where it is no picture that can be read. Raises MeshError("too_large") above MAX_TEXTURE_PIXELS."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as picture:
                if picture.width * picture.height > MAX_TEXTURE_PIXELS:
                    raise _too_large(name)
                if picture.mode.startswith("I"):
                    eight_bits = (np.asarray(picture).astype(np.int64) // 257).clip(0, 255).astype(np.uint8)
                    return np.asarray(Image.fromarray(eight_bits).convert("RGBA"))
                return np.asarray(picture.convert("RGBA"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_large(name) from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError):
        # Pillow's plugins raise all of these for broken files.
        return None


def _too_large(name: str) -> MeshError:
    return MeshError("too_large", f"{name}: the texture has more than {MAX_TEXTURE_PIXELS} pixels; scale it down.")
