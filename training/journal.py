"""The journal of a training: one JSON line per entry, appended and flushed; trackers and progress bars read it from outside.

An entry is {"step": int, "time": seconds since the epoch, "metrics": {name: number}}. A resumed training repeats steps after its
checkpoint; readers keep the last entry of a step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

Entry = dict[str, object]


class Journal:
    """Appends entries to a file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A line that a kill cut short must not swallow the next one.
        torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file: TextIO = path.open("a")
        if torn:
            self._file.write("\n")

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), "metrics": metrics}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def entries(path: Path, offset: int = 0) -> Iterator[tuple[Entry, int]]:
    """Whole entries from a byte offset on, each with the offset after it; torn lines are passed over."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                yield json.loads(line), offset
            except ValueError:
                continue


def curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Each metric as (step, value) in order of steps, the last entry of a step counting."""
    found: dict[str, dict[int, float]] = {}
    for entry, _ in entries(path):
        metrics = entry["metrics"]
        assert isinstance(metrics, dict)
        for name, value in metrics.items():
            found.setdefault(name, {})[int(str(entry["step"]))] = float(value)
    return {name: sorted(values.items()) for name, values in found.items()}
