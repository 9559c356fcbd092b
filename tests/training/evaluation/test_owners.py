"""Whose a sample is comes from what its json says, and figures of clips say it of each of their items."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from training.evaluation.owners import numbered, owners

ABOUT: list[dict[str, Any]] = [
    {"clip": {"character": "knight"}, "facts": {"person": "p1"}},
    {"clip": {"character": ""}, "facts": {"person": "p1", "session": "A"}},
    {"clip": {}, "facts": {"session": "A"}},
    {"clip": {}},
    {},
    {"clip": {"character": "knight"}},
    {"clip": {"recording": "f.h5#00001"}, "facts": {"person": ""}},
    {"clip": {"recording": "g.txt"}, "facts": {"session": "A"}},
]
SOURCES = ["a.glb#0", "b.bin", "c.txt", "d.h5#00001", "d.h5#00002", "e.glb#3", "f.h5#00001@00003", "g.txt@00010"]


def dataset() -> Any:
    return SimpleNamespace(table=pa.table({"source": SOURCES}), load=lambda index, _: {"json": ABOUT[index]})


def test_character_person_session_recording_or_file_in_this_order() -> None:
    assert owners(dataset(), np.arange(8)).tolist() == ["knight", "p1", "A", "d.h5", "d.h5", "knight", "f.h5#00001", "A"]


def test_samples_that_are_not_opened_are_their_files() -> None:
    assert owners(dataset(), np.array([5])).tolist() == ["a.glb", "b.bin", "c.txt", "d.h5", "d.h5", "knight", "f.h5", "g.txt@00010"]


def test_numbers_are_in_the_order_of_coming() -> None:
    assert numbered(np.array(["b", "a", "b", "c"])) == [0, 1, 0, 2]
