"""Encoders against plain timm networks: what they give, what they load, and what they refuse."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, cast

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seesay.config import EncoderConfig
from seesay.errors import ConfigError, EncoderError
from seesay.features.extraction import round_features
from seesay.images.loading import Preprocessing
from seesay.models import networks
from seesay.models.encoders import SMALL_CNN, Encoder, SmallCNN, build_encoder
from seesay.models.networks import weights_digest

WEIGHTS = Path(__file__).parents[2] / "../shared/weights"
METADATA = {
    "mean": "[0.1, 0.2, 0.3]",
    "std": "(0.4, 0.5, 0.6)",
    "input_size": "[3, 96, 96]",
    "interpolation": "bilinear (used in the checks)",
}


def made(name: str, **options: Any) -> nn.Module:
    """A timm network with random weights that are the same at every call; its batch norms have statistics."""
    torch.manual_seed(3)
    network: nn.Module = timm.create_model(name, pretrained=False, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(cast("Tensor", module.running_mean), -0.2, 0.2)
            nn.init.uniform_(cast("Tensor", module.running_var), 0.5, 2.0)
    return network.eval()


def save(network: nn.Module, path: Path, metadata: dict[str, str] | None = METADATA) -> Path:
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def pixels(images: int, size: int) -> Tensor:
    return torch.randint(0, 256, (images, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalised(images: Tensor, encoder: Encoder) -> Tensor:
    """What the network is to be shown, in plain arithmetic."""
    mean, std = torch.tensor(encoder.preprocessing.mean), torch.tensor(encoder.preprocessing.std)
    return ((images / 255 - mean) / std).permute(0, 3, 1, 2)


@torch.no_grad()
def encoded(encoder: Encoder, images: Tensor) -> Tensor:
    return cast("Tensor", encoder(images))


def rows(output: Tensor) -> Tensor:
    """(B, F, rows, columns) as (B, N, F), region by region from the top left."""
    regions = [output[:, :, y, x] for y in range(output.shape[2]) for x in range(output.shape[3])]
    return torch.stack(regions, 1)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(made("test_resnet"), tmp_path_factory.mktemp("weights") / "test_resnet.safetensors")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    return save(made("test_vit"), path, {**METADATA, "input_size": "[3, 160, 160]"})


def from_file(name: str, path: Path, **options: Any) -> Encoder:
    return build_encoder(EncoderConfig(encoder=name, encoder_weights=str(path), **options))


# What an encoder gives.


@torch.no_grad()
def test_features_are_the_last_map_of_the_plain_network(resnet: Path) -> None:
    encoder = from_file("test_resnet", resnet)
    network = cast("Any", made("test_resnet"))
    images = pixels(2, 96)
    found = encoded(encoder, images)
    torch.testing.assert_close(found, rows(network.forward_features(normalised(images, encoder))), rtol=1e-4, atol=1e-5)
    assert encoder.grid == (3, 3)
    assert encoder.feature_size == found.shape[2] == 96
    assert found.shape == (2, 9, 96)
    assert encoder.preprocessing == Preprocessing(96, "squash", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear")


@torch.no_grad()
@pytest.mark.parametrize("layer", ["layer2", "layer3.0", "conv1.0"])
def test_a_layers_features_are_what_a_plain_hook_sees(resnet: Path, layer: str) -> None:
    network = cast("Any", made("test_resnet"))
    encoder = from_file("test_resnet", resnet, layer=layer)
    seen: list[Tensor] = []
    network.get_submodule(layer).register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = pixels(2, 96)
    network.forward_features(normalised(images, encoder))
    found = encoded(encoder, images)
    torch.testing.assert_close(found, rows(seen[0]), rtol=1e-4, atol=1e-5)
    assert found.shape[1:] == (encoder.grid[0] * encoder.grid[1], encoder.feature_size)


@pytest.mark.parametrize("layer", ["", "layer2"])
def test_pooled_is_the_mean_of_the_grid(resnet: Path, layer: str) -> None:
    images = pixels(3, 96)
    grid = encoded(from_file("test_resnet", resnet, layer=layer), images)
    encoder = from_file("test_resnet", resnet, layer=layer, pool="pooled")
    pooled = encoded(encoder, images)
    assert pooled.shape == (3, 1, grid.shape[2])
    assert encoder.grid == (1, 1)
    torch.testing.assert_close(pooled[:, 0], grid.mean(1))


@torch.no_grad()
def test_a_transformers_tokens_are_its_regions(vit: Path) -> None:
    encoder = from_file("test_vit", vit)
    images = pixels(2, 160)
    tokens = cast("Any", made("test_vit")).forward_features(normalised(images, encoder))
    assert tokens.shape == (2, 101, 64)
    assert encoder.grid == (10, 10)
    torch.testing.assert_close(encoded(encoder, images), tokens[:, 1:], rtol=1e-4, atol=1e-5)


def test_both_prefix_tokens_of_a_distilled_transformer_are_left_out() -> None:
    encoder = build_encoder(
        EncoderConfig(encoder="deit_tiny_distilled_patch16_224", encoder_weights="none", image_size=64)
    )
    assert (encoder.grid, encoder.feature_size) == ((4, 4), 192)
    assert encoded(encoder, pixels(1, 64)).shape == (1, 16, 192)


@pytest.mark.parametrize(("name", "prefix"), [("test_vit", 1), ("vit_wee_patch16_reg1_gap_256", 0)])
def test_position_embeddings_are_resampled_to_another_size(tmp_path: Path, name: str, prefix: int) -> None:
    # The second keeps none for its register. Bug: one was taken off its grid all the same.
    network = cast("Any", made(name))
    path = save(network, tmp_path / "vit.safetensors", {})
    encoder = from_file(name, path, image_size=64)
    assert encoder.grid == (4, 4)
    positions = network.pos_embed.detach()
    side = round((positions.shape[1] - prefix) ** 0.5)
    grid = positions[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    smaller = F.interpolate(grid, size=(4, 4), mode="bicubic", antialias=True)
    found = cast("Any", encoder.network).pos_embed.detach()
    torch.testing.assert_close(found[:, prefix:], smaller.flatten(2).transpose(1, 2))
    torch.testing.assert_close(found[:, :prefix], positions[:, :prefix])


def test_a_file_may_be_made_for_another_size_than_the_network(tmp_path: Path) -> None:
    # Bug: the network was built for its own size, and the images made for the file's.
    network = cast("Any", made("test_vit", img_size=64))
    path = save(network, tmp_path / "vit64.safetensors", {**METADATA, "input_size": "[3, 64, 64]"})
    encoder = from_file("test_vit", path)
    assert (encoder.preprocessing.size, encoder.grid) == (64, (4, 4))
    assert torch.equal(cast("Any", encoder.network).pos_embed, network.pos_embed)


@pytest.mark.parametrize(
    ("layer", "grid", "width"), [("", (8, 8), 2048), ("Mixed_7a", (8, 8), 1280), ("Mixed_6e", (17, 17), 768)]
)
def test_inception_gives_the_grids_of_the_tutorials(layer: str, grid: tuple[int, int], width: int) -> None:
    encoder = build_encoder(EncoderConfig(encoder_weights="none", layer=layer))  # the default network
    assert (encoder.grid, encoder.feature_size, encoder.preprocessing.size) == (grid, width, 299)
    assert (encoder.preprocessing.mean, encoder.preprocessing.std) == ((0.5,) * 3, (0.5,) * 3)  # -1..1


@torch.no_grad()
def test_tf_average_pooling_counts_no_padding_in_inception() -> None:
    options = {"encoder": "inception_v3", "encoder_weights": "none", "image_size": 107}
    encoder = build_encoder(EncoderConfig(**options, layer="Mixed_5b", tf_average_pooling=True))  # type: ignore[arg-type]
    plain = build_encoder(EncoderConfig(**options, layer="Mixed_5b"))  # type: ignore[arg-type]
    before = build_encoder(EncoderConfig(**options, layer="Pool2"))  # type: ignore[arg-type]
    for other in (plain, before):
        other.network.load_state_dict(encoder.network.state_dict())
    images = pixels(2, 107)
    x = encoded(before, images).transpose(1, 2).reshape(2, -1, *before.grid)
    block = cast("Any", plain.network).Mixed_5b
    expected = torch.cat(
        [
            block.branch1x1(x),
            block.branch5x5_2(block.branch5x5_1(x)),
            block.branch3x3dbl_3(block.branch3x3dbl_2(block.branch3x3dbl_1(x))),
            block.branch_pool(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
        ],
        dim=1,
    )
    torch.testing.assert_close(encoded(encoder, images), rows(expected), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(encoded(plain, images), rows(expected), rtol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("layer", ["patch_embed", "blocks.1", "blocks.1.attn.qkv"])
def test_a_transformers_layers_have_their_tokens_too(layer: str) -> None:
    # Bug: where the class token is not there yet, the first region was taken for it.
    for name in ("test_vit", "deit_tiny_patch16_224"):
        encoder = build_encoder(EncoderConfig(encoder=name, encoder_weights="none", layer=layer, image_size=64))
        images = pixels(1, 64)
        network = cast("Any", made(name, img_size=64, num_classes=0))
        network.load_state_dict(encoder.network.state_dict())
        seen: list[Tensor] = []
        network.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append(output)
        )
        network.forward_features(normalised(images, encoder))
        tokens = seen[0].flatten(1, -2)[:, -16:]
        assert encoder.grid == (4, 4)
        torch.testing.assert_close(encoded(encoder, images), tokens, rtol=1e-4, atol=1e-5)


class Fixed(nn.Module):
    """A network that gives the same whatever it is shown."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward_features(self, images: Tensor) -> Tensor:
        return self.output


