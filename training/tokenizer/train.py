"""Training of the point tokenizer: a dataset's clouds become a frozen discrete VAE on disk, judged before anything builds on it.

    L = L_rec + w · L_KL
    L_rec = CD1(coarse, patch) + CD1(fine, patch)      mean over patches; CD1 = ½(mean √d + mean √d), d squared nearest distances
    L_KL  = KL(uniform ‖ q̄)                            q̄ a cloud's mean token distribution; mean over clouds

The temperature falls and w rises by half cosines between fractions of the run; losses and fractions are those of Point-BERT's release
(arXiv 2111.14819). Scaling as augmentation is a choice of ours: the clouds that the tokenizer will label are scaled too.

FOLDER/ afterwards: journal.jsonl, checkpoints/, evidence/ (judgement.json, reconstructions.npz, reconstructions.json); and unless the
tokenizer has collapsed, tokenizer/ (weights and configuration) and result.json, written last.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from torch import Tensor

from pipeline.reader import Dataset
from training.augment import PointAugment, augment_points, rng_for
from training.batches import Sample
from training.distributed import World, barrier, gather
from training.encoder_file import fingerprint
from training.files import FileError, check_folder, read_plain, read_tensors, write_folder, write_json
from training.loop import FitConfig, OptimizerConfig, Place, Trained, TrainingError, facts, fit
from training.noise import key_for
from training.ops.batchnorm import sum_over_ranks
from training.ops.chamfer import chamfer_l1
from training.partial import over
from training.tokenizer.dvae import DVAE, DVAEConfig, mean_log_distribution, uniformity
from training.tokenizer.judge import JudgeConfig, by_content, cross_chamfer, judge, patch_codes, perplexity

FORMAT = 1


_AUGMENT = PointAugment(count=1024, scale=(2 / 3, 3 / 2), per_axis=True, rotation="none", translate=0.0, jitter_sigma=0.0, dropout=0.0)
_FIT = FitConfig(
    epochs=300,
    batch=64,
    optimizer=OptimizerConfig(lr=5e-4, weight_decay=5e-4, decoupled=True, schedule="cosine_warm", warmup_epochs=10, floor=1e-6),
)


class TokenizerConfig(BaseModel):
    """One training of a tokenizer; sizes, losses, schedules and optimiser default to those of Point-BERT's release."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: DVAEConfig = DVAEConfig()
    augment: PointAugment = _AUGMENT
    fit: FitConfig = _FIT
    temperature: tuple[float, float] = Field((1.0, 0.0625), description="of the Gumbel softmax: first, and from `temperature_until` on")
    temperature_until: float = Field(0.51, gt=0, le=1, description="share of the run")
    kl_weight: float = Field(0.1, ge=0, description="w from `kl_until` on; 0 up to `kl_from`")
    kl_over: Literal["cloud", "batch"] = Field("cloud", description="whose mean distribution q̄ is; the release's is a cloud's")
    kl_from: float = Field(0.05, ge=0, le=1, description="share of the run")
    kl_until: float = Field(0.56, gt=0, le=1, description="share of the run")
    guided: float = Field(0.0, ge=0, lt=1, description="share of the run in which tokens are taught by k-means patches; 0: the release")
    guide_weight: float = Field(0.05, gt=0, description="of the cross entropy with the guide; falls to 0 in as long again")
    hard: bool = Field(False, description="one token a patch in training too, with the soft choice's gradient")
    split: str = "train"
    held_out: float = Field(0.1, gt=0, lt=1, description="share of `split`, by content, kept for validation where there is no split val")
    gate: bool = Field(True, description="end with an error where the tokenizer has collapsed")
    min_perplexity: float = Field(0.05, ge=0, le=1, description="of the gate: least perplexity of the labels, as a share of the vocabulary")
    judge: JudgeConfig = JudgeConfig()

    @field_validator("augment", "fit", mode="before")
    @classmethod
    def _over_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        return over(_AUGMENT if info.field_name == "augment" else _FIT, value)


def ramp(progress: float, start: float, end: float) -> float:
    """Half a cosine from 0 at `start` to 1 at `end`."""
    share = min(1.0, max(0.0, (progress - start) / (end - start))) if end > start else float(progress >= start)
    return 0.5 * (1 - math.cos(math.pi * share))


def temperature(config: TokenizerConfig, progress: float) -> float:
    """τ at a share of the run."""
    first, last = config.temperature
    return first + (last - first) * ramp(progress, 0.0, config.temperature_until)


def kl_weight(config: TokenizerConfig, progress: float) -> float:
    """w at a share of the run."""
    return config.kl_weight * ramp(progress, config.kl_from, config.kl_until)


