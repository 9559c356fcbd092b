"""The built-in source of clips: procedural jointed creatures, the animated sibling of `pipeline.sources.procedural`.

A creature's proportions, colours, gaits and timing come from a seed; each has a clip for each of its kind's actions, named like the action.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.sources.asset import Asset, Names, SourceError

if TYPE_CHECKING:
    from render.animation import Animated


class CreaturesSource(BaseModel):
    """Jointed creatures; all kinds and actions unless some are named. The last creatures of each kind are the test split.

    sequences 0: each clip of each creature is an asset of class = action. n: n sequences a creature, each of joined[0] to joined[1] clips
    blended over blend_s seconds, class = kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["creatures"] = "creatures"
    kinds: Names = ()
    actions: Names = ()
    per_kind: int = Field(default=10, ge=1)
    test_fraction: float = Field(default=0.25, ge=0, lt=1)
    sequences: int = Field(default=0, ge=0)
    joined: tuple[int, int] = (4, 7)
    blend_s: float = Field(default=0.2, ge=0)
    seed: int = 0

    @model_validator(mode="after")
    def _some_clips_are_joined(self) -> CreaturesSource:
        if not 1 <= self.joined[0] <= self.joined[1]:
            raise ValueError("joined: give the least and the most clips of a sequence, at least 1, as in [4, 7]")
        return self


def action_names(source: CreaturesSource) -> tuple[str, ...]:
    """The actions of a source, over all of its kinds."""
    from pipeline.sources.creatures_kinds import ACTIONS, KINDS, actions_of

    there = {action for kind in source.kinds or KINDS for action in actions_of(kind)}
    return tuple(action for action in ACTIONS if action in there and (not source.actions or action in source.actions))


def assets(source: CreaturesSource) -> Iterator[Asset]:
    """A creature's clips or sequences one after the other. Raises SourceError for a kind or an action that there is not, and where no kind
    does any of the actions."""
    from pipeline.sources.creatures_kinds import ACTIONS, KINDS, actions_of

    for asked, known, what in ((source.kinds, KINDS, "kind"), (source.actions, ACTIONS, "action")):
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise SourceError(f"There is no {what} of creature called {unknown[0]!r}; use some of {', '.join(known)}.")
    if not action_names(source):
        kinds, actions = ", ".join(source.kinds), ", ".join(source.actions)
        raise SourceError(f"None of the kinds {kinds} does any of the actions {actions}; name other kinds or actions.")
    train = source.per_kind - round(source.per_kind * source.test_fraction)
    for kind in source.kinds or KINDS:
        there = [action for action in actions_of(kind) if not source.actions or action in source.actions]
        clips = [(action, action) for action in there]
        if source.sequences:
            clips = [(f"s{number}", kind) for number in range(source.sequences) if there]
        for number in range(source.per_kind):
            seed = int.from_bytes(hashlib.sha256(f"{source.seed}/{kind}/{number}".encode()).digest()[:4], "big")
            for name, cls in clips:
                yield Asset(f"creature:{kind}/{number:05d}/{seed}#{name}", cls, "train" if number < train else "test", "Apache-2.0")


def content_sha256(uri: str) -> str:
    """Hex digest of the address, of which alone a creature is made."""
    return hashlib.sha256(uri.encode()).hexdigest()


def open_animated(uri: str) -> Animated:
    """The creature of an address with all of its clips, whichever the address names."""
    from pipeline.sources.creatures_kinds import make

    kind, _, seed = uri.removeprefix("creature:").partition("#")[0].split("/")
    return make(kind, int(seed)).animated()
