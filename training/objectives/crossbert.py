"""Cross-BERT as reconstructed here: point–image alignment and masked cross-modal modelling.

Source: Li et al., "Cross-BERT for Point Cloud Pretraining" (arXiv 2312.04891), of which the abstract is known and no code is public.
That the two tasks exist, that alignment contrasts across and within modalities, that masked tokens are predicted through an interactive
cross-modal encoder and from several choices, is reported of it; every formula below is inferred from published relatives (Point-BERT,
mc-BEiT, MoCo, ALBEF, TCL) or ours, and can be configured. No result of this module is that paper's.

    X^a, X^b  two views of a cloud (B, N, 3); I^a, I^b two views of an image of it (B, 3, S, S); patches of X^a are made once
    z_p = H_p(E_p(X^a)_cls), z_i = H_i(E_i(I^a)_cls)                     length 1, (B, D); k_p, k_i of the momentum copies on X^b, I^b

    alignment        L_xy = − mean_b Σ_j y_bj log softmax_j(z_x,b · Z_y,j / τ)         Z_y = k_y of the global batch, and the queue of y
        PIC = mean(L_pi, L_ip)   UMC = mean(L_pp, L_ii)                  keys of the query's own sample are its target, never negatives
    masked modelling F = E_p(X^a; mask), U = ICE(F, A E_i(I^a)), l = head(U) on hidden patches
        P = softmax(tokenizer(X^a) / τ_t)          (B, G, V), τ_t such that the mean perplexity of P is `perplexity`
        W = softmax_rows(R̂ R̂ᵀ / τ_s)              (B, G, G), R the momentum copies' fused features of the whole cloud
        T = (1 − ω) P + ω W P                      no gradient; ω rises from 0 over `ramp`
        L_mcm = − mean over hidden patches of the global batch of Σ_v T_v log softmax(l)_v
    L = λ_a (PIC + λ_u UMC) + λ_m L_mcm

After each step the momentum copies move and the keys of the global batch enter the queues. Of all this E_p is kept.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.reader import Dataset
from training.augment import Cloud, ImageAugment, PointAugment, augment_image, augment_points, rng_for
from training.batches import Sample
from training.distributed import gather, my_rank
from training.encoders import ImageEncoderConfig, PointTransformer, PointTransformerConfig, ViTConfig
from training.encoders import build as build_encoder
from training.encoders.fusion import Fusion, FusionConfig
from training.key_queue import KeyQueue
from training.loop import Trained
from training.losses import info_nce
from training.masking import MaskConfig, draw_mask
from training.momentum import follow, teacher
from training.noise import fold, key_for
from training.ops.batchnorm import BatchNorm1d
from training.ops.grouping import Patches
from training.partial import over
from training.tokenizer.dvae import DVAE
from training.tokenizer.train import TokenizerConfig

Term = Literal["pi", "ip", "pp", "ii"]
Weight = Annotated[float, Field(ge=0)]


class Alignment(BaseModel):
    """Contrast. A term xy has queries of modality x and keys of y: pi and ip make PIC, pp and ii UMC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: Weight = Field(1.0, description="λ_a")
    unimodal_weight: Weight = Field(1.0, description="λ_u")
    terms: tuple[Term, ...] = Field(("pi", "ip", "pp", "ii"), min_length=1)
    temperature: float = Field(0.07, gt=0)
    width: int = Field(512, gt=0, description="D, of heads and keys")
    head_norm: bool = Field(False, description="batch norm in the heads, against a start in which all embeddings agree; not Point-BERT's")
    keys: Literal["momentum", "online"] = Field(
        "momentum", description="who makes the batch's keys: the momentum copies, or the trained networks, whose keys take gradient too"
    )
    queue: int = Field(16384, ge=0, description="K, keys of each modality; at most a tenth of the objects is good")
    queue_start: Literal["counted", "noise"] = "counted"
    candidates: Literal["batch", "queue", "both"] = "both"
    same_id: Literal["drop", "share"] = Field("drop", description="other keys of the query's object: left out, or positives too")
    soft_targets: float = Field(0.0, ge=0, le=1, description="α, the momentum similarities' share of the target of pi and ip")
    points: Literal["full", "masked"] = Field("full", description="which pass gives z_p; masked saves one")
    cross_keys: Literal["a", "b"] = Field("b", description="the view whose keys pi and ip meet")
    fused: bool = Field(False, description="z_p and z_i also meet the momentum copies' fused CLS")

    @property
    def trained(self) -> frozenset[str]:
        """The modalities, of p and i, whose embeddings take gradient."""
        sides = 2 if self.keys == "online" else 1  # of a term's two
        return frozenset("".join(term[:sides] for term in self.terms) + ("pi" if self.fused else ""))