class Tokenizing(Trained):
    """The loss of a batch: points (b, N, 3) and noise (b,)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.dvae = DVAE(config.model)
        guides = config.model.vocabulary if config.guided else 0
        self.register_buffer("guide_patches", torch.zeros(guides, config.model.group_size, 3))
        self.guide_patches: Tensor

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Terms: both losses, the temperature, `perplexity` of the batch's mean soft distribution, `codes_used`, the share of labels."""
        tau = temperature(self.config, self.progress)
        patches = self.dvae.patch(batch["points"])
        wanted = patches.offsets.flatten(0, 1)
        guide_weight = self.config.guide_weight * (1 - ramp(self.progress, self.config.guided, 2 * self.config.guided))
        guide = None
        if self.config.guided and guide_weight > 0:
            with torch.no_grad():
                guide = cross_chamfer(wanted, self.guide_patches).argmin(1).view(patches.centres.shape[:2])
        guided = self.progress < self.config.guided
        made = self.dvae(patches, tau, batch["noise"], self.config.hard, guide if guided else None)
        apart = chamfer_l1(made.coarse.flatten(0, 1), wanted) + chamfer_l1(made.fine.flatten(0, 1), wanted)
        reconstruction = gather(apart.view(patches.centres.shape[:2]).mean(1)).mean()
        usage_log = gather(mean_log_distribution(made.logits))
        if self.config.kl_over == "batch":
            usage_log = (usage_log.logsumexp(0) - math.log(len(usage_log)))[None]
        divergence = uniformity(usage_log).mean()
        loss = reconstruction + kl_weight(self.config, self.progress) * divergence
        extra = {}
        if guide is not None:
            missed = gather(F.cross_entropy(made.logits.flatten(0, 1), guide.flatten(), reduction="none").view(guide.shape).mean(1)).mean()
            loss = loss + guide_weight * missed
            extra = {"loss_guide": missed.detach()}
        with torch.no_grad():
            usage = sum_over_ranks(made.logits.softmax(-1).flatten(0, 1).sum(0))
            labels = sum_over_ranks(torch.bincount(made.logits.argmax(-1).flatten(), minlength=len(usage)))
            terms = {
                "loss_reconstruction": reconstruction.detach(),
                "loss_kl": divergence.detach(),
                "temperature": torch.tensor(tau),
                "perplexity": perplexity(usage),
                "codes_used": (labels > 0).float().mean(),
                **extra,
            }
        return loss, terms


def fresh(config: TokenizerConfig) -> Tokenizing:
    """The module with random weights from the configuration's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.fit.seed)
        return Tokenizing(config)


def divide(config: TokenizerConfig, dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Indices for training, validation and test. Without a split val, a part of the training split, chosen by content, validates.

    Raises TrainingError where nothing is left for training or for validation.
    """
    training, validation, test = (dataset.indices(name) for name in (config.split, "val", "test"))
    if not len(validation) or config.split == "val":
        contents = dataset.table["sha256"].to_pylist()
        kept = np.array([_share(contents[i] or dataset.keys[i]) < config.held_out for i in training.tolist()], bool)
        training, validation = training[~kept], training[kept]
    if not len(training) or not len(validation):
        raise TrainingError(
            f"The split {config.split!r} of {dataset.uri} leaves {len(training)} samples for training and {len(validation)} for "
            "validation: name another split or change held_out."
        )
    return training, validation, test if config.split != "test" else test[:0]


def _share(content: str) -> float:
    """A number in [0, 1) from an asset's content, independent of the seeds made from it."""
    return int(hashlib.sha256(f"held out/{content}".encode()).hexdigest()[:8], 16) / 2**32


def _prepare(augment: PointAugment, dataset: Dataset, seed: int, index: int, epoch: int) -> Sample:
    key = dataset.keys[index]
    points = dataset.load(index, ("points.npy",))["points.npy"]
    return {
        "points": augment_points(points, augment, rng_for(seed, epoch, key, "points")),
        "noise": np.asarray(key_for(seed, epoch, key), np.int64),
    }


