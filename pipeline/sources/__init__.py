"""Where meshes come from: class folders or built-in shapes. Each source is a configuration, and the four functions here know them all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from pipeline.sources import folder, procedural
from pipeline.sources.asset import Asset
from pipeline.sources.folder import FolderSource
from pipeline.sources.procedural import ShapesSource
from render.meshes import Mesh

__all__ = ["Asset", "FolderSource", "ShapesSource", "Source", "assets", "content_sha256", "open_mesh"]

Source = Annotated[FolderSource | ShapesSource, Field(discriminator="kind")]


def assets(source: FolderSource | ShapesSource) -> Iterator[Asset]:
    """The source's assets in a stated order. Raises SourceError."""
    return folder.assets(source) if isinstance(source, FolderSource) else procedural.assets(source)


def inventory(source: FolderSource | ShapesSource) -> str:
    """Hex digest of the assets' names, labels and contents: tells whether a source changed. Reads every file once."""
    hasher = hashlib.sha256()
    for asset in assets(source):
        try:
            content = content_sha256(source, asset.uri)
        except OSError:
            content = "unreadable"
        hasher.update(f"{asset.uri}\t{asset.cls}\t{asset.split}\t{content}\n".encode())
    return hasher.hexdigest()


def content_sha256(source: FolderSource | ShapesSource, uri: str) -> str:
    """Hex digest of all that an asset is made of. Raises OSError where its file cannot be read."""
    return folder.content_sha256(source.path / uri) if isinstance(source, FolderSource) else procedural.content_sha256(uri)


def open_mesh(source: FolderSource | ShapesSource, uri: str, *, parts: bool) -> Mesh:
    """The asset's mesh as it is written, with part labels where asked for and there. Raises MeshError."""
    return folder.open_mesh(source, uri, parts=parts) if isinstance(source, FolderSource) else procedural.open_mesh(uri)
