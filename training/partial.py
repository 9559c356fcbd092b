"""Configurations whose defaults are not those of their class: what a file says of them changes the default and keeps the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


def over(default: BaseModel, given: Any) -> Any:
    """`given`, if it is a mapping, laid over what was set in `default`, level by level; anything else as it is.

    Where both name a `kind` and another one is given, nothing of the default's is kept on that level.
    """
    return _merged(default.model_dump(exclude_unset=True), given) if isinstance(given, Mapping) else given


def _merged(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if "kind" in default and given.get("kind", default["kind"]) != default["kind"]:
        return dict(given)
    values = dict(default)
    for name, value in given.items():
        before = values.get(name)
        values[name] = _merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return values