@pytest.mark.parametrize(
    ("shape", "output_fmt", "grid", "width"),
    [
        ((1, 7, 4, 4), "NCHW", (4, 4), 7),
        ((1, 4, 4, 7), "NCHW", (4, 4), 7),  # bug: such a map was read as four channels of 4 x 7
        ((1, 4, 4, 7), "NHWC", (4, 4), 7),
        ((1, 4, 4, 4), "NCHW", (4, 4), 4),
        ((1, 4, 4, 4), "NHWC", (4, 4), 4),
        ((1, 9, 5), "NCHW", (3, 3), 5),
        ((1, 5), "NCHW", (1, 1), 5),
    ],
)
def test_maps_are_read_in_their_own_layout(
    shape: tuple[int, ...], output_fmt: str, grid: tuple[int, int], width: int
) -> None:
    output = torch.rand(shape)
    network = cast("Any", Fixed(output))
    network.output_fmt = output_fmt
    encoder = Encoder(EncoderConfig(), network, Preprocessing(8, "squash", (0.5,) * 3, (0.5,) * 3))
    assert (encoder.grid, encoder.feature_size) == (grid, width)
    channels_first = output_fmt == "NCHW" and shape[-1] == shape[-2]
    expected = rows(output) if channels_first else output.reshape(1, grid[0] * grid[1], width)
    assert torch.equal(encoded(encoder, pixels(1, 8)), expected)


