"""What every source gives: assets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator

from pipeline.config import ConfigError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise ValueError(f"{twice[0]!r} stands there twice; name it once")
    return names


Names = Annotated[tuple[str, ...], AfterValidator(_different)]


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
