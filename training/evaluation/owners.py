"""Whose a sample is. Clips of one character or one person are alike: they stand on one side of a cut, and no interval takes them for
independent of each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.reader import Dataset


def owners(dataset: Dataset, opened: npt.NDArray[np.int64]) -> npt.NDArray[np.str_]:
    """Whose each sample of the dataset is, (len(dataset),): the person or character that its json names, else its session, else the
    recording that it was cut from, else its source up to '#'. Only the samples `opened` are read; the others are called by their source."""
    found = [str(source).partition("#")[0] for source in dataset.table["source"].to_pylist()]
    for index in opened.tolist():
        about = dataset.load(index, ("json",))["json"]
        clip, facts = about.get("clip", {}), about.get("facts", {})
        names = (clip.get("character"), facts.get("person"), facts.get("session"), clip.get("recording"))
        found[index] = str(next((name for name in names if name), found[index]))
    return np.array(found, np.str_)


def numbered(whose: npt.NDArray[np.str_]) -> list[int]:
    """Owners (n,) as numbers from 0, in the order in which they come first: what figures hold as details["owners"]."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in whose.tolist()]
