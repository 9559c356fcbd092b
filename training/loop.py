"""The training loop of every objective: steps, schedule, precision, journal, checkpoints, resume.

Plain functions of their arguments: the same loop runs alone, under Ray Train or in a test, and knows nothing of any of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training import checkpoint
from training.batches import Prepare, Steps, loader
from training.distributed import World, same_everywhere, wrap
from training.journal import Journal, curves

Precision = Literal["float32", "bf16"]


class TrainingError(Exception):
    """A training cannot go on. The text is one sentence: what, where, what to do."""


class Trained(nn.Module):
    """What `fit` trains. A call takes this rank's batch and returns (loss of the global batch, {name: detached term})."""

    progress: float = 0.0
    """Share of all steps done before the present one; `fit` sets it, so schedules need no state."""

    def after_step(self) -> None:
        """Called after each optimiser step, on every rank: what follows the weights without being trained moves here."""

    def rate_factor(self, parameter: str) -> float:
        """What the learning rate of a parameter, named as in the state, is multiplied by."""
        return 1.0


class OptimizerConfig(BaseModel):
    """Adam with L2 on every parameter, as CrossPoint's release trains; `decoupled` makes it AdamW; "sgd" has L2 too, and momentum.

    schedule: "cosine" falls from lr to 0 over the epochs, changed at the end of each; "cosine_compat" changes it at the start, as
    CrossPoint's release does (its last epoch has rate 0); "cosine_step" changes it at every step; "constant"; "cosine_warm" rises linearly
    from `floor` over `warmup_epochs`, then falls to `floor`; "cosine_warm_compat" as Point-BERT runs it: each epoch has the rate of the one
    before, so the first two are at the floor, and the curve is that of one epoch less; "warm_steps" rises linearly with the steps of
    `warmup_epochs` from 1e-5 of lr to lr, and is multiplied by `gamma` at each of the epochs `milestones`, as P4Transformer has it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["adam", "sgd"] = "adam"
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-6, ge=0)
    decoupled: bool = False
    spare_vectors: bool = Field(False, description="no weight decay for biases, norms and learned tokens")
    clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0: any")
    schedule: Literal["cosine", "cosine_compat", "cosine_step", "constant", "cosine_warm", "cosine_warm_compat", "warm_steps"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    warmup_epochs: int = Field(0, ge=0, description="of cosine_warm, cosine_warm_compat and warm_steps")
    milestones: tuple[int, ...] = Field((), description="epochs, of warm_steps")
    gamma: float = Field(0.1, gt=0, le=1, description="of warm_steps")
    floor: float = Field(0.0, ge=0, description="lowest rate of cosine_warm and cosine_warm_compat")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kind == "sgd" and self.decoupled:
            raise ValueError("decoupled weight decay is of adam: set kind: adam, or decoupled: false")
        return self


class FitConfig(BaseModel):
    """What a training does, wherever it runs. `batch` counts objects over all workers; the last incomplete batch is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(100, gt=0)
    batch: int = Field(20, gt=1)
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Precision = "float32"
    seed: int = Field(0, ge=0, lt=2**31)


class Place(BaseModel):
    """Where and how a training runs: nothing here changes its result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(0, ge=0, description="torch threads a worker; 0: torch's default")
    loader_processes: int = Field(0, ge=0, description="processes a worker that prepare batches; 0: the worker itself")
    log_every: int = Field(1, gt=0, description="steps between journal entries")
    checkpoint_seconds: float = Field(120.0, ge=0, description="seconds between checkpoints; 0: at every step")
    keep_checkpoints: int = Field(2, gt=0)


@dataclass(frozen=True)
class FitResult:
    """steps done in all; those of this call, their seconds, and the last entry's metrics."""

    steps: int
    steps_here: int
    seconds: float
    metrics: dict[str, float]


def facts(done: FitResult, began: float, world: World) -> dict[str, Any]:
    """What every training's result.json says of its run; began: seconds since the epoch."""
    return {
        "steps": done.steps,
        "steps_this_run": done.steps_here,
        "seconds_this_run": round(done.seconds, 3),
        "started": began,
        "steps_per_second": done.steps_here / done.seconds if done.steps_here else None,
        "workers": world.size,
        "device": str(world.device),
        "metrics": done.metrics,
    }


def learning_rate(config: OptimizerConfig, step: int, per_epoch: int, epochs: int) -> float:
    """The rate of step `step` (from 0)."""
    epoch = step // per_epoch
    if config.schedule in ("cosine_warm", "cosine_warm_compat"):
        compat = config.schedule == "cosine_warm_compat"
        at, length = (max(epoch - 1, 0), max(epochs - 1, 1)) if compat else (epoch, epochs)
        rising = at / config.warmup_epochs if at < config.warmup_epochs else None
        return config.floor + (config.lr - config.floor) * (0.5 * (1 + math.cos(math.pi * at / length)) if rising is None else rising)
    if config.schedule == "warm_steps":
        rising = step / (config.warmup_epochs * per_epoch) if epoch < config.warmup_epochs else 1.0
        return config.lr * (rising + 1e-5 * (1 - rising)) * config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    done = {
        "cosine": epoch / epochs,
        "cosine_compat": (epoch + 1) / epochs,
        "cosine_step": step / (per_epoch * epochs),
        "constant": 0.0,
    }[config.schedule]
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(config: OptimizerConfig, module: Trained) -> torch.optim.Optimizer:
    """The optimiser over the trainable parameters, a group for each pair of weight decay and factor of the rate ("factor")."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            spared = config.spare_vectors and (parameter.ndim <= 1 or name.endswith("bias") or "token" in name.rpartition(".")[2])
            decay = 0.0 if spared else config.weight_decay
            groups.setdefault((decay, module.rate_factor(name)), []).append(parameter)
    kind = torch.optim.AdamW if config.decoupled else torch.optim.Adam
    plain = [{"params": found, "weight_decay": decay, "factor": factor} for (decay, factor), found in groups.items()]
    if config.kind == "sgd":
        return torch.optim.SGD(plain, config.lr, momentum=config.momentum, fused=True)
    return kind(plain, config.lr, fused=True)


def check_finite(metrics: dict[str, float], step: int) -> None:
    """Raises TrainingError for a loss or a gradient that is not a number, before a checkpoint could keep what it did."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(metrics[name]):
            raise TrainingError(
                f"{name} is {metrics[name]} at step {step}: lower the learning rate or train in float32; nothing of it was kept."
            )


