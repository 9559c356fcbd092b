"""What an encoder is fine-tuned to do. Each file is one task: its configuration, label space, head, loss, scores of items and figures."""

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.reader import Dataset
from training.tasks.classification import Classification, ClassificationConfig
from training.tasks.parts import Parts, PartsConfig

TaskConfig = Annotated[ClassificationConfig | PartsConfig, Field(discriminator="kind")]
Task = Classification | Parts


def open_task(config: ClassificationConfig | PartsConfig, dataset: Dataset, train: npt.NDArray[np.int64]) -> Task:
    """The task with its label space, read from the training split's items alone. Raises ValueError where that holds too few labels."""
    match config:
        case ClassificationConfig():
            return Classification.of(config, dataset, train)
        case PartsConfig():
            return Parts.of(config, dataset, train)


def task_from_record(config: ClassificationConfig | PartsConfig, record: dict[str, Any]) -> Task:
    """The task with the label space that its `record` gave."""
    match config:
        case ClassificationConfig():
            return Classification.from_record(config, record)
        case PartsConfig():
            return Parts.from_record(config, record)


__all__ = ["Classification", "ClassificationConfig", "Parts", "PartsConfig", "Task", "TaskConfig", "open_task", "task_from_record"]
