"""Cross-BERT's losses against plain loops, its limits, what each pass may see, and whether it learns."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.reader import Dataset
from tests.training.objectives.crossbert_cases import batch, module, objective
from training.distributed import World
from training.loop import OptimizerConfig, make_optimizer, step_once
from training.losses import info_nce
from training.objectives.crossbert import CrossBert, calibrate, keep_largest, mixed_targets, prepare, smoothing_weights
from training.ops.grouping import Patches

# ---- alignment -------------------------------------------------------------------------------------------------------


def plain_info_nce(queries: torch.Tensor, keys: torch.Tensor, temperature: float) -> float:
    """Each query's own key among all, row by row."""
    total = 0.0
    for b in range(len(queries)):
        scores = [math.exp(float(queries[b] @ keys[j]) / temperature) for j in range(len(keys))]
        total -= math.log(scores[b] / sum(scores))
    return total / len(queries)


def test_without_queue_and_with_one_view_each_term_is_in_batch_info_nce() -> None:
    one = module(alignment={"queue": 0}, modelling={"weight": 0.0}).eval()
    data = batch()
    data["points_b"], data["image_b"] = data["points_a"], data["image_a"]
    loss, terms = one(data)
    z = {
        "p": functional.normalize(one.point_head(one.encoder.tokens(one.encoder.patch(data["points_a"]))[:, 0]), dim=1).double(),
        "i": functional.normalize(one.image_head(one.image_encoder.tokens(data["image_a"])[:, 0]), dim=1).double(),
    }
    wanted = {x + y: plain_info_nce(z[x], z[y], 0.1) for x in "pi" for y in "pi"}
    for term, value in wanted.items():
        assert float(terms[f"loss_{term}"]) == pytest.approx(value, abs=1e-5)
    assert float(loss.detach()) == pytest.approx((wanted["pi"] + wanted["ip"]) / 2 + (wanted["pp"] + wanted["ii"]) / 2, abs=1e-5)


def test_online_keys_are_the_trained_networks_own_and_take_gradient() -> None:
    still = {"encoder": {"drop_path": 0.0}, "image": {"drop_path": 0.0}}
    one = module(alignment={"queue": 0, "keys": "online", "terms": ["pi"]}, modelling={"weight": 0.0}, **still)
    data = batch()
    loss, _ = one(data)
    loss.backward()
    both = Patches(*(torch.cat([getattr(one.encoder.patch(data[f"points_{v}"]), part) for v in "ab"]) for part in ("centres", "offsets")))
    points = functional.normalize(one.point_head(one.encoder.tokens(both)[:6, 0]), dim=1)
    images = functional.normalize(one.image_head(one.image_encoder.tokens(data["image_b"])[:, 0]), dim=1)
    wanted = functional.cross_entropy(points @ images.T / 0.1, torch.arange(6))
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), abs=1e-5)
    (gradient,) = torch.autograd.grad(wanted, one.image_encoder.embed.weight)
    torch.testing.assert_close(one.image_encoder.embed.weight.grad, gradient, rtol=1e-4, atol=1e-6)


def test_random_directions_cost_the_log_of_the_candidates_and_half_the_variance_of_their_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    width, n, temperature = 256, 4096, 0.1
    q, k = (functional.normalize(torch.randn(size, width, generator=generator), dim=1) for size in (n, n))
    loss = info_nce(q, k, torch.eye(n), torch.ones(n, n, dtype=torch.bool), temperature).mean()
    assert float(loss) == pytest.approx(math.log(n) + 1 / (2 * width * temperature**2), abs=0.03)


def filled(ids: list[int], **changes: Any) -> CrossBert:
    one = module(modelling={"weight": 0.0}, **changes).eval()
    keys = functional.normalize(torch.randn(len(ids), 16, generator=torch.Generator().manual_seed(9)), dim=1)
    for queue in (one.point_queue, one.image_queue):
        queue.enqueue(keys, torch.tensor(ids))
    return one


