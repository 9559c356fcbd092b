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
    """A mesh or clip to be. `uri` is relative to the source, so that it is the same wherever the source lies; names are not yet keys.

    Assets of one `group` stay on one side where a split is cut; without a name each content is its own group. left_out names the rule by
    which the source leaves an asset out: it is counted and not made.
    """

    uri: str
    cls: str
    split: Split
    licence: str = ""
    group: str = ""
    left_out: str = ""
