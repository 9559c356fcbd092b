"""Animated glTF characters: each clip is an asset of its action, or clips of a character are joined into sequences."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.sources import folder
from pipeline.sources.asset import Asset, Names, SourceError, Split
from pipeline.sources.kept import file_key, forget, kept_character
from render.meshes import MeshError

if TYPE_CHECKING:
    from pipeline.script import Script
    from render.animation import Animated, Clip

EXTENSIONS = (".glb", ".gltf")


class AnimatedSource(BaseModel):
    """A folder of animated glTF files, at any depth.

    files, exclude, test, val and together hold patterns of paths below it (* and ? within a name, ** across folders). actions: action →
    case-insensitive patterns of clip names, with or without what stands before their last "|"; the first that matches counts and clips that
    match none are left out; without the table a clip's own name is its action. classes: the actions that are kept, all if none is named.
    A clip whose last pose is its first loops; those of the actions in loops do however they end, like gaits that come back only nearly to
    where they began. sequences: 0 makes every clip an asset, whose class is its action; n makes n sequences of each file, of `joined` clips
    blended over blend_s, whose class is the folder that the file lies in. test_fraction cuts a test split by file; the files that one
    group of together matches stay on one side.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["animated"] = "animated"
    path: Path
    licence: str = ""
    files: tuple[str, ...] = ("**/*",)
    exclude: tuple[str, ...] = ()
    actions: dict[str, tuple[str, ...]] = {}
    classes: Names = ()
    test: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test_fraction: float = Field(default=0.0, ge=0, lt=1)
    together: tuple[tuple[str, ...], ...] = ()
    sequences: int = Field(default=0, ge=0, le=10_000)
    joined: tuple[int, int] = (4, 7)
    blend_s: float = Field(default=0.2, ge=0)
    loops: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _sensible(self) -> AnimatedSource:
        if not 1 <= self.joined[0] <= self.joined[1]:
            raise ValueError("joined is the fewest and the most clips of a sequence, like [4, 7]")
        unknown = [action for action in self.loops if self.actions and action not in self.actions]
        if unknown:
            raise ValueError(f"loops names {unknown[0]!r}, which is none of actions")
        if self.test_fraction and (self.test or self.val):
            raise ValueError("test and val name files and test_fraction draws them; use one of the two")
        return self


def assets(source: AnimatedSource) -> Iterator[Asset]:
    """The clips or sequences, file by file by path; those left out too, with the rule. A file that cannot be read is one asset.

    Raises SourceError: no folder, no file, sequences of a file in no folder, patterns that match none or part what is to stay together.
    """
    from render.animation import list_clips

    if not source.path.is_dir():
        raise SourceError(f"{source.path} is no folder; give the folder that holds the {' and '.join(EXTENSIONS)} files.")
    # what belongs to a file may have changed since, which its own size and time do not tell
    _file_sha256.cache_clear()
    forget()
    files = [uri for uri in _files(source.path) if _matches(source.files, uri) and not _matches(source.exclude, uri)]
    if not files:
        what = " or ".join(EXTENSIONS)
        raise SourceError(f"{source.path} holds no {what} file that source.files names; correct the path or the patterns.")
    loose = [uri for uri in files if "/" not in uri]
    if source.sequences and loose:
        raise SourceError(f"{source.path / loose[0]} lies in no folder that would be its class; move it into {source.path}/CLASS.")
    splits, groups = _splits(source, files), _groups(source, files)
    for uri in files:
        # what the source's own folder is called is no class: the same files elsewhere are the same dataset
        folder_name = PurePosixPath(uri).parent.name
        try:
            clips = list_clips(source.path / uri)
        except MeshError:
            # The worker meets the same fault and gives the asset its row.
            yield Asset(f"{uri}#0", folder_name, splits[uri], source.licence, groups[uri])
            continue
        found = [(number, action_of(source, clip, number)) for number, clip in enumerate(clips)]
        if not any(action is not None for _, action in found):
            yield Asset(f"{uri}#0", folder_name, splits[uri], source.licence, groups[uri], "file without a clip of an action")
            continue
        if source.sequences:
            for number in range(source.sequences):
                yield Asset(f"{uri}#s{number}", folder_name, splits[uri], source.licence, groups[uri])
            continue
        for number, action in found:
            rule = "" if action is not None else "clip of no action"
            yield Asset(f"{uri}#{number}", action or "", splits[uri], source.licence, groups[uri], rule)