def test_keys_of_the_querys_own_object_are_never_negatives() -> None:
    data = batch(4)
    strangers, own = filled([50, 51, 52]), filled([0, 1, 2])
    before = float(strangers(data)[0])
    assert float(own(data)[0]) != pytest.approx(before, abs=1e-4)
    # object 3 is in no queue, objects 0 to 2 each lose their own key: the same as a queue that never had it
    queries = functional.normalize(own.point_head(own.encoder.tokens(own.encoder.patch(data["points_a"]))[:, 0]), dim=1).double()
    keys = functional.normalize(own.teacher["image_head"](own.teacher["image_encoder"].tokens(data["image_b"])[:, 0]), dim=1).double()
    queue, _ = own.image_queue.content()
    total = 0.0
    for b in range(4):
        negatives = [keys[j] for j in range(4) if j != b] + [queue[j].double() for j in range(3) if j != b]
        scores = [math.exp(float(queries[b] @ key) / 0.1) for key in [keys[b], *negatives]]
        total -= math.log(scores[0] / sum(scores)) / 4
    assert float(own(data)[1]["loss_pi"]) == pytest.approx(total, abs=1e-5)


def test_shared_ids_divide_the_positive_mass() -> None:
    data = batch(3)
    one = filled([0, 0, 9], alignment={"same_id": "share"})
    queries = functional.normalize(one.point_head(one.encoder.tokens(one.encoder.patch(data["points_a"]))[:, 0]), dim=1).double()
    keys = functional.normalize(one.teacher["image_head"](one.teacher["image_encoder"].tokens(data["image_b"])[:, 0]), dim=1).double()
    candidates = torch.cat([keys, one.image_queue.content()[0].double()])
    owners = [0, 1, 2, 0, 0, 9]
    total = 0.0
    for b in range(3):
        logs = (candidates @ queries[b] / 0.1).log_softmax(0)
        mine = [j for j in range(6) if owners[j] == b]
        total -= sum(float(logs[j]) for j in mine) / len(mine) / 3
    assert float(one(data)[1]["loss_pi"]) == pytest.approx(total, abs=1e-5)


def test_the_loss_uses_the_queue_before_the_step_and_the_step_adds_the_momentum_keys() -> None:
    one = module(modelling={"weight": 0.0})
    data = batch()
    keys = functional.normalize(one.teacher["image_head"](one.teacher["image_encoder"].tokens(data["image_b"])[:, 0]), dim=1)
    one(data)
    assert len(one.image_queue.content()[0]) == 0
    one.after_step()
    content, ids = one.image_queue.content()
    torch.testing.assert_close(content, keys)
    assert torch.equal(ids, data["id"])
    one(data)
    one.after_step()
    one.after_step()  # nothing new has been seen: nothing enters twice
    assert int(one.image_queue.added) == 12


def test_soft_targets_are_the_momentum_similarities() -> None:
    data = batch(4)
    one = module(alignment={"queue": 0, "soft_targets": 0.4}, modelling={"weight": 0.0}).eval()
    points, images = one.teacher["encoder"], one.teacher["image_encoder"]
    query = functional.normalize(one.point_head(one.encoder.tokens(one.encoder.patch(data["points_a"]))[:, 0]), dim=1).double()
    momentum = functional.normalize(one.teacher["point_head"](points.tokens(points.patch(data["points_a"]))[:, 0]), dim=1).double()
    keys = functional.normalize(one.teacher["image_head"](images.tokens(data["image_b"])[:, 0]), dim=1).double()
    targets = 0.6 * torch.eye(4) + 0.4 * (momentum @ keys.T / 0.1).softmax(1)
    wanted = -(targets * (query @ keys.T / 0.1).log_softmax(1)).sum(1).mean()
    assert float(one(data)[1]["loss_pi"]) == pytest.approx(float(wanted.detach()), abs=1e-5)


# ---- targets ---------------------------------------------------------------------------------------------------------


