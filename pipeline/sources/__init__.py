"""Where meshes, characters and recordings come from. Each source is a configuration, and the functions here know them all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pipeline.sources import animated, creatures, folder, procedural, recordings
from pipeline.sources.animated import AnimatedSource
from pipeline.sources.asset import Asset
from pipeline.sources.creatures import CreaturesSource
from pipeline.sources.folder import FolderSource
from pipeline.sources.kept import kept_character
from pipeline.sources.procedural import ShapesSource
from pipeline.sources.recordings import RecordingSource
from render.meshes import Mesh

if TYPE_CHECKING:
    from pipeline.script import Script

__all__ = [
    "AnimatedSource",
    "AnySource",
    "Asset",
    "CreaturesSource",
    "FolderSource",
    "RecordingSource",
    "ShapesSource",
    "Source",
    "assets",
    "content_sha256",
    "open_clip",
    "open_mesh",
]

AnySource = FolderSource | ShapesSource | AnimatedSource | CreaturesSource | RecordingSource
Source = Annotated[AnySource, Field(discriminator="kind")]


def assets(source: AnySource) -> Iterator[Asset]:
    """The source's assets in a stated order, those included that it leaves out. Raises SourceError."""
    for asset in _assets(source):
        try:
            f"{asset.uri}{asset.cls}".encode()
        except UnicodeEncodeError:
            asset = replace(asset, left_out="name that is not UTF-8")
        yield asset


def _assets(source: AnySource) -> Iterator[Asset]:
    if isinstance(source, FolderSource):
        return folder.assets(source)
    if isinstance(source, AnimatedSource):
        return animated.assets(source)
    if isinstance(source, CreaturesSource):
        # a creature's clips stay on one side of a split
        return (replace(asset, group=asset.uri.partition("#")[0]) for asset in creatures.assets(source))
    if isinstance(source, RecordingSource):
        return recordings.assets(source)
    return procedural.assets(source)


def inventory(source: AnySource) -> str:
    """Hex digest of the assets' names, labels and contents: tells whether a source changed. Reads every file once."""
    hasher = hashlib.sha256()
    for asset in assets(source):
        if asset.left_out:
            continue
        try:
            content = content_sha256(source, asset.uri)
        except OSError:
            content = "unreadable"
        hasher.update(f"{asset.uri}\t{asset.cls}\t{asset.split}\t{content}\n".encode())
    return hasher.hexdigest()


def content_sha256(source: AnySource, uri: str) -> str:
    """Hex digest of all that an asset is made of. Raises OSError where its file cannot be read."""
    if isinstance(source, FolderSource):
        return folder.content_sha256(source.path / uri)
    if isinstance(source, AnimatedSource):
        return animated.content_sha256(source, uri)
    if isinstance(source, CreaturesSource):
        return creatures.content_sha256(uri)
    if isinstance(source, RecordingSource):
        return recordings.content_sha256(source, uri)
    return procedural.content_sha256(uri)


def open_mesh(source: AnySource, uri: str, *, parts: bool) -> Mesh:
    """The asset's mesh as it is written, with part labels where asked for and there. Raises MeshError."""
    if isinstance(source, FolderSource):
        return folder.open_mesh(source, uri, parts=parts)
    if isinstance(source, ShapesSource):
        return procedural.open_mesh(uri)
    raise TypeError(f"the source {source.kind} has no meshes")


def open_clip(source: AnySource, uri: str, seed: int, *, parts: bool = False) -> Script:
    """What an asset shows when it is filmed; the seed draws what a sequence is joined of. A static mesh shows itself. Raises MeshError."""
    from pipeline import script

    if isinstance(source, AnimatedSource):
        return animated.open_clip(source, uri, seed)
    if isinstance(source, CreaturesSource):
        character, _, part = uri.rpartition("#")
        creature, names = kept_character(character, lambda: creatures.open_animated(character)), creatures.action_names(source)
        clips = [(number, names.index(clip.name)) for number, clip in enumerate(creature.clips) if clip.name in names]
        if source.sequences:
            return script.joined(creature, clips, source.joined, source.blend_s, names, character, seed)
        number, action = next((number, action) for number, action in clips if names[action] == part)
        return script.one_clip(creature, number, action, names, character)
    return script.standing(open_mesh(source, uri, parts=parts), uri)