def fit(
    module: Trained,
    prepare: Prepare,
    indices: Any,
    config: FitConfig,
    folder: Path,
    identity: dict[str, Any],
    world: World,
    place: Place,
    after_epoch: Callable[[int], dict[str, float]] | None = None,
) -> FitResult:
    """Trains `module`.

    indices (n,) int64 of the objects; `identity` is stored in checkpoints and must be equal on resume. Writes folder/journal.jsonl and
    folder/checkpoints/. `after_epoch(epoch)` is called on every rank after an epoch's last step, the module in eval mode; what it
    returns goes into the journal; what a resumed training repeats it hears again.
    Raises TrainingError (too few objects, a loss that is not finite), CheckpointError, OSError.
    """
    if len(indices) < config.batch:
        raise TrainingError(f"The split has {len(indices)} objects, fewer than one batch of {config.batch}: make the batch smaller.")
    world.share(config.batch)
    if place.threads:
        torch.set_num_threads(place.threads)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32; bf16 is there for speed
    module.to(world.device).train()
    optimizer = make_optimizer(config.optimizer, module)
    checkpoints = folder / "checkpoints"
    start = checkpoint.load_latest(checkpoints, module, optimizer, identity, sweep=world.leads)
    steps = Steps(indices, config.batch, config.epochs, config.seed, world, start)
    total = steps.per_epoch * config.epochs
    same_everywhere(module)
    wrapped = wrap(module, world)
    journal = Journal(folder / "journal.jsonl") if world.leads else None
    # A run that was killed after its last step has its figures in the journal.
    metrics: dict[str, float] = {name: points[-1][1] for name, points in curves(folder / "journal.jsonl").items()} if start == total else {}
    began = saved = time.perf_counter()
    step = start

    def save() -> None:
        if journal is not None:
            checkpoint.save(checkpoints, step, module, optimizer, identity, keep=place.keep_checkpoints)

    waited = 0.0
    logged, logged_at = step, began
    try:
        if start < total:
            batches = iter(loader(prepare, steps, place.loader_processes, world.device.type == "cuda"))
        for step in range(start + 1, total + 1):
            before = time.perf_counter()
            try:
                prepared = next(batches)
            except Exception as error:
                if place.loader_processes:  # the loader wraps a worker's error in its traceback
                    raise TrainingError(str(error).strip().splitlines()[-1]) from error
                raise
            batch = {name: value.to(world.device, non_blocking=True) for name, value in prepared.items()}
            waited += time.perf_counter() - before
            rate = learning_rate(config.optimizer, step - 1, steps.per_epoch, config.epochs)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            module.progress = (step - 1) / total
            torch.manual_seed((config.seed << 32 ^ step << 8 ^ world.rank) & 0x7FFF_FFFF_FFFF_FFFF)
            loss, terms = step_once(wrapped, batch, optimizer, config.precision, world, config.optimizer.clip)
            module.after_step()
            found: dict[str, float] = {}
            if after_epoch is not None and step % steps.per_epoch == 0:
                module.eval()
                found = after_epoch((step - 1) // steps.per_epoch)
                module.train()
            if found or step % place.log_every == 0 or step in (start + 1, total):
                metrics = {"loss": float(loss), **{name: float(value) for name, value in terms.items()}, **found}
                check_finite(metrics, step)
                now = time.perf_counter()
                metrics["total_steps"] = total
                metrics["lr"] = rate
                metrics["epoch"] = (step - 1) / steps.per_epoch
                metrics["samples_per_second"] = (step - logged) * config.batch / max(now - logged_at, 1e-9)
                metrics["wait_share"] = waited / max(now - logged_at, 1e-9)
                logged, logged_at, waited = step, now, 0.0
                if journal is not None:
                    journal.write(step, metrics)
            if time.perf_counter() - saved >= place.checkpoint_seconds and step < total:
                check_finite({"loss": float(loss), "grad_norm": float(terms["grad_norm"])}, step)
                save()
                saved = time.perf_counter()
        if start < total:
            save()
    finally:
        if journal is not None:
            journal.close()
    return FitResult(total, total - start, time.perf_counter() - began, metrics)


def step_once(
    module: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer, precision: Precision, world: World, clip: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """One optimiser step; returns the detached loss and terms, with `grad_norm` added, the norm before it is clipped to `clip`."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        loss, terms = module(batch)
    loss.backward()
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    if clip:
        nn.utils.clip_grads_with_norm_(trained, clip, norm)
    terms = {**terms, "grad_norm": norm}
    optimizer.step()
    return loss.detach(), terms
