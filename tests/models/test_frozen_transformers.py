"""The architectures of the encoder aliases, with one or two blocks each, against timm's `forward_intermediates`."""

from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seesay.config import EncoderConfig
from seesay.config.encoder_aliases import encoder_aliases
from seesay.errors import EncoderError
from seesay.models.encoders import Encoder, build_encoder
from seesay.models.grids import pooling_matrix
from seesay.models.products import prepack_weights

FAMILIES = {
    "siglip2": ("siglip2-base-patch32", 0, (0.5, 0.5)),
    "dinov2": ("dinov2-small", 1, (0.485, 0.229)),
    "dinov2-reg": ("dinov2-reg-small", 5, (0.485, 0.229)),
    "dinov3": ("dinov3-small", 5, (0.485, 0.229)),
    "dinov3-plus": ("dinov3-small-plus", 5, (0.485, 0.229)),
    "dinov3-convnext": ("dinov3-convnext-tiny", 0, (0.485, 0.229)),
    "clip": ("clip-base-patch32", 1, (0.48145466, 0.26862954)),
    "tinyclip": ("tinyclip-xsmall", 1, (0.48145466, 0.26862954)),
    "eva02": ("eva02-tiny", 1, (0.48145466, 0.26862954)),
    "eva02-clip": ("eva02-clip-base", 1, (0.48145466, 0.26862954)),
}
"""Family -> its smallest alias, prefix tokens, and the published mean and deviation of the first channel."""

create = timm.create_model


def shallow(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """Return a network of one or two blocks with random weights, norms and registers too."""
    assert not pretrained
    depth = {"depths": (1, 1, 1, 1)} if "convnext" in name else {"depth": 1 if "base" in name else 2}
    network: nn.Module = create(name, pretrained=False, **depth, **options)
    generator = torch.Generator("cpu").manual_seed(0)
    for parameter in network.parameters():
        if not parameter.is_meta:
            with torch.no_grad():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return network.eval()


def save(network: nn.Module, path: Path) -> Path:
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file(tensors, path)
    return path


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", shallow)


def build(encoder: str, **options: Any) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(encoder=encoder, encoder_weights="none", **options))


def pixels(count: int, size: int) -> Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def reference(encoder: Encoder, images: Tensor) -> Tensor:
    """The last grid as timm returns it, (B, F, rows, columns)."""
    mean, std = torch.tensor(encoder.preprocessing.mean), torch.tensor(encoder.preprocessing.std)
    inputs = ((images / 255 - mean) / std).permute(0, 3, 1, 2)
    network = cast("Any", encoder.network)
    grid: Tensor = network.forward_intermediates(
        inputs, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
    )[-1]
    return grid


def rows(grid: Tensor) -> Tensor:
    return grid.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_features_are_timms_last_grid(family: str) -> None:
    name, prefix, (mean, std) = FAMILIES[family]
    alias = encoder_aliases()[name]
    encoder = build(name)
    assert encoder.grid == (alias.grid, alias.grid)
    assert encoder.feature_size == alias.features
    assert encoder.preprocessing.size == alias.pixels
    assert encoder.preprocessing.interpolation == "bicubic"
    assert (encoder.preprocessing.mean[0], encoder.preprocessing.std[0]) == pytest.approx((mean, std))
    assert getattr(encoder.network, "num_prefix_tokens", 0) == prefix
    assert encoder.identity["encoder"] == alias.network
    images = pixels(2, alias.pixels)
    features = encoder(images)
    expected = reference(encoder, images)
    assert expected.shape == (2, alias.features, alias.grid, alias.grid)
    torch.testing.assert_close(features, rows(expected), rtol=1e-4, atol=1e-4)
    assert float(features.std(1).mean()) > 1e-3  # the regions differ

    prepack_weights(encoder)
    in_onnx = encoder(images)
    assert encoder._onnx._session is not None
    torch.testing.assert_close(in_onnx, features, rtol=1e-3, atol=1e-3 * float(features.abs().max()))


@pytest.mark.parametrize("family", ["dinov2-reg", "dinov3", "eva02"])
@torch.no_grad()
def test_another_image_size_has_another_grid(family: str) -> None:
    name = FAMILIES[family][0]
    size = 6 * encoder_aliases()[name].pixels // encoder_aliases()[name].grid
    encoder = build(name, image_size=size)
    assert (encoder.grid, encoder.preprocessing.size) == ((6, 6), size)
    images = pixels(1, size)
    torch.testing.assert_close(encoder(images), rows(reference(encoder, images)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "sizes"),
    [("dinov2-small", 256, "252 or 266"), ("dinov3-small", 250, "240 or 256"), ("tinyclip-xsmall", 8, "16")],
)
def test_an_image_size_between_patches_is_refused(name: str, size: int, sizes: str) -> None:
    # timm would crop the image to whole patches.
    with pytest.raises(EncoderError, match=f"image_size is {size}, .* patch size .*; use {sizes}$"):
        build(name, image_size=size)


