"""The curves of a training, whatever is trained: its losses, what watches over them, its pace."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from orchestration.graph import Outcome
from orchestration.report import charts
from orchestration.report.figures import differences, paper_known
from training.journal import curves

_NAMES = {
    "loss": "loss",
    "loss_intra": "contrast of two views of a cloud",
    "loss_cross": "contrast of cloud and image",
    "loss_pi": "contrast, points → images",
    "loss_ip": "contrast, images → points",
    "loss_pp": "contrast, points → points",
    "loss_ii": "contrast, images → images",
    "loss_fused": "contrast with fused features",
    "loss_mcm": "masked tokens, cross-entropy with their targets",
    "target_entropy": "entropy of the targets, the least that it can be",
    "loss_reconstruction": "reconstruction, Chamfer distance of coarse and fine",
    "loss_intra_video": "contrast of two views of a clip",
    "loss_intra_frame": "contrast of frames of two views of a clip",
    "loss_cross_video": "contrast of point video and image video",
    "loss_cross_frame": "contrast of frames of points and of images",
    "loss_distill": "distillation, partial frames to the complete ones",
    "loss_forward": "distillation to the next frame",
    "loss_backward": "distillation to the frame before",
    "loss_kl": "divergence of the codes from even use",
    "val_loss": "loss of the validation items",
    "val_accuracy": "accuracy of the validation items",
    "val_mean_class_accuracy": "mean class accuracy of the validation items",
    "val_instance_miou": "instance mIoU of the validation items",
    "val_class_miou": "class mIoU of the validation items",
    "val_frame_accuracy": "accuracy of the validation frames",
    "val_edit": "edit score of the validation items",
    "val_f1_10": "F1@10 of the validation items",
    "val_f1_25": "F1@25 of the validation items",
    "val_f1_50": "F1@50 of the validation items",
    "val_miou": "mIoU of the validation items",
    "val_point_accuracy": "accuracy of the validation points",
    "train_accuracy": "accuracy of the training batch",
    "token_accuracy": "masked tokens predicted right",
    "commonest_token": "share of the commonest token, what guessing it gives",
    "token_perplexity": "perplexity of the masked tokens",
    "embedding_std": "spread of the embeddings, 1 if even, 0 if collapsed",
    "frame_std": "spread of the frames of a clip, 0 if all alike",
    "image_std": "spread of the image videos, 1 if even, 0 if collapsed",
    "frame_pairs": "corresponding frames of two views, of a clip",
    "short": "share of clips that were filled up",
    "seen": "share of the points that the partial clip has",
    "shortcut": "frames of a still clip found, which should be a matter of chance",
    "shortcut_start": "what answering by the place gives",
    "shortcut_chance": "frames of a still clip found by chance",
    "effective_rank": "effective rank of the embeddings",
    "queue_similarity": "mean similarity within the queue, 1 if collapsed",
    "perplexity": "perplexity of the codes in a batch",
    "codes_used": "share of the codes used in a batch",
    "temperature": "temperature of the choice of codes",
    "grad_norm": "norm of the gradient",
    "lr": "learning rate",
    "samples_per_second": "samples per second",
    "wait_share": "share of the time waiting for data",
}
# A curve and the one that is drawn into its chart, dashed.
_TOGETHER = {"loss_mcm": "target_entropy", "token_accuracy": "commonest_token", "shortcut": "shortcut_start"}
_PACE = ("lr", "samples_per_second", "wait_share")
_UNDRAWN = {"loss", "total_steps", "epoch", "target_temperature"}
_EXACT = {"lr", "temperature"}


@dataclass(frozen=True)
class Chart:
    """A drawing with its caption; `dashed` names the dashed line."""

    title: str
    drawing: Markup
    dashed: str = ""


@dataclass(frozen=True)
class Training:
    """One arm: its curves, parameters, one row of facts per seed; what differs from the paper, or from defaults if not `paper`."""

    arm: str
    loss: Markup
    groups: list[tuple[str, list[Chart]]]
    seeds: list[int]
    facts: list[tuple[str, str]]
    paper: bool
    differences: list[tuple[str, str, str]]


def title(name: str) -> str:
    """A curve's name in words."""
    return _NAMES.get(name, name.replace("_", " "))