def _files(root: Path) -> list[str]:
    paths = (path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    names = (path.relative_to(root).as_posix() for path in paths)
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def _splits(source: AnimatedSource, files: Sequence[str]) -> dict[str, Split]:
    for pattern in (*source.test, *source.val):
        if not any(_matches((pattern,), uri) for uri in files):
            raise SourceError(f"No file of {source.path} matches the pattern {pattern!r} of source.test or val; correct or remove it.")
    found: dict[str, Split] = {}
    for uri in files:
        found[uri] = "test" if _matches(source.test, uri) else "val" if _matches(source.val, uri) else "train"
    for group in source.together:
        members = [uri for uri in files if _matches(group, uri)]
        sides = {found[uri] for uri in members}
        if len(sides) > 1:
            text = f"source.together keeps {members[0]} and {members[-1]} on one side, but source.test or val parts their group"
            raise SourceError(f"{text}; name all of it or none.")
    return found


def _groups(source: AnimatedSource, files: Sequence[str]) -> dict[str, str]:
    """For each file the first path of those that stay with it, over groups that share files too."""
    first = {uri: uri for uri in files}
    for group in source.together:
        members = [uri for uri in files if _matches(group, uri)]
        if members:
            heads = {first[uri] for uri in members}
            first = {uri: min(heads) if head in heads else head for uri, head in first.items()}
    return first


def _matches(patterns: Sequence[str], uri: str) -> bool:
    return any(_expression(pattern).fullmatch(uri) for pattern in patterns)


@lru_cache(maxsize=4096)
def _expression(pattern: str) -> re.Pattern[str]:
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(words.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern)))


def action_of(source: AnimatedSource, clip: Clip, number: int) -> str | None:
    """The action of a clip, None where the source leaves it out."""
    plain = clip.name.rsplit("|", 1)[-1]
    action: str | None = plain.strip().lower() or f"clip {number}"
    if source.actions:
        names = (clip.name.lower(), plain.lower())
        matching = (
            action for action, patterns in source.actions.items() if any(fnmatchcase(name, p.lower()) for p in patterns for name in names)
        )
        action = next(matching, None)
    return action if not source.classes or action in source.classes else None


def content_sha256(source: AnimatedSource, uri: str) -> str:
    """Hex digest of the file with all that belongs to it, and which clip or sequence of it. Raises OSError."""
    path, _, part = uri.rpartition("#")
    whole = source.path / path
    status = whole.stat()
    return hashlib.sha256(f"{_file_sha256(whole, status.st_size, status.st_mtime_ns)}#{part}".encode()).hexdigest()


@lru_cache(maxsize=64)
def _file_sha256(path: Path, size: int, modified_ns: int) -> str:
    return folder.content_sha256(path)


def open_animated(source: AnimatedSource, uri: str) -> Animated:
    """The character of an asset, the same object for all clips of a file as long as it is kept. Raises MeshError."""
    from render.animation import load_animated

    path = source.path / uri.rpartition("#")[0]
    try:
        key = file_key(path)
    except OSError as error:
        raise MeshError("io_error", f"{path}: {error.strerror or error}; see that the file is there and may be read.") from error
    return kept_character(key, lambda: load_animated(path), key[1])


def open_clip(source: AnimatedSource, uri: str, seed: int) -> Script:
    """What an asset shows; the seed draws what a sequence is joined of. Raises MeshError."""
    from pipeline import script

    animated = open_animated(source, uri)
    path, _, part = uri.rpartition("#")
    character = str(PurePosixPath(path).with_suffix(""))
    if source.actions and part.isdecimal() and int(part) < len(animated.clips):
        action = action_of(source, animated.clips[int(part)], int(part))
        names = tuple(source.actions)
        return script.one_clip(animated, int(part), names.index(action) if action else -1, names, character, source.loops)
    found = [(number, action) for number, clip in enumerate(animated.clips) if (action := action_of(source, clip, number)) is not None]
    if not found:
        raise MeshError("no_motion", f"{uri} has no clip to play; leave the file out.")
    names = source.classes or tuple(source.actions) or tuple(dict.fromkeys(action for _, action in found))
    numbered = [(number, names.index(action)) for number, action in found]
    if part.startswith("s"):
        return script.joined(animated, numbered, source.joined, source.blend_s, names, character, seed, source.loops)
    return script.one_clip(animated, int(part), dict(numbered)[int(part)], names, character, source.loops)
