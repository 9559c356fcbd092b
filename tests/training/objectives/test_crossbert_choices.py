"""What Cross-BERT's configurable choices do: their limits, their gradients, what they refuse."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch.nn import functional

from pipeline.reader import Dataset
from tests.training.objectives.crossbert_cases import ENCODER, OBJECTIVE, batch, merged, module, objective
from training import objectives
from training.encoders import PointTransformerConfig, ViTConfig, build
from training.files import FileError
from training.objectives.crossbert import CrossBert, CrossBertConfig, calibrate, prepare
from training.pretrain import PretrainConfig, fresh
from training.tokenizer.train import TokenizerConfig
from training.tokenizer.train import fresh as fresh_tokenizer
from training.tokenizer.train import save as save_tokenizer

# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_the_masked_transformer_with_its_heads_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        one = CrossBert(CrossBertConfig(), PointTransformerConfig())
    parts = (one.encoder, one.point_head, one.token_head[1])  # Point-BERT's prediction head has no norm of its own
    assert sum(p.numel() for part in parts for p in part.parameters()) + one.mask_token.numel() == 25_472_896


# ---- targets ---------------------------------------------------------------------------------------------------------


def test_the_modelling_loss_is_the_targets_entropy_where_they_are_predicted_and_more_anywhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    one = module(alignment={"weight": 0.0}).eval()
    one.progress = 0.5
    data = batch()
    wanted: dict[str, torch.Tensor] = {}
    mixed = objectives.crossbert.mixed_targets

    def keep(*arguments: Any) -> torch.Tensor:
        wanted["T"] = mixed(*arguments)
        return wanted["T"]

    monkeypatch.setattr(objectives.crossbert, "mixed_targets", keep)
    moved = 0.0
    monkeypatch.setattr(one, "_predict", lambda tokens, mask: wanted["T"][mask].log() + moved * torch.linspace(0, 1, 32))
    _, terms = one(data)
    assert float(terms["loss_mcm"]) == pytest.approx(float(terms["target_entropy"]), rel=1e-5)
    moved = 0.5
    _, terms = one(data)
    assert float(terms["loss_mcm"]) > float(terms["target_entropy"]) + 1e-3


def test_the_targets_gradient_flows_through_the_students_features_only_where_it_is_asked_for() -> None:
    gradients = {}
    for through in (False, True):
        one = module(modelling={"refine_from": "student", "target_grad": through, "smoothing": 0.9, "ramp": 0.0}, alignment={"weight": 0.0})
        one.eval()
        seen: dict[str, torch.Tensor] = {}
        one.fusion.register_forward_hook(lambda _, inputs, output, seen=seen: seen.update(fused=output))
        one.token_head.register_forward_hook(lambda _, inputs, output, seen=seen: seen.update(logits=output))
        loss, _ = one(batch())
        whole = torch.autograd.grad(loss, seen["fused"], retain_graph=True)[0]
        through_logits = torch.autograd.grad(loss, seen["logits"], retain_graph=True)[0]
        direct = torch.autograd.grad(seen["logits"], seen["fused"], through_logits)[0]
        gradients[through] = float((whole - direct).norm() / whole.norm())
    assert gradients[False] < 1e-6
    assert gradients[True] > 1e-3


def test_the_targets_are_the_same_in_half_precision() -> None:
    one = module(alignment={"weight": 0.0}, modelling={"temperature": 0.1}).eval()
    patches = one.encoder.patch(batch()["points_a"])
    fused = {"fused": torch.randn(6, 9, 32, generator=torch.Generator().manual_seed(0))}
    whole = one._shares(patches, fused, fused["fused"])
    kept: list[torch.Tensor] = []
    one.tokenizer.encoder.register_forward_hook(lambda _, inputs, output: kept.append(output))
    _, plain = one(batch())
    with torch.autocast("cpu", torch.bfloat16):
        _, half = one(batch())
    assert torch.equal(kept[0], kept[1])
    assert whole[0].dtype == torch.float32
    for name in ("commonest_token", "token_perplexity"):
        assert float(plain[name]) == float(half[name])


def test_the_temperature_is_calibrated_on_every_kth_patch_where_logits_are_many(
    small_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = fresh_tokenizer(TokenizerConfig.model_validate(OBJECTIVE["tokenizer"])).dvae.freeze()
    save_tokenizer(tmp_path / "tokenizer", tokenizer, {})
    config = PretrainConfig.model_validate(
        {"encoder": ENCODER, "objective": merged(OBJECTIVE, {"modelling": {"temperature": None, "perplexity": 4.0}})}
    )
    data = Dataset.open(small_dataset)
    rows: list[torch.Tensor] = []
    plain = calibrate
    monkeypatch.setattr(objectives.crossbert, "calibrate", lambda logits, wanted: rows.append(logits) or plain(logits, wanted))
    monkeypatch.setattr(objectives, "_AT_ONCE", 7)
    for most in (1 << 25, 24 * 8 * 32 // 5):
        monkeypatch.setattr(objectives, "_LOGITS", most)
        one = fresh(config)
        objectives.begin(one, data, "train", 0, tmp_path)
    assert rows[0].shape == (24 * 8, 32)
    assert torch.equal(rows[1], rows[0][::5])
    P = (rows[1].double() / one.temperature).softmax(-1)
    assert float(torch.special.entr(P).sum(-1).exp().mean()) == pytest.approx(4.0, rel=1e-6)


# ---- alignment -------------------------------------------------------------------------------------------------------


def test_where_all_ids_differ_what_becomes_of_equal_ids_changes_nothing() -> None:
    losses = []
    for same_id in ("drop", "share"):
        one = module(alignment={"same_id": same_id}, modelling={"weight": 0.0}).eval()
        keys = functional.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(9)), dim=1)
        one.image_queue.enqueue(keys, torch.arange(50, 55))
        data = batch(4)
        losses.append(float(one(data)[1]["loss_pi"]))
    query = functional.normalize(one.point_head(one.encoder.tokens(one.encoder.patch(data["points_a"]))[:, 0]), dim=1)
    own = functional.normalize(one.teacher["image_head"](one.teacher["image_encoder"].tokens(data["image_b"])[:, 0]), dim=1)
    plain = functional.cross_entropy(query @ torch.cat([own, keys]).T / 0.1, torch.arange(4))
    assert losses == pytest.approx([float(plain.detach())] * 2, abs=1e-5)


def test_soft_targets_carry_no_gradient_into_keys_that_take_one() -> None:
    one = module(alignment={"queue": 0, "keys": "online", "soft_targets": 0.5, "terms": ["pi"]}, modelling={"weight": 0.0})
    targets = []
    plain = objectives.crossbert.info_nce

    def watched(queries: torch.Tensor, keys: torch.Tensor, soft: torch.Tensor, *more: Any) -> torch.Tensor:
        targets.append(soft)
        assert keys.requires_grad
        return plain(queries, keys, soft, *more)

    objectives.crossbert.info_nce = watched
    try:
        one(batch())
    finally:
        objectives.crossbert.info_nce = plain
    assert not targets[0].requires_grad
    assert float(targets[0].detach().diagonal().max()) < 1


def test_the_collapse_monitors_of_known_embeddings() -> None:
    one = module()
    even = torch.cat([torch.eye(16), -torch.eye(16)])
    found = one._alignment_monitors(even)
    assert float(found["embedding_std"]) == pytest.approx(1.0, rel=1e-6)
    assert float(found["effective_rank"]) == pytest.approx(16.0, rel=1e-5)
    few = one._alignment_monitors(torch.cat([torch.eye(16)[:3], -torch.eye(16)[:3]]))
    assert float(few["effective_rank"]) == pytest.approx(3.0, rel=1e-5)
    collapsed = one._alignment_monitors(torch.eye(16)[:1].expand(20, -1))
    assert float(collapsed["embedding_std"]) == 0.0
    assert float(collapsed["effective_rank"]) == pytest.approx(1.0)
    one.point_queue.enqueue(even, torch.arange(32))
    assert float(one._alignment_monitors(even)["queue_similarity"]) == pytest.approx(0.0, abs=1e-6)
    one.point_queue.enqueue(-torch.eye(16)[:1].expand(64, -1), torch.arange(64))
    assert float(one._alignment_monitors(even)["queue_similarity"]) == pytest.approx(1.0)


# ---- the image encoder -----------------------------------------------------------------------------------------------


def test_an_image_encoder_that_no_loss_trains_keeps_its_batch_statistics_too() -> None:
    values = {k: v for k, v in OBJECTIVE.items() if k != "image"} | {"image": {"kind": "resnet", "depth": 10, "width": 4}}
    for gradient in ("none", "all"):
        torch.manual_seed(0)
        config = CrossBertConfig.model_validate(values | {"image_gradient": gradient})
        one = CrossBert(config, PointTransformerConfig.model_validate(ENCODER)).train()
        before = {name: value.clone() for name, value in one.image_encoder.state_dict().items()}
        one(batch())
        same = all(torch.equal(before[name], value) for name, value in one.image_encoder.state_dict().items())
        assert same is (gradient == "none")
        assert one.encoder.training


def test_images_start_from_a_file_that_a_finished_training_no_longer_needs(small_dataset: str, tmp_path: Path) -> None:
    torch.manual_seed(7)
    given = build(ViTConfig.model_validate(OBJECTIVE["image"])).state_dict()
    path = tmp_path / "images.safetensors"
    save_file(given, path)
    values = merged(OBJECTIVE, {"image_weights": str(path), "modelling": {"weight": 0.0}})
    config = PretrainConfig.model_validate({"encoder": ENCODER, "objective": values})
    data = Dataset.open(small_dataset)
    one = fresh(config)
    first = objectives.begin(one, data, "train", 0, None)
    for encoder in (one.image_encoder, one.teacher["image_encoder"]):
        assert all(torch.equal(given[name], value) for name, value in encoder.state_dict().items())

    save_file({name: value + 1 for name, value in given.items()}, path)
    assert objectives.begin(fresh(config), data, "train", 0, None) != first  # another training: a checkpoint of the first is refused
    path.write_bytes(b"no weights")
    with pytest.raises(FileError, match=r"holds no weights of the image encoder"):
        objectives.begin(fresh(config), data, "train", 0, None)
    path.unlink()
    with pytest.raises(FileError, match=r"images\.safetensors"):
        objectives.begin(fresh(config), data, "train", 0, None)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alignment": {"weight": 0.0}, "modelling": {"weight": 0.0}}, "nothing would be trained"),
        ({"alignment": {"candidates": "queue", "queue": 0}}, "give the queue a length"),
        ({"alignment": {"keys": "online", "cross_keys": "a"}}, "momentum copies alone"),
        ({"alignment": {"terms": ["ip", "ii"]}, "modelling": {"weight": 0.0}}, "train no point encoder"),
        ({"alignment": {"terms": ["ii"], "keys": "online"}, "modelling": {"weight": 0.0}}, "train no point encoder"),
        ({"alignment": {"fused": True}, "modelling": {"weight": 0.0}}, "nothing trains the fusion"),
        ({"modelling": {"predict_from": "point"}}, "nothing trains the fusion"),
        ({"modelling": {"predict_from": "point", "refine_from": "teacher_point", "tokens": "momentum"}}, "nothing trains the fusion"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        objective(**changes)


def test_an_object_without_images_is_named() -> None:
    class Blind:
        keys = ("mug-7",)
        uri = "data/blind"

        def members(self, index: int) -> tuple[str, ...]:
            return ("points.npy", "json")

    with pytest.raises(ValueError, match=r"mug-7 of data/blind has no images"):
        prepare(objective(), Blind(), 0, 0, 0)  # type: ignore[arg-type]