class Modelling(BaseModel):
    """Masked prediction of tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: Weight = Field(1.0, description="λ_m")
    start: float = Field(0.0, ge=0, lt=1, description="share of the run without it: alignment first")
    tokens: Literal["dvae", "momentum"] = Field(
        "dvae", description="whose distribution is the target; momentum: centred, sharpened, no tokenizer"
    )
    choice: Literal["single", "soft", "smoothed"] = Field("smoothed", description="arg max of P, P, or T")
    predict_from: Literal["point", "ice", "both"] = "ice"
    refine_from: Literal["student", "teacher_point", "teacher_ice"] = Field("teacher_ice", description="R, where the choice is smoothed")
    target_grad: bool = Field(False, description="gradient through W where R is the student's, as mc-BEiT has it")
    temperature: float | None = Field(None, gt=0, description="τ_t; if not given, calibrated by `perplexity`")
    perplexity: float = Field(8.0, gt=1)
    smoothing: float = Field(0.2, ge=0, le=1, description="ω")
    smoothing_temperature: float = Field(0.3, gt=0, description="τ_s")
    ramp: float = Field(0.1, ge=0, le=1, description="share of the run in which ω rises")
    top: int = Field(0, ge=0, description="largest entries of P that are kept; 0: all")


_POINTS = PointAugment(
    count=1024, scale=(2 / 3, 3 / 2), per_axis=True, rotation="none", translate=0.0, shift=0.2, jitter_sigma=0.0, dropout=0.0
)
_IMAGES = ImageAugment(crop=(0.8, 1.0), flip=0.0)
"""not mirrored: an image would no longer match its cloud"""


class CrossBertConfig(BaseModel):
    """Sizes are Point-BERT's where it has them; the paper's own are not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["crossbert"] = "crossbert"
    alignment: Alignment = Alignment()
    modelling: Modelling = Modelling()
    mask: MaskConfig = MaskConfig()
    fusion: FusionConfig = FusionConfig()
    image: ImageEncoderConfig = ViTConfig()
    image_weights: Path | None = Field(None, description="safetensors that the image encoder starts from, in its own names")
    image_gradient: Literal["all", "alignment", "none"] = Field("all", description="which losses train the image encoder")
    momentum: float = Field(0.999, ge=0, le=1)
    tokenizer: TokenizerConfig = TokenizerConfig()
    second_image: Literal["view", "same"] = Field(
        "view", description="I^b: another of the object's images where it has one, or the same one"
    )
    point_augment: PointAugment = _POINTS
    image_augment: ImageAugment = _IMAGES

    @field_validator("point_augment", "image_augment", mode="before")
    @classmethod
    def _over_defaults(cls, value: Any, info: ValidationInfo) -> Any:
        return over(_POINTS if info.field_name == "point_augment" else _IMAGES, value)

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        if not self.alignment.weight and not self.modelling.weight:
            raise ValueError("alignment.weight and modelling.weight are both 0: nothing would be trained")
        if self.alignment.candidates == "queue" and not self.alignment.queue:
            raise ValueError("alignment.candidates is queue and alignment.queue is 0: give the queue a length")
        if self.alignment.keys == "online" and self.alignment.cross_keys == "a":
            raise ValueError(
                "alignment.cross_keys is a, whose keys the momentum copies alone make, and alignment.keys is online: change one"
            )
        if not self.modelling.weight and "p" not in self.alignment.trained:
            raise ValueError(f"alignment.terms {self.alignment.terms} alone train no point encoder: add pi or pp, or masked modelling")
        modelling = self.modelling
        refined = modelling.choice == "smoothed" and modelling.refine_from == "teacher_ice"
        read = (bool(self.alignment.weight) and self.alignment.fused) or (
            bool(modelling.weight) and (refined or modelling.tokens == "momentum")
        )
        if read and not (modelling.weight and modelling.predict_from != "point"):
            raise ValueError(
                "nothing trains the fusion, and its momentum copy is read (alignment.fused, modelling.refine_from or modelling.tokens): "
                "set modelling.predict_from to ice, or have other features read"
            )
        return self

    @property
    def uses_tokenizer(self) -> bool:
        return bool(self.modelling.weight) and self.modelling.tokens == "dvae"