def test_targets_are_the_triple_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, features = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 3, 5, generator=generator)
    P, W = (logits / 0.7).softmax(-1), smoothing_weights(features, 0.3)
    T = mixed_targets(P, W, 0.2)
    for b in range(2):
        for g in range(3):
            cosines = [float(functional.cosine_similarity(features[b, g], features[b, h], dim=0)) / 0.3 for h in range(3)]
            weights = [math.exp(c) / sum(math.exp(d) for d in cosines) for c in cosines]
            for v in range(4):
                wanted = 0.8 * float(P[b, g, v]) + 0.2 * sum(weights[h] * float(P[b, h, v]) for h in range(3))
                assert float(T[b, g, v]) == pytest.approx(wanted, abs=1e-6)
    for rows in (P, W, T):
        assert (rows >= 0).all()
        torch.testing.assert_close(rows.sum(-1), torch.ones(2, 3), atol=1e-6, rtol=0)


def test_limits_of_smoothing() -> None:
    generator = torch.Generator().manual_seed(0)
    P = torch.randn(2, 6, 9, generator=generator).softmax(-1)
    features = torch.randn(2, 6, 16, generator=generator)
    torch.testing.assert_close(mixed_targets(P, smoothing_weights(features, 1e-4), 0.5), P)
    even = mixed_targets(P, smoothing_weights(features, 1e6), 0.5)
    torch.testing.assert_close(even, 0.5 * P + 0.5 * P.mean(1, keepdim=True))
    twins = torch.ones(1, 2, 4)
    single = mixed_targets(torch.eye(2)[None], smoothing_weights(twins, 0.3), 0.4)
    assert float(single[0, 0, 1]) == pytest.approx(0.2)


def test_a_cold_unsmoothed_target_is_the_arg_max_and_a_single_choice_too() -> None:
    data = batch()
    cold = module(modelling={"temperature": 1e-6, "smoothing": 0.0})
    single = module(modelling={"choice": "single"})
    assert float(cold(data)[1]["loss_mcm"]) == pytest.approx(float(single(data)[1]["loss_mcm"]), rel=1e-6)
    soft = module(modelling={"choice": "soft"})
    assert float(soft(data)[1]["loss_mcm"]) != pytest.approx(float(single(data)[1]["loss_mcm"]), rel=1e-3)


def test_the_modelling_loss_is_the_cross_entropy_of_hidden_patches_and_never_below_the_targets_entropy() -> None:
    one = module(alignment={"weight": 0.0}).eval()
    seen = {}
    one.token_head.register_forward_hook(lambda _, inputs, output: seen.update(logits=output))
    data = batch()
    one.progress = 0.5
    loss, terms = one(data)
    assert float(terms["loss_mcm"]) >= float(terms["target_entropy"])
    patches = one.encoder.patch(data["points_a"])
    P = (one.tokenizer.logits(patches) / 1.0).softmax(-1)
    copies = one.teacher
    R = copies["fusion"](
        copies["encoder"].tokens(patches), patches.centres, copies["adapter"](copies["image_encoder"].tokens(data["image_a"]))
    )
    T = mixed_targets(P, smoothing_weights(R[:, 1:], 0.3), 0.2)
    from training.masking import draw_mask
    from training.noise import fold

    hidden = T[draw_mask(one.config.mask, patches.centres, fold(data["noise"], 0))]
    total = sum(float(-(t * row).sum()) for t, row in zip(hidden, seen["logits"].log_softmax(-1), strict=True))
    assert float(loss.detach()) == pytest.approx(total / len(hidden), rel=1e-5)


def test_the_smoothing_grows_over_its_ramp() -> None:
    one = module(alignment={"weight": 0.0}).eval()
    data = batch()
    entropies = []
    for one.progress in (0.0, 0.05, 0.1, 0.9):
        entropies.append(float(one(data)[1]["target_entropy"]))
    assert entropies[0] < entropies[1] < entropies[2]
    assert entropies[2] == entropies[3]


def test_calibration_finds_the_temperature_of_the_wanted_perplexity() -> None:
    logits = 3 * torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    temperature = calibrate(logits, 8.0)
    P = (logits.double() / temperature).softmax(-1)
    assert float(torch.special.entr(P).sum(-1).exp().mean()) == pytest.approx(8.0, rel=1e-6)
    with pytest.raises(ValueError, match=r"modelling\.perplexity"):
        calibrate(logits, 65.0)