def test_the_norm_behind_the_pooling_is_applied_to_the_tokens(tmp_path: Path) -> None:
    # Without it the tokens of EVA-02 are those of a residual stream, which no norm bounds.
    network = cast("Any", shallow("eva02_tiny_patch14_224.mim_in22k", img_size=56))
    assert isinstance(network.norm, nn.Identity)
    path = save(network, tmp_path / "eva.safetensors")
    encoder = build_encoder(EncoderConfig(encoder="eva02-tiny", encoder_weights=str(path), image_size=56))
    images = pixels(1, 56)
    with torch.no_grad():
        mean, std = torch.tensor(encoder.preprocessing.mean), torch.tensor(encoder.preprocessing.std)
        tokens = network.forward_features(((images / 255 - mean) / std).permute(0, 3, 1, 2))
        torch.testing.assert_close(encoder(images), network.fc_norm(tokens)[:, 1:], rtol=1e-4, atol=1e-4)
    # Weights that a run saved have the name of the network as it is used.
    saved = save(encoder.network, tmp_path / "saved.safetensors")
    again = build_encoder(EncoderConfig(encoder="eva02-tiny", encoder_weights=str(saved), image_size=56))
    assert again.identity == encoder.identity


def test_the_attention_pooling_head_is_removed(tmp_path: Path) -> None:
    name = "vit_base_patch32_siglip_256.v2_webli"
    network = cast("Any", shallow(name, num_classes=0, img_size=64))
    assert network.attn_pool is not None
    path = save(network, tmp_path / "siglip.safetensors")
    config = EncoderConfig(encoder=name, encoder_weights=str(path), image_size=64, encoder_training="full")
    encoder = build_encoder(config)
    images = pixels(1, 64)
    with torch.no_grad():
        tokens = network.forward_features((images / 127.5 - 1).permute(0, 3, 1, 2))
        torch.testing.assert_close(encoder(images), tokens, rtol=1e-4, atol=1e-4)
    assert not [key for key in encoder.network.state_dict() if "attn_pool" in key]
    encoder(images).square().mean().backward()  # no parameter without a use, as several processes need
    assert [key for key, each in encoder.named_parameters() if each.grad is None] == []


@pytest.mark.parametrize(("grid", "size"), [((16, 16), 7), ((24, 24), 8), ((27, 27), 7), ((5, 9), 4), ((6, 6), 6)])
def test_pooling_is_adaptive_average_pooling(grid: tuple[int, int], size: int) -> None:
    maps = torch.rand(2, 3, *grid)
    expected = rows(F.adaptive_avg_pool2d(maps, size))
    torch.testing.assert_close(pooling_matrix(grid, size) @ rows(maps), expected)


@torch.no_grad()
def test_a_grid_size_pools_the_features() -> None:
    options = {"image_size": 176}  # a grid of 11 x 11, which 4 does not divide
    whole, pooled = build("dinov3-small", **options), build("dinov3-small", grid_size=4, **options)
    images = pixels(2, 176)
    maps = whole(images).transpose(1, 2).reshape(2, -1, *whole.grid)
    expected = rows(F.adaptive_avg_pool2d(maps, 4))
    assert (whole.grid, pooled.grid) == ((11, 11), (4, 4))
    torch.testing.assert_close(pooled(images), expected, rtol=1e-4, atol=1e-4)
    prepack_weights(pooled)
    torch.testing.assert_close(pooled(images), expected, rtol=1e-3, atol=1e-3)
    assert pooled._onnx._session is not None
    assert pooled.identity == {**whole.identity, "grid_size": 4}


def test_a_grid_size_above_the_grid_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"grid_size is 9, but the grid of .* at 64 px has 4 x 4 regions"):
        build("tinyclip-xsmall", image_size=64, grid_size=9)
    with pytest.raises(EncoderError, match="grid_size is 2, but pool is pooled"):
        build("tinyclip-xsmall", image_size=64, grid_size=2, pool="pooled")


def test_a_name_near_an_alias_is_suggested() -> None:
    with pytest.raises(EncoderError, match=r"no encoder 'siglip2-bse': .*similar names: siglip2-base, "):
        build("siglip2-bse")