def view_of_points(config: CrossBertConfig, dataset: Dataset, index: int, seed: int, epoch: int, view: Literal["a", "b"]) -> Cloud:
    """One of an object's two random views, (N, 3) float32."""
    points = dataset.load(index, ("points.npy",))["points.npy"]
    return augment_points(points, config.point_augment, rng_for(seed, epoch, dataset.keys[index], f"points_{view}"))


def prepare(config: CrossBertConfig, dataset: Dataset, index: int, seed: int, epoch: int) -> Sample:
    """What one object brings: points_a, points_b (N, 3), image_a, image_b (3, S, S) float32; id and noise, int64 scalars.

    Every draw comes from (seed, epoch, the object's key).
    """
    key = dataset.keys[index]
    views = [name for name in dataset.members(index) if name.startswith("v") and name.endswith(".png")]
    if not views:
        raise ValueError(f"The sample {key} of {dataset.uri} has no images, which crossbert pairs with its points: generate views.")
    first, *others = [views[i] for i in rng_for(seed, epoch, key, "view").permutation(len(views)).tolist()]
    second = others[0] if others and config.second_image == "view" else first
    sample = dataset.load(index, tuple(dict.fromkeys(("points.npy", first, second))))
    found: Sample = {"id": np.array(index, np.int64), "noise": np.array(key_for(seed, epoch, key), np.int64)}
    for view, picture in (("a", first), ("b", second)):
        found[f"points_{view}"] = augment_points(sample["points.npy"], config.point_augment, rng_for(seed, epoch, key, f"points_{view}"))
        found[f"image_{view}"] = augment_image(sample[picture], config.image_augment, rng_for(seed, epoch, key, f"image_{view}"))
    return found


def smoothing_weights(features: Tensor, temperature: float) -> Tensor:
    """W (B, G, G), rows that sum to 1: softmax of the cosines of patch features (B, G, C) over the temperature."""
    unit = functional.normalize(features.float(), dim=-1)
    return (unit @ unit.transpose(1, 2) / temperature).softmax(-1)


def keep_largest(shares: Tensor, top: int) -> Tensor:
    """Rows (..., V) with all but the `top` largest entries set to 0, summing to 1 again; 0 keeps all."""
    if not top or top >= shares.shape[-1]:
        return shares
    values, places = shares.topk(top, dim=-1)
    return torch.zeros_like(shares).scatter(-1, places, values / values.sum(-1, keepdim=True))


def mixed_targets(shares: Tensor, weights: Tensor, omega: float) -> Tensor:
    """T = (1 − ω) P + ω W P, (B, G, V), of P (B, G, V) and W (B, G, G)."""
    return (1 - omega) * shares + omega * (weights @ shares)


def calibrate(logits: Tensor, perplexity: float) -> float:
    """The temperature τ at which the mean over rows of exp(H(softmax(logits / τ))) is `perplexity`, for logits (R, V).

    The mean rises with τ from 1 to V, so bisection of log τ finds it. ValueError where no temperature in 1e-4 … 1e4 does.
    """
    wide = logits.double()

    def mean_perplexity(temperature: float) -> float:
        logs = (wide / temperature).log_softmax(-1)
        return float((-(logs.exp() * logs).sum(-1)).exp().mean())

    low, high = math.log(1e-4), math.log(1e4)
    if not mean_perplexity(math.exp(low)) <= perplexity <= mean_perplexity(math.exp(high)):
        raise ValueError(f"no temperature gives {logits.shape[-1]} codes a mean perplexity of {perplexity:g}: change modelling.perplexity")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_perplexity(math.exp(middle)) < perplexity else (low, middle)
    return math.exp((low + high) / 2)


