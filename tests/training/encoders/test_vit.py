import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from training.encoders import ImageEncoderConfig, ResNetConfig, ViT, ViTConfig, build

TINY = ViTConfig(size=32, patch=16, width=32, depth=2, heads=2, drop_path=0.5)


def test_the_default_has_21665664_parameters_as_the_small_vit_without_biases_on_queries_keys_and_values():
    # ViT-S/16 of 224 pixels without its classifier has 21 665 664; 12 · 3 · 384 of them are those biases
    with torch.device("meta"):
        encoder = build(ViTConfig())
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 21_665_664 - 12 * 3 * 384
    assert encoder.feature_dim == 384


def test_tokens_are_the_formula_with_a_convolution_for_patches_and_positions_once():
    torch.manual_seed(0)
    encoder = ViT(TINY).double()
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    convolved = nn.functional.conv2d(images, encoder.embed.weight.view(32, 3, 16, 16), encoder.embed.bias, stride=16)
    x = [encoder.cls_token.expand(3, 1, -1)] + [convolved[:, :, i : i + 1, j].transpose(1, 2) for i in range(2) for j in range(2)]
    state = torch.cat(x, 1) + encoder.positions
    for block in encoder.blocks:
        state = block(state)
    tokens = encoder.tokens(images)
    torch.testing.assert_close(tokens, encoder.norm(state), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(encoder(images), tokens[:, 0], rtol=1e-10, atol=1e-10)


def test_training_is_random_by_keys_alone():
    torch.manual_seed(0)
    encoder, images, keys = ViT(TINY), torch.randn(8, 3, 32, 32), torch.arange(8)
    first = encoder(images, keys)
    assert torch.equal(encoder(images, keys), first)
    assert not torch.equal(encoder(images), first)
    torch.testing.assert_close(encoder(images[3:5], keys[3:5]), first[3:5], rtol=1e-5, atol=1e-5)
    assert torch.equal(encoder.eval()(images, keys), encoder(images))


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (2, 3, 32, 16), (2, 1, 32, 32)])
def test_images_of_another_size_are_refused_in_one_sentence(shape):
    with pytest.raises(ValueError, match=r"this ViT takes \(3, 32, 32\)"):
        ViT(TINY)(torch.randn(shape))


@pytest.mark.parametrize("wrong", [{"size": 30}, {"heads": 5}, {"drop_path": -0.1}, {"pach": 8}])
def test_a_configuration_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        ViTConfig(**wrong)


def test_the_kind_chooses_the_configuration():
    read = TypeAdapter(ImageEncoderConfig).validate_python
    assert read({"kind": "vit", "size": 64}) == ViTConfig(size=64)
    assert read({"kind": "resnet", "depth": 18}) == ResNetConfig(depth=18)