@pytest.mark.parametrize(("shape", "words"), [((1, 7, 5), "7 regions"), ((1, 2, 3, 4, 5), "5-d")])
def test_what_is_no_grid_is_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(EncoderError, match=words):
        Encoder(EncoderConfig(), Fixed(torch.rand(shape)), Preprocessing(8, "squash", (0.5,) * 3, (0.5,) * 3))


def test_a_layer_with_several_outputs_is_refused() -> None:
    network = Fixed(cast("Tensor", (torch.rand(1, 9, 5), torch.rand(1, 5))))
    with pytest.raises(EncoderError, match="returns tuple, not one tensor"):
        Encoder(EncoderConfig(), network, Preprocessing(8, "squash", (0.5,) * 3, (0.5,) * 3))


class Pooling(nn.Module):
    """A network that is one average pool, as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, 1, 1)

    def forward_features(self, images: Tensor) -> Tensor:
        return cast("Tensor", self.pool(images))


def test_tf_average_pooling_counts_no_padding_in_pooling_layers() -> None:
    preprocessing = Preprocessing(6, "squash", (0.0,) * 3, (1.0,) * 3)
    encoder = Encoder(EncoderConfig(tf_average_pooling=True), Pooling(), preprocessing)
    found = encoded(encoder, torch.full((1, 6, 6, 3), 255, dtype=torch.uint8))
    torch.testing.assert_close(found, torch.ones(1, 36, 3))


def encoder_of_kind(kind: str, resnet: Path, vit: Path) -> Encoder:
    builders: dict[str, Callable[[], Encoder]] = {
        "resnet": lambda: from_file("test_resnet", resnet),
        "layer": lambda: from_file("test_resnet", resnet, layer="layer2"),
        "vit": lambda: from_file("test_vit", vit, image_size=96),
        "small": lambda: build_encoder(EncoderConfig(encoder=SMALL_CNN, encoder_weights="none")),
    }
    return builders[kind]()


@pytest.mark.parametrize("kind", ["resnet", "layer", "vit", "small"])
def test_a_batch_is_its_images_one_by_one(kind: str, resnet: Path, vit: Path) -> None:
    encoder = encoder_of_kind(kind, resnet, vit)
    images = pixels(4, 96)
    together = encoded(encoder, images)
    alone = torch.cat([encoded(encoder, images[place : place + 1]) for place in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1])


def test_threads_may_share_an_encoder(resnet: Path) -> None:
    # Bug: each call hung a hook of its own on the layer, and one thread's hook took another's output.
    encoder = from_file("test_resnet", resnet, layer="layer2")
    images = pixels(24, 96)
    expected = [encoded(encoder, images[place : place + 1]) for place in range(24)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda place: encoded(encoder, images[place : place + 1]), range(24)))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_batch_norms_keep_their_statistics_in_training(resnet: Path) -> None:
    encoder = from_file("test_resnet", resnet, encoder_training="full")
    images = pixels(3, 96)
    expected = encoded(encoder, images)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.train()
    assert encoder.training
    assert encoder.network.training
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(module.training for module in norms)
    torch.testing.assert_close(encoded(encoder, images), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize("training", ["cached", "frozen"])
def test_an_encoder_that_is_not_trained_stays_in_evaluation(
    resnet: Path, training: Literal["cached", "frozen"]
) -> None:
    encoder = from_file("test_resnet", resnet, encoder_training=training).train()
    assert not any(module.training for module in encoder.modules())


def test_a_gradient_reaches_what_is_below_the_layer(resnet: Path) -> None:
    encoder = from_file("test_resnet", resnet, layer="layer2").train()
    encoder(pixels(2, 96)).square().mean().backward()
    moved = {
        name.split(".")[1]
        for name, parameter in encoder.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
    }
    assert moved == {"conv1", "bn1", "layer1", "layer2"}


def test_the_small_cnn_is_a_grid_of_its_own() -> None:
    encoder = build_encoder(EncoderConfig(encoder=SMALL_CNN, encoder_weights="none"))
    assert (encoder.preprocessing.size, encoder.grid, encoder.feature_size) == (96, (12, 12), 128)
    part = build_encoder(EncoderConfig(encoder=SMALL_CNN, encoder_weights="none", layer="layers.8", image_size=64))
    assert (part.grid, part.feature_size) == ((8, 8), 96)


def test_preprocessing_may_be_overruled(resnet: Path) -> None:
    encoder = from_file("test_resnet", resnet, mean=(0.7, 0.7, 0.7), std=(1.0, 1.0, 1.0), image_size=64, resize="crop")
    assert encoder.preprocessing == Preprocessing(64, "crop", (0.7,) * 3, (1.0,) * 3, "bilinear")
    with pytest.raises(ConfigError, match="three numbers"):
        from_file("test_resnet", resnet, mean=(0.7, 0.7))


# Where weights come from.


@pytest.mark.parametrize(
    "name",
    ["test_efficientnet", "test_convnext", "test_byobnet", "test_vit4", "deit_tiny_distilled_patch16_224"],
)
def test_a_whole_state_dict_loads_without_its_classifier(tmp_path: Path, name: str) -> None:
    # Bug: the last has two classifiers, which were taken for weights that nobody wants.
    network = made(name)
    path = save(network, tmp_path / "weights.safetensors", None)
    encoder = from_file(name, path)
    own = encoder.network.state_dict()
    whole = {key.replace("fc_norm", "norm"): tensor for key, tensor in network.state_dict().items()}
    kept = {key: tensor for key, tensor in whole.items() if key in own}
    assert len(kept) == len(own) < len(network.state_dict())
    assert all(torch.equal(own[key], tensor) for key, tensor in kept.items())
    shipped = cast("Any", network).pretrained_cfg
    assert encoder.preprocessing.mean == tuple(shipped["mean"])
    assert encoder.preprocessing.size == shipped["input_size"][-1]


def test_half_precision_weights_are_widened(tmp_path: Path, resnet: Path) -> None:
    path = save(made("test_resnet").half(), tmp_path / "half.safetensors")
    encoder = from_file("test_resnet", path)
    assert {tensor.dtype for tensor in encoder.parameters()} == {torch.float32}
    expected = encoded(from_file("test_resnet", resnet), pixels(1, 96))
    torch.testing.assert_close(encoded(encoder, pixels(1, 96)), expected, rtol=0.05, atol=0.05)


def test_weights_without_counters_load(tmp_path: Path) -> None:
    network = made("test_resnet")
    tensors = {k: t.contiguous() for k, t in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    safetensors.torch.save_file(tensors, tmp_path / "old.safetensors")
    encoder = from_file("test_resnet", tmp_path / "old.safetensors")
    assert torch.equal(encoder.network.state_dict()["layer1.0.conv1.weight"], tensors["layer1.0.conv1.weight"])


def damage(kind: str, whole: Path, folder: Path) -> Path:
    path = folder / "damaged.safetensors"
    tensors = safetensors.torch.load_file(whole)
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("these are no weights\n" * 50)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(whole.read_bytes()[:-1000])
    elif kind == "cut header":
        path.write_bytes(whole.read_bytes()[:100])
    elif kind == "without a tensor":
        del tensors["layer1.0.conv1.weight"]
        safetensors.torch.save_file(tensors, path, METADATA)
    elif kind == "no tensor":
        safetensors.torch.save_file({}, path, METADATA)
    elif kind == "a tensor more":
        safetensors.torch.save_file({**tensors, "layer9.weight": torch.zeros(1)}, path, METADATA)
    elif kind == "another shape":
        tensors["layer1.0.conv1.weight"] = torch.zeros(3, 3)
        safetensors.torch.save_file(tensors, path, METADATA)
    elif kind == "another network":
        save(made("test_convnext"), path)
    elif kind == "bad metadata":
        safetensors.torch.save_file(tensors, path, {**METADATA, "mean": "imagenet"})
    else:
        safetensors.torch.save_file(tensors, path, {**METADATA, "std": "0.5"})
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no encoder weights at"),
        ("folder", "not a complete safetensors file"),
        ("text", "not a complete safetensors file"),
        ("empty", "not a complete safetensors file"),
        ("cut", "not a complete safetensors file"),
        ("cut header", "not a complete safetensors file"),
        ("without a tensor", "1 tensors missing (such as layer1.0.conv1.weight)"),
        ("no tensor", "tensors missing"),
        ("a tensor more", "1 tensors unexpected (such as layer9.weight)"),
        ("another shape", "1 tensors of another shape (such as layer1.0.conv1.weight)"),
        ("another network", "tensors missing"),
        ("bad metadata", "mean = 'imagenet'"),
        ("one number", "std = '0.5'"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_in_one_line(
    kind: str, reason: str, resnet: Path, tmp_path: Path
) -> None:
    path = damage(kind, resnet, tmp_path)
    with pytest.raises(EncoderError) as caught:
        from_file("test_resnet", path)
    message = str(caught.value)
    assert reason in message
    assert str(path) in message
    assert "\n" not in message


def test_a_distilled_transformers_weights_do_not_fit_a_plain_one(tmp_path: Path) -> None:
    # Bug: their odd number of position embeddings ended in an error of timm's.
    path = save(made("deit_tiny_distilled_patch16_224"), tmp_path / "distilled.safetensors", {})
    with pytest.raises(EncoderError, match=r"another shape \(such as pos_embed\)"):
        from_file("deit_tiny_patch16_224", path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (EncoderConfig(encoder="inception_v33"), ("inception_v33", "inception_v3")),
        (EncoderConfig(encoder="resnet51"), ("resnet51", "resnet50")),
        (EncoderConfig(encoder="zzzzzzzzzz"), ("zzzzzzzzzz", "resnet50")),
        (EncoderConfig(encoder="inception_v3.of_mine"), ("of_mine", "inception_v3.tf_in1k")),
        (EncoderConfig(encoder="test_resnet", encoder_weights="none", layer="layer9"), ("layer9", "layer4")),
        (EncoderConfig(encoder="test_resnet", encoder_weights="none", layer="qqq"), ("qqq", "layer1")),
        (EncoderConfig(encoder="test_resnet", encoder_weights="none", layer="global_pool"), ("not used",)),
        (EncoderConfig(encoder="inception_v3", encoder_weights="none", image_size=32), ("32 x 32",)),
        (EncoderConfig(encoder="test_vit", encoder_weights="none", image_size=8), ("test_vit", "8")),
        (EncoderConfig(encoder=SMALL_CNN, encoder_weights="some.safetensors"), ("some.safetensors",)),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(config: EncoderConfig, words: tuple[str, ...]) -> None:
    with pytest.raises(EncoderError) as caught:
        build_encoder(config)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*names: str, pretrained: bool, **options: Any) -> nn.Module:
        assert pretrained
        raise OSError("cannot reach the hub\nand a long story")

    monkeypatch.setattr(timm, "create_model", unreachable)
    monkeypatch.setattr(networks, "hub_answers", lambda: True)
    with pytest.raises(EncoderError) as caught:
        build_encoder(EncoderConfig(encoder="test_resnet"))
    assert str(caught.value) == (
        "the weights of test_resnet could not be fetched from the hub (cannot reach the hub); "
        "pass --encoder-weights FILE.safetensors, or none"
    )


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of a hub whose address refuses connections."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_offline_hub_fails_at_once_without_retries(no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Bug: the hub's library retried for 73 seconds, with 12 lines on the terminal.
    monkeypatch.setattr(timm, "create_model", None)
    with pytest.raises(EncoderError, match=r"not in the cache and http://127\.0\.0\.1:9 does not answer; connect"):
        build_encoder(EncoderConfig(encoder="test_resnet"))


def test_offline_mode_is_named(no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(networks, "hub_answers", lambda: False)
    with pytest.raises(EncoderError, match="of test_resnet are not in the cache and HF_HUB_OFFLINE is set; connect"):
        build_encoder(EncoderConfig(encoder="test_resnet"))


def test_offline_hub_loads_weights_that_the_cache_holds(no_hub: Path, resnet: Path) -> None:
    repository = no_hub / "models--timm--test_resnet.r160_in1k"
    commit = "0" * 40
    for folder in ("refs", f"snapshots/{commit}"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    (repository / f"snapshots/{commit}/model.safetensors").write_bytes(resnet.read_bytes())
    encoder = build_encoder(EncoderConfig(encoder="test_resnet"))
    assert encoder.identity["digest"] == from_file("test_resnet", resnet).identity["digest"]


def test_random_weights_of_a_deep_network_give_features_that_fit_float16(caplog: pytest.LogCaptureFixture) -> None:
    # Bug: batch norms that normalise nothing let InceptionV3's features grow to 1e12.
    torch.manual_seed(0)
    config = EncoderConfig(encoder="inception_v3", encoder_weights="none", image_size=107)
    encoder = build_encoder(config)
    assert "weights of inception_v3 are random" in caplog.text
    features = round_features(encoded(encoder, pixels(2, 107)))
    assert 0.1 < float(features.float().std()) < 10
    assert encoder.identity["weights"] == "random"
    torch.manual_seed(0)
    assert build_encoder(config).identity == encoder.identity


# What tells one encoder from another.


def test_the_digest_changes_with_a_weight() -> None:
    torch.manual_seed(0)
    network = SmallCNN()
    digest = weights_digest(network)
    assert len(digest) == 16
    assert weights_digest(network.to(memory_format=torch.channels_last)) == digest
    with torch.no_grad():
        next(network.parameters())[0, 0, 0, 0] += 1e-6
    assert weights_digest(network) != digest


def test_the_identity_tells_encoders_apart_and_survives_json(resnet: Path, tmp_path: Path) -> None:
    base = EncoderConfig(encoder="test_resnet", encoder_weights=str(resnet))
    again = save(made("test_resnet"), tmp_path / "copy.safetensors")
    changes: list[dict[str, Any]] = [
        {"layer": "layer2"},
        {"pool": "pooled"},
        {"image_size": 64},
        {"resize": "crop"},
        {"mean": (0.0, 0.0, 0.0)},
        {"tf_average_pooling": True},
        {"encoder_weights": "none"},
    ]
    first = build_encoder(base).identity
    assert json.loads(json.dumps(first)) == first
    others = [build_encoder(base.replace(**change)).identity for change in changes]
    assert all(other != first for other in others)
    assert from_file("test_resnet", again).identity == first  # wherever the file lies
    assert first["weights"] == "file"
    assert str(resnet) not in json.dumps(first)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_shell_is_built_from_its_identity_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Bug: without its file at hand an encoder lost the preprocessing that only the file knew.
    path = save(made(name), tmp_path / "weights.safetensors")
    config = EncoderConfig(encoder=name, encoder_weights=str(path))
    encoder = build_encoder(config)
    images = pixels(1, 96)
    path.unlink()
    shell = build_encoder(config, identity=json.loads(json.dumps(encoder.identity)))
    assert not torch.allclose(encoded(shell, images), encoded(encoder, images))
    shell.load_state_dict(encoder.state_dict())
    assert torch.equal(encoded(shell, images), encoded(encoder, images))
    for fact in ("preprocessing", "identity", "grid", "feature_size", "config"):
        assert getattr(shell, fact) == getattr(encoder, fact)


def test_a_shell_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool, **options: Any) -> nn.Module:
        assert not pretrained
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    identity = build_encoder(EncoderConfig(encoder="test_resnet", encoder_weights="none")).identity
    assert build_encoder(EncoderConfig(encoder="test_resnet"), identity=identity).grid == (5, 5)


# Real weights, where they are at hand.


@pytest.mark.parametrize(
    ("name", "options", "grid", "width", "mean"),
    [
        ("tf_efficientnet_lite0", {"image_size": 256}, (8, 8), 1280, 127 / 255),
        ("inception_v3", {"layer": "Mixed_7a", "tf_average_pooling": True}, (8, 8), 1280, 0.5),
        ("deit_tiny_patch16_224", {}, (14, 14), 192, 0.485),
    ],
)
def test_real_weights_load_with_the_files_own_preprocessing(
    name: str, options: dict[str, Any], grid: tuple[int, int], width: int, mean: float
) -> None:
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip("the shared weights are not here")
    encoder = from_file(name, path, **options)
    assert (encoder.grid, encoder.feature_size) == (grid, width)
    assert encoder.preprocessing.mean[0] == pytest.approx(mean, abs=1e-9)
    assert encoder.preprocessing.interpolation == "bilinear"
    assert bool(torch.isfinite(encoded(encoder, pixels(1, encoder.preprocessing.size))).all())
