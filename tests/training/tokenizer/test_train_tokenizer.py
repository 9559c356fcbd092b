"""A tokenizer's training: schedules, the loss of the formula, resuming, two workers as one, the gate, and what it leaves."""

import itertools
import json
import math
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.reader import Dataset
from tests.training.tokenizer.tokenizer_cases import CONFIG, rank_main, train
from training.distributed import World
from training.files import FileError
from training.journal import curves
from training.loop import TrainingError
from training.ops.grouping import Patches
from training.tokenizer.dvae import Reconstruction
from training.tokenizer.judge import cross_chamfer, patch_codes, perplexity, to_nearest
from training.tokenizer.train import TokenizerConfig, Tokenizing, divide, fresh, kl_weight, load_tokenizer, temperature


@pytest.fixture(scope="module")
def left_alone(small_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train(folder, small_dataset, World())
    return folder


def same(a: Path, b: Path) -> bool:
    first, second = (load_tokenizer(folder).state_dict() for folder in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# ---- schedules and loss ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ramp", "tau"), [(0, 1.0), (0.5, 0.53125), (1, 0.0625), (1.9, 0.0625)])
def test_the_temperature_falls_by_half_a_cosine(ramp: float, tau: float) -> None:
    assert temperature(TokenizerConfig(), 0.51 * ramp) == pytest.approx(tau)


@pytest.mark.parametrize(("progress", "weight"), [(0, 0), (0.05, 0), (0.05 + 0.51 / 2, 0.05), (0.56, 0.1), (1, 0.1)])
def test_the_weight_of_the_divergence_rises_by_half_a_cosine(progress: float, weight: float) -> None:
    assert kl_weight(TokenizerConfig(), progress) == pytest.approx(weight, abs=1e-12)


def chamfer(a: Tensor, b: Tensor) -> float:
    """½(mean over a of the distance to the nearest of b + the reverse), point by point."""
    ways = [[min(math.dist(p, q) for q in other) for p in own] for own, other in ((a.tolist(), b.tolist()), (b.tolist(), a.tolist()))]
    return sum(sum(way) / len(way) for way in ways) / 2


def reconstruction_error(made: Reconstruction, patches: Patches) -> float:
    pairs = list(itertools.product(*map(range, patches.centres.shape[:2])))
    return sum(chamfer(points[c, g], patches.offsets[c, g]) for c, g in pairs for points in (made.coarse, made.fine)) / len(pairs)


def test_the_loss_is_that_of_the_formula() -> None:
    module = fresh(TokenizerConfig.model_validate(CONFIG))
    module.progress = 0.3
    batch = {"points": torch.randn(3, 64, 3, generator=torch.Generator().manual_seed(1)), "noise": torch.tensor([3, 4, 5])}
    patches = module.dvae.patch(batch["points"])
    made = module.dvae(patches, temperature(module.config, 0.3), batch["noise"])
    expected = reconstruction_error(made, patches)
    mean = made.logits.detach().double().softmax(-1).mean(1)
    divergence = float((1 / 32 * (1 / 32 / mean).log()).sum(1).mean())
    loss, terms = module(batch)
    assert float(terms["loss_reconstruction"]) == pytest.approx(expected, rel=1e-5)
    assert float(terms["loss_kl"]) == pytest.approx(divergence, rel=1e-4)
    assert float(loss.detach()) == pytest.approx(expected + kl_weight(module.config, 0.3) * divergence, rel=1e-5)
    assert float(terms["codes_used"]) == len(made.logits.argmax(-1).unique()) / 32


def test_perplexity_counts_what_is_used_evenly() -> None:
    assert float(perplexity(torch.tensor([5, 0, 5, 5, 0]))) == pytest.approx(3)
    assert float(perplexity(torch.tensor([7.0, 0.0]))) == pytest.approx(1)


# ---- yardsticks --------------------------------------------------------------------------------------------------------


def test_distances_of_all_patches_to_all_codes() -> None:
    patches, codes = torch.randn(5, 6, 3), torch.randn(4, 7, 3)
    expected = [[chamfer(patch, code) for code in codes] for patch in patches]
    torch.testing.assert_close(cross_chamfer(patches, codes), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(cross_chamfer(patches, codes), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_k_means_of_patches_finds_the_shapes_that_patches_are_copies_of() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = torch.randn(6, 8, 3, generator=generator)
    order = torch.stack([torch.randperm(8, generator=generator) for _ in range(300)])  # sets, not lists
    which = torch.arange(300) % 6
    patches = shapes[which[:, None], order] + 0.01 * torch.randn(300, 8, 3, generator=generator)
    start = torch.cat([patches[:5], torch.full((1, 8, 3), 9.0)])  # the last is no patch's nearest
    codes = patch_codes(patches, start, 150, 100, generator)
    assert to_nearest(patches, start).mean() > 0.1
    assert to_nearest(patches, codes).mean() < 0.03


# ---- the training ------------------------------------------------------------------------------------------------------


def test_validation_clouds_are_kept_out_of_training_by_content(small_dataset: str) -> None:
    dataset = Dataset.open(small_dataset)
    training, validation, test = divide(TokenizerConfig(held_out=0.3), dataset)
    assert sorted([*training, *validation]) == dataset.indices("train").tolist()
    assert test.tolist() == dataset.indices("test").tolist()
    assert len(validation)
    again = divide(TokenizerConfig(held_out=0.6), dataset)[1]
    assert set(validation.tolist()) <= set(again.tolist())  # a cloud's lot does not depend on the other clouds


def test_a_run_leaves_a_frozen_tokenizer_a_journal_a_result_and_evidence(left_alone: Path, small_dataset: str) -> None:
    result = json.loads((left_alone / "result.json").read_text())
    assert result["steps"] == 4
    assert len(curves(left_alone / "journal.jsonl")["perplexity"]) == 4
    tokenizer = load_tokenizer(left_alone)
    assert not any(p.requires_grad for p in tokenizer.parameters())
    assert not any(child.training for child in tokenizer.train().modules())
    found = result["judgement"]
    assert {found[split]["clouds"] for split in ("test",)} == {8}
    assert found["test"]["codes_used"] + found["test"]["dead_codes"] == found["vocabulary"] == 32
    assert found["test"]["flips_overlap"] == 0
    with np.load(left_alone / "evidence" / "reconstructions.npz", allow_pickle=False) as kept:
        assert kept["points"].shape == (4, 64, 3)
        assert kept["reassembled"].shape == (4, 64, 3)
        usage, points = kept["usage"], kept["points"]
    assert usage.sum() == 8 * 8
    items = json.loads((left_alone / "evidence" / "reconstructions.json").read_text())
    assert len({item["class"] for item in items}) == 4  # one of each class of the dataset
    dataset = Dataset.open(small_dataset)
    assert {dataset.splits[dataset.keys.index(item["key"])] for item in items} == {"test"}
    patches = tokenizer.patch(torch.from_numpy(points))
    with np.load(left_alone / "evidence" / "reconstructions.npz", allow_pickle=False) as kept:
        whole = patches.centres[:, :, None] + tokenizer.reconstruct(patches).fine
        np.testing.assert_allclose(whole.flatten(1, 2).numpy(), kept["reassembled"], atol=1e-5)


def test_a_run_that_stopped_in_the_middle_ends_with_the_weights_of_the_one_left_alone(
    left_alone: Path, small_dataset: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(left_alone / "checkpoints" / "step-00000002", run / "checkpoints" / "step-00000002")
    assert train(run, small_dataset, World())["steps_this_run"] == 2
    assert same(left_alone, run)


def test_a_finished_training_does_nothing_again_and_leaves_the_test_split_closed(
    left_alone: Path, small_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(left_alone, run)
    monkeypatch.setattr("training.tokenizer.train.judge", None)
    assert train(run, small_dataset, World())["steps_this_run"] == 0
    assert same(left_alone, run)


def test_two_workers_are_one(left_alone: Path, small_dataset: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=rank_main, args=(rank, 2, str(tmp_path), small_dataset)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
    assert [worker.exitcode for worker in workers] == [0, 0]
    one, two = curves(left_alone / "journal.jsonl"), curves(tmp_path / "run" / "journal.jsonl")
    for name in ("loss", "loss_reconstruction", "loss_kl", "perplexity", "codes_used", "grad_norm"):
        assert one[name][0][1] == pytest.approx(two[name][0][1], rel=1e-5, abs=1e-5)
    np.testing.assert_allclose([v for _, v in one["loss"]], [v for _, v in two["loss"]], rtol=1e-3)  # rounding grows over steps


def test_a_collapsed_tokenizer_ends_the_stage_with_what_to_change(small_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"perplexity of \d+\.\d, below 32\.0.*raise kl_weight"):
        train(tmp_path, small_dataset, World(), gate=True, min_perplexity=1.0)
    assert (tmp_path / "evidence" / "reconstructions.npz").exists()
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "tokenizer").exists()


def test_a_tokenizer_worse_than_one_patch_ends_the_stage(small_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no better than one fixed patch"):
        train(tmp_path, small_dataset, World(), gate=True, min_perplexity=0.0, fit={"epochs": 1, "batch": 8})


def test_weights_that_were_changed_are_refused(left_alone: Path, tmp_path: Path) -> None:
    shutil.copytree(left_alone / "tokenizer", tmp_path / "tokenizer")
    file = tmp_path / "tokenizer" / "tokenizer.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(FileError, match=r"tokenizer\.safetensors"):
        load_tokenizer(tmp_path)


def guided_module() -> Tokenizing:
    module = fresh(TokenizerConfig.model_validate(CONFIG | {"guided": 0.4}))
    module.guide_patches.copy_(torch.randn(32, 8, 3, generator=torch.Generator().manual_seed(2)))
    return module


def test_while_guided_the_decoder_is_given_the_nearest_guide_patches_and_the_logits_learn_them() -> None:
    module = guided_module()
    batch = {"points": torch.randn(3, 64, 3, generator=torch.Generator().manual_seed(1)), "noise": torch.tensor([3, 4, 5])}
    patches = module.dvae.patch(batch["points"])
    near = [[min(range(32), key=lambda v: chamfer(module.guide_patches[v], patch)) for patch in cloud] for cloud in patches.offsets]
    made = module.dvae(patches, 1.0, batch["noise"], labels=torch.tensor(near))
    missed = -float(made.logits.detach().log_softmax(-1).gather(2, torch.tensor(near)[..., None]).mean())
    expected = reconstruction_error(made, patches)
    module.progress = 0.39
    loss, terms = module(batch)
    assert float(terms["loss_guide"]) == pytest.approx(missed, rel=1e-5)
    assert float(terms["loss_reconstruction"]) == pytest.approx(expected, rel=1e-5)
    divergence = kl_weight(module.config, 0.39) * float(terms["loss_kl"])
    assert float(loss.detach()) == pytest.approx(expected + divergence + module.config.guide_weight * missed, rel=1e-5)
    module.progress = 0.6  # half of the weight, and the decoder on its own
    loss, terms = module(batch)
    drawn = module.dvae(patches, temperature(module.config, 0.6), batch["noise"])
    assert float(terms["loss_reconstruction"]) == pytest.approx(reconstruction_error(drawn, patches), rel=1e-5)
    assert float(terms["loss_reconstruction"]) != pytest.approx(expected, rel=1e-5)
    rest = float(terms["loss_reconstruction"]) + kl_weight(module.config, 0.6) * float(terms["loss_kl"])
    assert float(loss.detach()) == pytest.approx(rest + module.config.guide_weight / 2 * float(terms["loss_guide"]), rel=1e-5)
    module.progress = 0.8
    assert "loss_guide" not in module(batch)[1]


def test_the_divergence_over_the_batch_is_of_the_batchs_mean_distribution() -> None:
    module = fresh(TokenizerConfig.model_validate(CONFIG | {"kl_over": "batch"}))
    batch = {"points": torch.randn(3, 64, 3, generator=torch.Generator().manual_seed(1)), "noise": torch.tensor([3, 4, 5])}
    patches = module.dvae.patch(batch["points"])
    mean = module.dvae(patches, 1.0, batch["noise"]).logits.detach().double().softmax(-1).mean((0, 1))
    assert float(module(batch)[1]["loss_kl"]) == pytest.approx(float((1 / 32 * (1 / 32 / mean).log()).sum()), rel=1e-4)


def test_a_guided_training_on_few_clouds_learns_its_tokens_and_their_patches() -> None:
    module = guided_module().train()
    batch = {"points": torch.randn(8, 64, 3, generator=torch.Generator().manual_seed(1)), "noise": torch.arange(8)}
    patches = module.dvae.patch(batch["points"]).offsets.flatten(0, 1)
    module.guide_patches.copy_(patches[::2])
    one_patch = patch_codes(patches, patches[:1], 100, 64, torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    seen = []
    for _ in range(120):
        optimizer.zero_grad()
        loss, terms = module(batch)
        loss.backward()
        optimizer.step()
        seen.append({name: float(value) for name, value in terms.items()})
    assert seen[-1]["loss_guide"] < 0.5 * seen[0]["loss_guide"]
    assert seen[-1]["codes_used"] > 0.6
    assert seen[-1]["loss_reconstruction"] < 0.9 * 2 * float(to_nearest(patches, one_patch).mean())  # the loss is of two point sets
