"""Text that files hold, made fit to be written anywhere."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def plain(value: object, length: int = 200) -> str:
    """A text on one line, of at most `length` characters: JSON may hold halves of characters, which UTF-8 has not, and paths stray bytes.

    Names of files and documents become parts, classes and messages, and what cannot be written would cost all that is written with it.
    """
    text = _CONTROL.sub(" ", str(value).encode("utf-8", "replace").decode())
    return text if len(text) <= length else f"{text[: length - 1]}…"