class _First(nn.Module):
    """The first columns of (B, F)."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.columns]


def _head(width: int, config: Alignment) -> nn.Sequential:
    out = config.width
    norm = (BatchNorm1d(out),) if config.head_norm else ()
    return nn.Sequential(nn.Linear(width, out), *norm, nn.GELU(), nn.Linear(out, out))


class CrossBert(Trained):
    """Encoders, heads, fusion, prediction head, their momentum copies, the frozen tokenizer and the queues."""

    temperature: Tensor
    centre: Tensor

    def __init__(self, config: CrossBertConfig, encoder: PointTransformerConfig) -> None:
        super().__init__()
        self.config = config
        alignment, modelling = config.alignment, config.modelling
        vocabulary = config.tokenizer.model.vocabulary
        self.encoder = PointTransformer(encoder)
        self.image_encoder = build_encoder(config.image)
        width, image_width = encoder.width, self.image_encoder.feature_dim
        self.point_head = _head(width, alignment)
        self.image_head = _head(image_width, alignment)
        self.adapter = nn.Identity() if image_width == width else nn.Linear(image_width, width)
        self.fusion = Fusion(config.fusion, width)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.zeros(width), std=0.02))
        self.token_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary))
        self.tokenizer = DVAE(config.tokenizer.model).freeze() if config.uses_tokenizer else None
        self.teacher = teacher(**self._students())
        self.point_queue = KeyQueue(alignment.queue, alignment.width, alignment.queue_start)
        self.image_queue = KeyQueue(alignment.queue, alignment.width, alignment.queue_start)
        self.register_buffer("temperature", torch.tensor(modelling.temperature or 1.0, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(vocabulary if modelling.tokens == "momentum" else 0))
        self._fresh: list[tuple[KeyQueue, Tensor, Tensor]] = []
        self._freeze_unused()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.image_encoder.parameters()):
            self.image_encoder.eval()  # what no loss trains keeps its batch statistics too
        return self

    def start_images(self, weights: dict[str, Tensor]) -> None:
        """Gives the image encoder and its momentum copy these weights. Raises RuntimeError where they do not fit."""
        self.image_encoder.load_state_dict(weights)
        self._copy("image_encoder").load_state_dict(weights)

    def _students(self) -> dict[str, nn.Module]:
        """What has a momentum copy."""
        names = ("encoder", "image_encoder", "point_head", "image_head", "adapter", "fusion")
        return {name: getattr(self, name) for name in (*names, *(("token_head",) if self.config.modelling.tokens == "momentum" else ()))}

    def _copy(self, name: str) -> Any:
        return self.teacher[name]

    def _freeze_unused(self) -> None:
        """Takes what no loss reaches out of the optimiser, so that several workers need not look for it at each step."""
        alignment, modelling = self.config.alignment, self.config.modelling
        queries = alignment.trained if alignment.weight else frozenset()
        fused = bool(modelling.weight) and modelling.predict_from != "point"
        uses_images = fused and self.config.fusion.mode != "none"
        contrasted = "i" in queries
        through = uses_images and self.config.image_gradient == "all"
        for module, used in (
            (self.point_head, "p" in queries),
            (self.image_head, contrasted),
            (self.image_encoder, self.config.image_gradient != "none" and (contrasted or through)),
            (self.adapter, uses_images),
            (self.fusion, fused),
            (self.token_head, bool(modelling.weight)),
        ):
            if not used:
                module.requires_grad_(False)
        if not modelling.weight and not (alignment.weight and alignment.points == "masked"):
            self.mask_token.requires_grad_(False)

    @property
    def _sees_images(self) -> bool:
        return any(parameter.requires_grad for parameter in self.image_head.parameters()) or (
            bool(self.config.modelling.weight) and self.config.modelling.predict_from != "point" and self.config.fusion.mode != "none"
        )

    # ---- what evaluation takes ---------------------------------------------------------------------------------------

    @property
    def feature_head(self) -> nn.Module:
        """The encoder's features (B, 2C) to the space of images, (B, D)."""
        return nn.Sequential(_First(self.encoder.feature_dim // 2), self.point_head)

    @property
    def image_branch(self) -> nn.Module:
        """Images (B, 3, S, S) to the common space, (B, D)."""
        return nn.Sequential(self.image_encoder, self.image_head).train(self.training)

    # ---- a step ------------------------------------------------------------------------------------------------------

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """This rank's part of the batch (see `prepare`) to the loss of the whole batch and its terms, detached."""
        alignment, modelling = self.config.alignment, self.config.modelling
        keys = batch["noise"]
        patches = self.encoder.patch(batch["points_a"])
        mask = draw_mask(self.config.mask, patches.centres, fold(keys, 0))
        with torch.no_grad():
            seen = self._teach(batch, patches)
        online = bool(alignment.weight) and alignment.keys == "online"
        images = batch["image_a"].new_zeros(len(keys), 1, 1)
        if online:
            pictures, streams = torch.cat([batch["image_a"], batch["image_b"]]), torch.cat([fold(keys, 1), fold(keys, 5)])
            images, seen["images_b"] = self.image_encoder.tokens(pictures, streams).chunk(2)
        elif self._sees_images:
            images = self.image_encoder.tokens(batch["image_a"], fold(keys, 1))
        masked = None
        if modelling.weight or alignment.points == "masked":
            masked = self.encoder.tokens(patches, fold(keys, 2), mask, self.mask_token)
        losses: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        if alignment.weight:
            points = self._cls(batch, patches)
            if online:
                seen["points_b"] = points["b"][:, None]
            query = points["a"] if masked is None or "a" in points else masked[:, 0]
            loss, found = self._align(query, images[:, 0], seen, batch["id"])
            losses.append(alignment.weight * loss)
            terms |= found
        if modelling.weight:
            assert masked is not None
            loss, found = self._model(masked, images, patches, mask, seen, fold(keys, 4))
            losses.append(modelling.weight * float(self.progress >= modelling.start) * loss)
            terms |= found
        return torch.stack(losses).sum(), terms

    def after_step(self) -> None:
        """The momentum copies follow; the keys of the last batch enter the queues."""
        follow(self.teacher, self._students(), self.config.momentum)
        for queue, keys, ids in self._fresh:
            queue.enqueue(keys, ids)
        self._fresh = []

    def _cls(self, batch: dict[str, Tensor], patches: Patches) -> dict[str, Tensor]:
        """CLS tokens (b, C) of the views that the trained encoder sees whole, in one batch, so that they share batch statistics."""
        config = self.config.alignment
        views = {"a": patches} if config.points == "full" else {}
        if config.keys == "online":
            views["b"] = self.encoder.patch(batch["points_b"])
        if not views:
            return {}
        whole = Patches(torch.cat([p.centres for p in views.values()]), torch.cat([p.offsets for p in views.values()]))
        keys = torch.cat([fold(batch["noise"], 3 if view == "a" else 6) for view in views])
        return dict(zip(views, self.encoder.cls(whole, keys).chunk(len(views)), strict=True))

    def _teach(self, batch: dict[str, Tensor], patches: Patches) -> dict[str, Tensor]:
        """What the momentum copies see, as far as it is needed: tokens of points_a and images_a, CLS tokens of points_b and images_b."""
        alignment, modelling = self.config.alignment, self.config.modelling
        smoothed = bool(modelling.weight) and (
            modelling.tokens == "momentum" or (modelling.choice == "smoothed" and modelling.refine_from != "student")
        )
        fused = smoothed and (modelling.refine_from == "teacher_ice" or modelling.tokens == "momentum")
        own = bool(alignment.weight) and (alignment.cross_keys == "a" or alignment.soft_targets > 0 or alignment.fused)
        found: dict[str, Tensor] = {}
        encoder, image_encoder = self._copy("encoder"), self._copy("image_encoder")
        if smoothed or own:
            found["points_a"] = encoder.tokens(patches)
        if fused or own:
            found["images_a"] = image_encoder.tokens(batch["image_a"])
        if alignment.weight and alignment.keys == "momentum":
            found["points_b"] = encoder.cls(encoder.patch(batch["points_b"]))[:, None]
            found["images_b"] = image_encoder(batch["image_b"])[:, None]
        if fused or (bool(alignment.weight) and alignment.fused):
            found["fused"] = self._copy("fusion")(found["points_a"], patches.centres, self._copy("adapter")(found["images_a"]))
        return found

    def _align(self, points: Tensor, images: Tensor, seen: dict[str, Tensor], ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The contrastive losses of CLS tokens (b, C), with the momentum copies' tokens and the objects' ids (b,)."""
        config = self.config.alignment
        queries = {"p": _unit(self.point_head(points))}
        if "i" in config.trained:
            queries["i"] = _unit(self.image_head(images))
        heads = {"p": self._copy("point_head"), "i": self._copy("image_head")}
        tokens = {"p": "points", "i": "images"}
        # (b, D) by modality and view; those of view b go into the queues
        local: dict[tuple[str, str], Tensor] = {}
        for m, v in itertools.product("pi", "ab"):
            if f"{tokens[m]}_{v}" in seen:
                trained = v == "b" and config.keys == "online"
                head = self.get_submodule(f"{'point' if m == 'p' else 'image'}_head") if trained else heads[m]
                with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
                    local[m, v] = _unit(head(seen[f"{tokens[m]}_{v}"][:, 0]))
        everywhere = {name: gather(keys) for name, keys in local.items()}
        all_ids = gather(ids)
        queues = {"p": self.point_queue, "i": self.image_queue}
        self._fresh = [(queues[m], everywhere[m, "b"].detach(), all_ids) for m in "pi"] if config.queue and self.training else []
        losses: dict[str, Tensor] = {}
        for term in config.terms:
            x, y = term
            crossing = x != y
            losses[term] = self._contrast(
                queries[x],
                everywhere[y, config.cross_keys if crossing else "b"],
                queues[y],
                ids,
                all_ids,
                local.get((x, "a")) if crossing and config.soft_targets else None,
            )
        if config.fused:
            target = gather(_unit(self._copy("point_head")(seen["fused"][:, 0])))
            found = [self._contrast(queries[m], target, None, ids, all_ids, None) for m in "pi"]
            losses["fused"] = torch.stack(found).mean()
        crossing_terms = [loss for name, loss in losses.items() if name in ("pi", "ip")]
        within = [loss for name, loss in losses.items() if name in ("pp", "ii")]
        zero = points.new_zeros(())
        total = (torch.stack(crossing_terms).mean() if crossing_terms else zero) + losses.get("fused", zero)
        if within:
            total = total + config.unimodal_weight * torch.stack(within).mean()
        return total, {f"loss_{name}": loss.detach() for name, loss in losses.items()} | self._alignment_monitors(queries["p"])

    def _contrast(
        self, queries: Tensor, keys: Tensor, queue: KeyQueue | None, ids: Tensor, all_ids: Tensor, momentum: Tensor | None
    ) -> Tensor:
        """L_xy over the global batch of this rank's queries (b, D) against keys (B, D) of the global batch and the queue."""
        config = self.config.alignment
        own = functional.one_hot(my_rank() * len(queries) + torch.arange(len(queries), device=queries.device), len(keys)).bool()
        candidates, owners = keys, all_ids
        valid = own if config.candidates == "queue" and queue is not None else torch.ones_like(own)
        if queue is not None and config.candidates != "batch":
            older, older_ids = queue.content()
            candidates, owners = torch.cat([keys, older.to(keys.dtype)]), torch.cat([all_ids, older_ids])
            own = functional.pad(own, (0, len(older)))
            valid = functional.pad(valid, (0, len(older)), value=True)
        same = ids[:, None] == owners
        if config.same_id == "share":
            targets = (same & valid).float()
            targets = targets / targets.sum(1, keepdim=True)
        else:
            valid = valid & (own | ~same)
            targets = own.float()
        if momentum is not None:
            with torch.no_grad(), _exact(momentum):
                scores = (momentum.float() @ candidates.float().T / config.temperature).masked_fill(~valid, -torch.inf)
                targets = (1 - config.soft_targets) * targets + config.soft_targets * scores.softmax(1)
        return gather(info_nce(queries, candidates, targets, valid, config.temperature)).mean()

    @torch.no_grad()
    def _alignment_monitors(self, points: Tensor) -> dict[str, Tensor]:
        """Collapse monitors of the points' embeddings: spread (1: even directions, 0: one), effective rank, similarity in the queue."""
        z = gather(points.detach().float())
        spread = z.std(0, unbiased=False).mean() * z.shape[1] ** 0.5
        centred = z - z.mean(0)
        with _exact(z):
            gram = centred @ centred.T if len(z) < z.shape[1] else centred.T @ centred
        shares = torch.linalg.eigvalsh(gram.double()).clamp(min=0)
        shares = shares / shares.sum().clamp(min=1e-12)
        rank = (-(shares * shares.clamp(min=1e-12).log()).sum()).exp()
        keys, _ = self.point_queue.content()
        mean = keys.mean(0) if len(keys) else z.new_zeros(z.shape[1])
        return {"embedding_std": spread, "effective_rank": rank, "queue_similarity": mean.square().sum()}

    def _model(
        self, masked: Tensor, images: Tensor, patches: Patches, mask: Tensor, seen: dict[str, Tensor], keys: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_mcm of the masked pass's tokens (b, 1+G, C)."""
        config = self.config.modelling
        fused = masked
        if config.predict_from != "point":
            context = images if self.config.image_gradient == "all" else images.detach()
            fused = self.fusion(masked, patches.centres, self.adapter(context), keys)
        omega = config.smoothing * (min(1.0, self.progress / config.ramp) if config.ramp else 1.0)
        with _exact(masked):  # the tokenizer says the same in every precision
            shares, weights = self._shares(patches, seen, fused)
            hidden = shares[mask]
            if weights is not None:
                hidden = mixed_targets(shares, weights, omega)[mask]
        predicted = [fused, masked] if config.predict_from == "both" else [fused]
        logits = [self._predict(tokens, mask) for tokens in predicted]
        sharpness = 0.1 if config.tokens == "momentum" else 1.0
        sums = torch.stack([-(hidden * (each / sharpness).log_softmax(-1)).sum() for each in logits]).mean()
        with torch.no_grad():
            truth = shares[mask].argmax(-1)
            entropy = torch.special.entr(hidden).sum()
            counts = gather(torch.bincount(truth, minlength=shares.shape[-1])[None]).sum(0)
            right = (logits[0].argmax(-1) == truth).sum()
            local = torch.stack([mask.sum().double(), entropy.double(), right.double()])
            number, entropy, right = gather(local[None]).sum(0)
            used = counts / counts.sum()
            monitors = {
                "target_entropy": entropy / number,
                "token_accuracy": right / number,
                "commonest_token": used.max(),
                "token_perplexity": torch.special.entr(used).sum().exp(),
                "target_temperature": self.temperature,
            }
        loss = gather(sums[None]).sum() / number.to(sums.dtype)
        return loss, {"loss_mcm": loss.detach(), **monitors}

    def _predict(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits of the hidden patches alone, (H, V), of tokens (b, 1+G, C)."""
        logits: Tensor = self.token_head(tokens[:, 1:][mask])
        return logits.float()

    def _shares(self, patches: Patches, seen: dict[str, Tensor], fused: Tensor) -> tuple[Tensor, Tensor | None]:
        """P (b, G, V), without gradient, and W (b, G, G) where the targets are smoothed."""
        config = self.config.modelling
        with torch.no_grad():
            if config.tokens == "momentum":
                logits = self._copy("token_head")(seen["fused"][:, 1:].float())
                shares = ((logits - self.centre) / 0.04).softmax(-1)
                if self.training:
                    self.centre.lerp_(gather(logits.mean((0, 1))[None]).mean(0), 0.1)
            else:
                assert self.tokenizer is not None
                logits = self.tokenizer.logits(patches).float()
                shares = (logits / self.temperature.to(logits.dtype)).softmax(-1)
            if config.choice == "single":
                shares = functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(shares.dtype)
            shares = keep_largest(shares, config.top)
        if config.choice != "smoothed":
            return shares, None
        source = fused if config.refine_from == "student" else seen["points_a" if config.refine_from == "teacher_point" else "fused"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and config.target_grad and config.refine_from == "student"):
            return shares, smoothing_weights(source[:, 1:], config.smoothing_temperature)


def _exact(x: Tensor) -> torch.autocast:
    """A context in which products on the tensor's device are not rounded to half precision."""
    return torch.autocast(x.device.type, enabled=False)


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(x.float(), dim=-1)
