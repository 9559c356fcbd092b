"""What every source gives: assets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.config import ConfigError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class SourceError(ConfigError):
    """A source cannot be used as it is. The text is one sentence: what, where, what to do."""


@dataclass(frozen=True)
class Asset:
    """A mesh to be. `uri` is relative to the source, so that it is the same wherever the source lies; names are not yet keys."""

    uri: str
    cls: str
    split: Split
    licence: str = ""
