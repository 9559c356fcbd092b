"""What an encoder is fine-tuned to do. Each file is one task: its configuration, label space, head, loss, how its items are drawn for
training and seen for scores, their rows and figures, and what is kept of them to be looked at."""

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from pipeline.reader import Dataset
from training.clip_views import ClipAugment
from training.encoders import check_clip, is_video
from training.tasks.action_segmentation import ActionSegmentation, ActionSegmentationConfig
from training.tasks.classification import Classification, ClassificationConfig
from training.tasks.parts import Parts, PartsConfig
from training.tasks.point_segmentation import PointSegmentation, PointSegmentationConfig
from training.tasks.recognition import Recognition, RecognitionConfig
from training.tasks.viewing import Viewing

AnyTaskConfig = ClassificationConfig | PartsConfig | RecognitionConfig | ActionSegmentationConfig | PointSegmentationConfig
TaskConfig = Annotated[AnyTaskConfig, Field(discriminator="kind")]
Task = Classification | Parts | Recognition | ActionSegmentation | PointSegmentation


def fits(config: AnyTaskConfig, encoder: BaseModel, viewing: Viewing) -> None:
    """Raises ValueError, in one sentence, for an encoder that does not take what the task shows it."""
    video, kind = isinstance(viewing.augment, ClipAugment), getattr(encoder, "kind", "encoder")
    if video and not is_video(encoder):
        raise ValueError(f"The task {config.kind} is one of clips, and {kind} encodes single clouds: name an encoder of videos.")
    if not video and is_video(encoder):
        raise ValueError(f"The task {config.kind} is one of single clouds, and {kind} encodes clips: name an encoder of clouds.")
    if isinstance(viewing.augment, ClipAugment) and (wanted := getattr(encoder, "features", 0)) != len(viewing.augment.features):
        raise ValueError(
            f"The encoder takes {wanted} features beside the coordinates of a point, and augment.features names "
            f"{len(viewing.augment.features)}: make them the same."
        )
    if isinstance(viewing.augment, ClipAugment):
        check_clip(encoder, viewing.augment.frames, viewing.points)


def open_task(config: AnyTaskConfig, dataset: Dataset, train: npt.NDArray[np.int64]) -> Task:
    """The task with its label space, read from the training split's items alone. Raises ValueError where that holds too few labels."""
    match config:
        case ClassificationConfig():
            return Classification.of(config, dataset, train)
        case PartsConfig():
            return Parts.of(config, dataset, train)
        case RecognitionConfig():
            return Recognition.of(config, dataset, train)
        case ActionSegmentationConfig():
            return ActionSegmentation.of(config, dataset, train)
        case PointSegmentationConfig():
            return PointSegmentation.of(config, dataset, train)


def task_from_record(config: AnyTaskConfig, record: dict[str, Any]) -> Task:
    """The task with the label space that its `record` gave."""
    match config:
        case ClassificationConfig():
            return Classification.from_record(config, record)
        case PartsConfig():
            return Parts.from_record(config, record)
        case RecognitionConfig():
            return Recognition.from_record(config, record)
        case ActionSegmentationConfig():
            return ActionSegmentation.from_record(config, record)
        case PointSegmentationConfig():
            return PointSegmentation.from_record(config, record)


__all__ = [
    "ActionSegmentation",
    "ActionSegmentationConfig",
    "AnyTaskConfig",
    "Classification",
    "ClassificationConfig",
    "Parts",
    "PartsConfig",
    "PointSegmentation",
    "PointSegmentationConfig",
    "Recognition",
    "RecognitionConfig",
    "Task",
    "TaskConfig",
    "fits",
    "open_task",
    "task_from_record",
]
