"""YAML files become frozen pydantic models; what is wrong with one is said in a sentence with file, line, key and nearest valid name."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)
Loc = tuple[str | int, ...]


class ConfigError(Exception):
    """A configuration cannot be used. The text is one sentence: file, line or key, what is wrong, what to do."""


def load_yaml(path: str | Path, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """The YAML file as a `model`, after `overrides` of the form "dotted.key=VALUE" (VALUE is YAML, list items by number).

    Raises ConfigError: no such file, not YAML, a key twice, an unknown key, a wrong type or value.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give the path of a YAML file.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; give a YAML file.") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_lines(root, ())) if root is not None else {}
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: this is not valid YAML ({error.problem}); correct it.") from None
    except _DuplicateKeyError as error:
        raise ConfigError(f"{path}, {error}; keep one of the two.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: this is not valid YAML ({error}); correct it.") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: the file must hold keys with values, not a {type(data).__name__}.")
    set_by: dict[Loc, str] = {}
    for override in overrides:
        set_by[_apply(data, override)] = override
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_sentence(error, model, str(path), lines, set_by)) from None


def checked(model: type[Model], data: dict[str, Any], where: str) -> Model:
    """The values as a `model`. Raises ConfigError that names `where` they come from."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_sentence(error, model, where, {}, {})) from None


class _DuplicateKeyError(Exception):
    pass


def _lines(node: yaml.Node, loc: Loc) -> Iterator[tuple[Loc, int]]:
    """The line, counted from 1, of every key and list item; a key that stands twice in one mapping raises _DuplicateKeyError."""
    if isinstance(node, yaml.MappingNode):
        seen: set[Any] = set()
        for key, value in node.value:
            if key.value in seen:
                raise _DuplicateKeyError(f"line {key.start_mark.line + 1}: the key {_dotted((*loc, key.value))} stands twice")
            seen.add(key.value)
            yield (*loc, key.value), key.start_mark.line + 1
            yield from _lines(value, (*loc, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield (*loc, number), item.start_mark.line + 1
            yield from _lines(item, (*loc, number))


def _apply(data: dict[str, Any], override: str) -> Loc:
    """Writes one "dotted.key=VALUE" into data and gives the place as a location."""
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{override!r} sets nothing; write KEY=VALUE with the key's parts joined by dots, as points.count=1024.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"{override!r}: the value is not valid YAML; put it in quotes.") from None
    here: Any = data
    loc: Loc = ()
    for depth, part in enumerate(parts):
        step: str | int = part
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                raise ConfigError(f"{override!r}: {_dotted(loc)} is a list of {len(here)}; use a number from 0 to {len(here) - 1} there.")
            step = int(part)
        elif not isinstance(here, dict):
            raise ConfigError(f"{override!r}: {_dotted(loc)} is the value {here!r} and has no keys of its own.")
        loc = (*loc, step)
        if depth == len(parts) - 1:
            here[step] = parsed
        else:
            if isinstance(here, dict) and here.get(part) is None:
                here[part] = {}
            here = here[step]
    return loc


def _sentence(error: ValidationError, model: type[BaseModel], path: str, lines: dict[Loc, int], set_by: dict[Loc, str]) -> str:
    details = error.errors(include_url=False)
    first = details[0]
    loc = _without_tags(model, first["loc"])
    where = path
    known = next((loc[:end] for end in range(len(loc), 0, -1) if loc[:end] in lines), None)
    if known is not None:
        where = f"{path}, line {lines[known]}"
    override = next((text for place, text in set_by.items() if place[: len(loc)] == loc or loc[: len(place)] == place), None)
    if override is not None:
        where = f"{override!r}"
    more = f" ({len(details) - 1} more after this one)" if len(details) > 1 else ""
    return f"{where}: {_problem(first, loc, model)}{more}."


def _problem(detail: ErrorDetails, loc: Loc, model: type[BaseModel]) -> str:
    key, kind, given = _dotted(loc), detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        names = _names_at(model, detail["loc"][:-1])
        return f"{key} is no key here; {_nearest(str(loc[-1]), names)}"
    if kind == "missing":
        return f"{key} is missing; add it"
    if kind in ("literal_error", "enum"):
        return f"{key} cannot be {given!r}; {_nearest(str(given), _quoted(str(context.get('expected', ''))))}"
    if kind == "union_tag_invalid":
        tag = str(context.get("discriminator", "kind")).strip("'")
        return (
            f"{key}.{tag} cannot be {context.get('tag')!r}; {_nearest(str(context.get('tag')), _quoted(str(context.get('expected_tags'))))}"
        )
    if kind == "union_tag_not_found":
        tag = str(context.get("discriminator", "kind")).strip("'")
        return f"{key}.{tag} is missing; add it"
    message = detail["msg"].removeprefix("Value error, ").rstrip(".")
    if kind in ("value_error", "assertion_error"):
        return f"{key}: {message}" if key else message
    message = message.removeprefix("Input ")
    shown = repr(given)
    return f"{key} {message[:1].lower()}{message[1:]}, not {shown if len(shown) < 60 else shown[:57] + '...'}"


def _nearest(given: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?" if len(names) > 12 else f"did you mean {close[0]}? (Known: {', '.join(names)})"
    return f"use one of {', '.join(names)}" if names else "leave it out"


def _quoted(expected: str) -> list[str]:
    """The names in pydantic's "'a', 'b' or 'c'"."""
    return expected.split("'")[1::2] or [part.strip() for part in expected.replace(" or ", ",").split(",") if part.strip()]


def _dotted(loc: Loc) -> str:
    return ".".join(str(part) for part in loc)


def _models(annotation: Any) -> Iterator[Any]:
    """The types that a union, an optional or an annotated type consists of."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _models(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _models(argument)
    else:
        yield annotation


def _step(candidates: list[Any], part: str | int) -> tuple[list[Any], bool]:
    """The types one location further down, and whether the part is a key in the file (or else the tag of a union's branch)."""
    below: list[Any] = []
    tagged: list[Any] = []
    for candidate in candidates:
        origin, arguments = get_origin(candidate), get_args(candidate)
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            field = candidate.model_fields.get(str(part))
            if field is not None:
                below.extend(_models(field.annotation))
            tags = (f.annotation for f in candidate.model_fields.values() if get_origin(f.annotation) is Literal)
            if candidate.__name__ == part or any(part in get_args(tag) for tag in tags):
                tagged.append(candidate)
        elif isinstance(part, int) and origin in (list, tuple):
            for argument in arguments:
                if argument is not Ellipsis:
                    below.extend(_models(argument))
        elif origin is dict:
            below.extend(_models(arguments[1]))
    if below or not tagged:
        return below, True
    return tagged, False


def _without_tags(model: type[BaseModel], loc: Loc) -> Loc:
    """pydantic names the chosen branch of a union within the location; the file knows no such key."""
    candidates: list[Any] = [model]
    kept: list[str | int] = []
    for part in loc:
        candidates, is_key = _step(candidates, part)
        if is_key:
            kept.append(part)
    return tuple(kept)


def _names_at(model: type[BaseModel], loc: Loc) -> list[str]:
    candidates: list[Any] = [model]
    for part in loc:
        candidates, _ = _step(candidates, part)
    found = [name for c in candidates if isinstance(c, type) and issubclass(c, BaseModel) for name in c.model_fields]
    return list(dict.fromkeys(found))