def arms_of(outcomes: Mapping[str, Outcome], kind: str) -> dict[str, list[tuple[int, Outcome]]]:
    """(seed, stage) by arm, of the stages KIND/ARM/sSEED."""
    arms: dict[str, list[tuple[int, Outcome]]] = {}
    for outcome in outcomes.values():
        if outcome.kind == kind:
            _, arm, seed = outcome.name.split("/")
            arms.setdefault(arm, []).append((int(seed.removeprefix("s")), outcome))
    return arms


def training(arm: str, found: Sequence[tuple[int, Outcome]]) -> Training:
    """The page's view of one arm's stages."""
    outputs = found[0][1].outputs
    facts = [
        ("parameters", ", ".join(f"{part.replace('_', ' ')} {count:,}" for part, count in outputs.get("parameters", {}).items() if count))
    ]
    facts += [(f"seed {seed}", run(outcome.outputs)) for seed, outcome in found]
    loss, groups = drawn(arm, {f"seed {seed}": outcome.folder for seed, outcome in found})
    config = outputs.get("config") if found[0][1].kind == "pretrain" else None
    seeds = [seed for seed, _ in found]
    facts = [fact for fact in facts if fact[1]]
    return Training(arm, loss, groups, seeds, facts, paper_known(config or {}), differences(config) if config else [])


def drawn(
    name: str, folders: Mapping[str, Path], colors: Sequence[int] | None = None, skip: Collection[str] = ()
) -> tuple[Markup, list[tuple[str, list[Chart]]]]:
    """The loss, and the charts of all other curves but `skip` in groups, of journals by label. colors: of each, by default its number."""
    journals = {label: curves(folder / "journal.jsonl") for label, folder in folders.items()}
    known = [curve for curve in dict.fromkeys(c for journal in journals.values() for c in journal) if curve not in {*_UNDRAWN, *skip}]
    taken = {second for first, second in _TOGETHER.items() if first in known and second in known}

    def chart(curve: str) -> Chart:
        beside = _TOGETHER.get(curve, "")
        beside = beside if beside in taken else ""
        series = [
            charts.Series(f"{label}{', ' + title(one) if beside else ''}", journal.get(one, []), color, one == beside)
            for one in filter(None, (curve, beside))
            for color, (label, journal) in zip(colors or range(len(journals)), journals.items(), strict=True)
        ]
        return Chart(title(curve), charts.lines(f"{title(curve)} of {name}", series, window=1 if curve in _EXACT else None), title(beside))

    losses = [curve for curve in known if curve.startswith(("loss_", "val_loss"))]
    rest = [curve for curve in known if curve not in losses and curve not in _PACE and curve not in taken]
    named = (("Parts of the loss", losses), ("Monitors", rest), ("Pace", [curve for curve in _PACE if curve in known]))
    groups = [(words, [one for one in map(chart, some) if one.drawing]) for words, some in named]
    return chart("loss").drawing, [group for group in groups if group[1]]


def run(outputs: Mapping[str, Any]) -> str:
    """How a training went, in a line."""
    words = []
    if outputs.get("metrics", {}).get("loss") is not None:
        words.append(f"loss {outputs['metrics']['loss']:.3f}")
    if outputs.get("steps") is not None:
        words.append(f"{outputs['steps']:,} steps")
    if outputs.get("steps_per_second"):
        words.append(f"{outputs['steps_per_second']:.3g} steps a second")
    if outputs.get("workers") is not None:
        words.append(f"{outputs['workers']} worker{'' if outputs['workers'] == 1 else 's'} on {outputs.get('device', '?')}")
    return ", ".join(words)
