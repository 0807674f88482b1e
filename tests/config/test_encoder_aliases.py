"""Aliases of encoders: what they stand for, and that every way to name an encoder accepts them."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

from seesay.config import Config, EncoderConfig, replace, resolve_config, save_config
from seesay.config.encoder_aliases import encoder_aliases, resolve, similar_aliases
from seesay.config.loading import locate

DINOV2 = ("vit_small_patch14_dinov2.lvd142m", 224)


def of(config: Config) -> tuple[str, int]:
    return config.encoder.encoder, config.encoder.image_size


@pytest.mark.parametrize("name", encoder_aliases())
def test_the_table_states_what_timm_does(name: str) -> None:
    alias = encoder_aliases()[name]
    shipped = timm.get_pretrained_cfg(alias.network)
    assert shipped is not None
    assert shipped.hf_hub_id
    assert shipped.license == alias.license
    assert alias.settings.get("image_size", shipped.input_size[-1]) == alias.pixels
    with torch.device("meta"):  # without memory for the weights
        network: Any = timm.create_model(alias.network, pretrained=False, num_classes=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == alias.parameters
    assert network.num_features == alias.features
    embedding = getattr(network, "patch_embed", None)
    stride = embedding.patch_size[0] if embedding else network.feature_info[-1]["reduction"]
    assert alias.pixels == alias.grid * stride


def test_an_alias_is_no_name_of_timm() -> None:
    assert not [name for name in encoder_aliases() if timm.is_model(name)]


def test_every_way_to_name_an_encoder_resolves_an_alias(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({"encoder": {"encoder": "dinov2-small"}}))
    assert of(resolve_config("attention-gru", file)) == DINOV2
    assert of(resolve_config("attention-gru", None, {"encoder": "dinov2-small"})) == DINOV2
    assert of(replace(Config(), **{"encoder.encoder": "dinov2-small"})) == DINOV2
    assert EncoderConfig().replace(encoder="dinov2-small").encoder == DINOV2[0]
    assert locate("encoder") == ("encoder", "encoder")


def test_a_saved_configuration_has_the_name_of_timm(tmp_path: Path) -> None:
    config = resolve_config("attention-gru", None, {"encoder": "dinov2-small"})
    save_config(config, tmp_path / "config.yaml")
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())["encoder"]
    assert (saved["encoder"], saved["image_size"]) == DINOV2
    assert resolve_config("", tmp_path / "config.yaml") == config


def test_a_given_image_size_is_kept() -> None:
    assert EncoderConfig(encoder="dinov2-small", image_size=518).image_size == 518
    assert EncoderConfig(encoder="siglip2-base", image_size=384).image_size == 384
    assert EncoderConfig(encoder="siglip2-base").image_size == 0  # the size of the weights


@pytest.mark.parametrize("values", [{"encoder": "resnet50"}, {}, {"encoder": 3}, {"image_size": 96}], ids=str)
def test_other_values_are_unchanged(values: dict[str, Any]) -> None:
    assert resolve(values) == values


@pytest.mark.parametrize(
    ("name", "near"), [("siglip2-bse", "siglip2-base"), ("DINOv3-small", "dinov3-small"), ("eva2-tiny", "eva02-tiny")]
)
def test_similar_aliases_are_found(name: str, near: str) -> None:
    assert similar_aliases(name)[0] == near


def test_the_documentation_lists_every_alias() -> None:
    text = (Path(__file__).parents[2] / "docs/features.md").read_text(encoding="utf-8")
    for name, alias in encoder_aliases().items():
        size = f"{alias.parameters / 1e6:.1f} M | {alias.pixels} px | {alias.grid} x {alias.grid} x {alias.features}"
        assert f"| `{name}` | `{alias.network}` | {alias.license} | {size} | " in text