def set_guide(module: Tokenizing, dataset: Dataset, training: NDArray[np.int64], device: torch.device) -> None:
    """Gives the module k-means patches of augmented training clouds, and tokens' vectors that are alike where those patches are.

    A token's vector starts as random Fourier features of its patch, averaged over the patch's points, standardised over tokens. For short
    runs, and our own: from random weights, tokens say too little about their patches for the decoder to listen to them.
    """
    config = module.config
    seed, generator = config.fit.seed, torch.Generator().manual_seed(config.fit.seed)
    chosen = by_content(dataset, training)[: max(1, config.judge.patches // config.model.groups)]
    clouds = np.stack([_prepare(config.augment, dataset, seed, int(index), 0)["points"] for index in chosen])
    patches = torch.cat([module.dvae.patch(part).offsets.flatten(0, 1) for part in torch.split(torch.from_numpy(clouds), 32)])
    start = patches[torch.randperm(len(patches), generator=generator)[torch.arange(config.model.vocabulary) % len(patches)]]
    found = patch_codes(patches.to(device), start.to(device), config.judge.steps, config.judge.batch, generator).cpu()
    waves = torch.randn(3, config.model.codebook, generator=generator) * (1.5 / found.norm(dim=-1).mean())
    phases = 2 * math.pi * torch.rand(config.model.codebook, generator=generator)
    features = torch.cos(found @ waves + phases).mean(1)
    module.guide_patches.copy_(found)
    with torch.no_grad():
        module.dvae.codebook.copy_((features - features.mean(0)) / features.std(0))


def train_tokenizer(
    config: TokenizerConfig, dataset: Dataset, folder: Path, world: World, place: Place, given: Path | None = None
) -> dict[str, Any]:
    """Trains, or goes on with, the tokenizer in `folder`, judges it and returns what result.json holds.

    Raises as `training.loop.fit` does, and TrainingError where the tokenizer has collapsed or `given` names weights to start from.
    """
    if given is not None:
        raise TrainingError(f"A tokenizer starts from random weights, and {given} was given to it: leave that out.")
    identity = {"config": config.model_dump(mode="json"), "dataset": dataset.fingerprint}
    training, validation, test = divide(config, dataset)
    module = fresh(config)
    began = time.time()
    prepare = functools.partial(_prepare, config.augment, dataset, config.fit.seed)
    if config.guided:
        set_guide(module, dataset, training, world.device)
    done = fit(module, prepare, training, config.fit, folder, identity, world, place)
    evidence = folder / "evidence"
    if world.leads:
        module.dvae.freeze()
        mark = {**identity, "fingerprint": fingerprint(module.dvae, config.model)}
        if not _judged(evidence, mark):
            found = judge(module.dvae, dataset, training, validation, test, config.augment, config.judge, config.fit.seed, world.device)
            found.write(evidence, mark)
    barrier()
    figures: dict[str, Any] = read_plain(evidence, "judgement")
    if config.gate:
        check_alive(config, figures)
    if world.leads:
        save(folder / "tokenizer", module.dvae, {**identity, "steps": done.steps})
        children: dict[str, int] = {name: sum(p.numel() for p in child.parameters()) for name, child in module.dvae.named_children()}
        result = {
            **identity,
            "fingerprint": figures["fingerprint"],
            **facts(done, began, world),
            "objects": len(training),
            "parameters": {**children, "codebook": module.dvae.codebook.numel()},
            "judgement": {name: value for name, value in figures.items() if name not in identity},
        }
        write_json(folder / "result.json", result)
    barrier()
    loaded: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return loaded


def _judged(evidence: Path, identity: dict[str, Any]) -> bool:
    """Whether these very weights have been judged: the test split is opened once."""
    try:
        found = read_plain(evidence, "judgement")
    except FileError:
        return False
    return all(found.get(name) == value for name, value in identity.items())


def check_alive(config: TokenizerConfig, figures: dict[str, Any]) -> None:
    """Raises TrainingError where a judgement shows a collapse; the test split has no part in it."""
    used, held = figures["training"], figures["validation"]
    floor = config.min_perplexity * config.model.vocabulary
    if used["perplexity"] < floor:
        raise TrainingError(
            f"The tokenizer collapsed: its labels have a perplexity of {used['perplexity']:.1f}, below {floor:.1f} (min_perplexity × the "
            f"vocabulary of {config.model.vocabulary}), with {used['codes_used']} tokens in use: raise kl_weight or the last temperature, "
            "change the learning rate, make the vocabulary smaller, guide a larger share of the run (guided), or set gate to false."
        )
    fine, fixed = held["chamfer_fine"], held["chamfer_fixed_patch"]
    if fine >= fixed:
        raise TrainingError(
            f"The tokenizer reconstructs no better than one fixed patch: a Chamfer distance of {fine:.5f} against {fixed:.5f} on "
            "validation clouds: train longer, guide a share of the run (guided), lower kl_weight, change the learning rate, or set gate "
            "to false."
        )


# ---- the tokenizer on disk ---------------------------------------------------------------------------------------------


def save(folder: Path, dvae: DVAE, provenance: dict[str, Any]) -> None:
    """Writes tokenizer.safetensors and tokenizer.json into `folder`."""
    config = dvae.config.model_dump(mode="json")
    record = {"format": FORMAT, "config": config, "fingerprint": fingerprint(dvae, dvae.config), "provenance": provenance}
    write_folder(folder, {"tokenizer": dvae.state_dict()}, {"tokenizer": record})


def load_tokenizer(folder: Path) -> DVAE:
    """The tokenizer of a finished training's folder, frozen. Raises FileError where files are missing, damaged or of another kind."""
    place = folder / "tokenizer"
    check_folder(place)
    record = read_plain(place, "tokenizer")
    if record["format"] != FORMAT:
        raise FileError(f"{place} has format {record['format']}, and this version reads {FORMAT}: train the tokenizer again.")
    try:
        dvae = DVAE(DVAEConfig.model_validate(record["config"]))
        dvae.load_state_dict(read_tensors(place, "tokenizer"))
    except (ValidationError, RuntimeError) as error:
        raise FileError(f"The weights in {place} do not fit the configuration beside them: train the tokenizer again.") from error
    if fingerprint(dvae, dvae.config) != record["fingerprint"]:
        raise FileError(f"The weights in {place} have another fingerprint than tokenizer.json records: train the tokenizer again.")
    return dvae.freeze()


__all__ = ["TokenizerConfig", "Tokenizing", "load_tokenizer", "train_tokenizer"]