def test_the_largest_entries_are_kept_and_sum_to_one() -> None:
    kept = keep_largest(torch.tensor([[0.5, 0.3, 0.15, 0.05]]), 2)
    torch.testing.assert_close(kept, torch.tensor([[0.625, 0.375, 0.0, 0.0]]))


# ---- what a pass may see ---------------------------------------------------------------------------------------------


def logits_of(one: CrossBert, data: dict[str, torch.Tensor], patches: Patches, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Encoder output of the masked pass, prediction, and batch-norm buffers after one forward pass over given patches."""
    state = {name: value.clone() for name, value in one.state_dict().items()}
    seen: dict[str, Any] = {}
    hook = one.token_head.register_forward_hook(lambda _, inputs, output: seen.update(logits=output.detach().clone()))
    inner = one.fusion.register_forward_hook(lambda _, inputs, output: seen.update(masked=inputs[0].detach().clone()))
    heads = one.point_head.register_forward_hook(lambda _, inputs, output: seen.update(z=output.detach().clone()))
    monkeypatch.setattr(one.encoder, "patch", lambda points: patches)
    one(data)
    seen["buffers"] = [b.clone() for name, b in one.encoder.named_buffers()]
    for handle in (hook, inner, heads):
        handle.remove()
    one.load_state_dict(state)
    return seen


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("alignment", "names"), [({"points": "masked"}, ("masked", "logits", "z")), ({"weight": 0.0}, ("masked", "logits"))]
)
def test_nothing_of_a_hidden_patch_but_its_centre_reaches_the_prediction(
    training: bool, alignment: dict[str, Any], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.masking import draw_mask
    from training.noise import fold

    one = module(alignment=alignment).train(training)
    data = batch()
    patches = one.encoder.patch(data["points_a"])
    mask = draw_mask(one.config.mask, patches.centres, fold(data["noise"], 0))
    seen = logits_of(one, data, patches, monkeypatch)

    hidden = Patches(patches.centres, torch.where(mask[:, :, None, None], torch.randn_like(patches.offsets), patches.offsets))
    other = logits_of(one, data, hidden, monkeypatch)
    for name in names:
        assert torch.equal(seen[name], other[name]), name
    assert all(torch.equal(a, b) for a, b in zip(seen["buffers"], other["buffers"], strict=True))

    visible = Patches(patches.centres, torch.where(mask[:, :, None, None], patches.offsets, patches.offsets + 0.1))
    assert not torch.equal(seen["logits"], logits_of(one, data, visible, monkeypatch)["logits"])

    image = logits_of(one, data | {"image_a": torch.randn(6, 3, 32, 32)}, patches, monkeypatch)
    assert not torch.equal(seen["logits"], image["logits"])
    assert torch.equal(seen["masked"], image["masked"])


def test_no_gradient_reaches_copies_or_tokenizer_and_the_optimiser_has_neither() -> None:
    one = module()
    one(batch())[0].backward()
    frozen = [*one.teacher.parameters(), *one.tokenizer.parameters()]
    assert all(parameter.grad is None for parameter in frozen)
    known = {id(p) for group in make_optimizer(OptimizerConfig(), one).param_groups for p in group["params"]}
    assert not known & {id(parameter) for parameter in frozen}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"modelling": {"weight": 0.0}},
        {"modelling": {"weight": 0.0}, "alignment": {"terms": ["pi"]}},
        {"modelling": {"weight": 0.0}, "alignment": {"terms": ["pp"]}},
        {"alignment": {"terms": ["pp"], "fused": True}, "image_gradient": "alignment"},
        {"modelling": {"weight": 0.0}, "alignment": {"terms": ["ip"], "keys": "online"}},
        {"alignment": {"terms": ["ii"]}},
        {"alignment": {"weight": 0.0}},
        {"alignment": {"terms": ["pi"], "candidates": "queue", "cross_keys": "a"}},
        {"alignment": {"fused": True, "queue_start": "noise"}},
        {"alignment": {"keys": "online", "head_norm": True}},
        {"alignment": {"keys": "online", "points": "masked", "terms": ["pi", "ip"]}},
        {"modelling": {"predict_from": "point", "refine_from": "teacher_point"}, "alignment": {"weight": 0.0}},
        {"modelling": {"predict_from": "both", "refine_from": "student", "target_grad": True}},
        {"modelling": {"tokens": "momentum"}},
        {"fusion": {"mode": "shared_affinity"}},
        {"fusion": {"mode": "joint"}, "image_gradient": "alignment"},
        {"fusion": {"mode": "none"}, "image_gradient": "none"},
        {"fusion": {"mode": "point_from_image", "depth": 2}},
        {"image": {"kind": "resnet", "depth": 10, "width": 4}},
        {"mask": {"kind": "random", "ratio": [0.5, 0.6]}, "second_image": "same"},
    ],
    ids=str,
)
def test_every_configuration_trains_all_that_it_leaves_trainable(changes: dict[str, Any]) -> None:
    if changes.get("image", {}).get("kind") == "resnet":
        from tests.training.objectives import crossbert_cases

        base = {k: v for k, v in crossbert_cases.OBJECTIVE.items() if k != "image"} | changes
        torch.manual_seed(0)
        from training.encoders import PointTransformerConfig
        from training.objectives.crossbert import CrossBertConfig

        one = CrossBert(CrossBertConfig.model_validate(base), PointTransformerConfig.model_validate(crossbert_cases.ENCODER)).train()
    else:
        one = module(encoder={"drop_path": 0.0}, **changes)
    optimizer = make_optimizer(OptimizerConfig(lr=1e-3), one)
    for step in range(2):
        one.progress = step / 2
        loss, _ = step_once(one, batch(seed=step), optimizer, "float32", World())
        one.after_step()
        assert math.isfinite(float(loss))
    # one that no loss reaches would make several workers wait for its gradient
    assert not [name for name, p in one.named_parameters() if p.requires_grad and p.grad is None]


# ---- learning --------------------------------------------------------------------------------------------------------


def test_it_learns_eight_clouds_by_heart() -> None:
    one = module(encoder={"drop_path": 0.0}, alignment={"weight": 0.0}, modelling={"temperature": 0.3, "smoothing": 0.0})
    data = batch(8)
    optimizer = make_optimizer(OptimizerConfig(lr=3e-3), one)
    for _ in range(250):
        _, terms = step_once(one, data, optimizer, "float32", World())
        one.after_step()
    entropy, loss = float(terms["target_entropy"]), float(terms["loss_mcm"])
    assert loss - entropy < 0.05 * entropy
    assert float(terms["token_accuracy"]) > float(terms["commonest_token"])


def test_the_momentum_copies_move_once_a_step() -> None:
    one = module()
    before = one.teacher["encoder"].norm.weight.clone()
    with torch.no_grad():
        one.encoder.norm.weight.add_(1.0)
    one(batch())
    one(batch())
    assert torch.equal(one.teacher["encoder"].norm.weight, before)
    one.after_step()
    torch.testing.assert_close(one.teacher["encoder"].norm.weight, before + 0.1)


# ---- what an object brings -------------------------------------------------------------------------------------------


def test_what_an_object_brings_is_a_function_of_seed_epoch_and_key(small_dataset: str) -> None:
    data = Dataset.open(small_dataset)
    config = objective()
    first, again = prepare(config, data, 3, 5, 7), prepare(config, Dataset.open(small_dataset), 3, 5, 7)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert {name: value.shape for name, value in first.items()} == {
        "points_a": (128, 3),
        "points_b": (128, 3),
        "image_a": (3, 32, 32),
        "image_b": (3, 32, 32),
        "id": (),
        "noise": (),
    }
    for other in (prepare(config, data, 3, 5, 8), prepare(config, data, 3, 6, 7), prepare(config, data, 4, 5, 7)):
        assert not np.array_equal(first["points_a"], other["points_a"])
        assert first["noise"] != other["noise"]
    assert first["id"] == 3
