"""Image encoders: any timm network up to any of its layers, or a small one of our own to train from nothing."""

import ast
import contextlib
import difflib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seesay.config import EncoderConfig
from seesay.errors import EncoderError
from seesay.images import Preprocessing, normalise

SMALL_CNN = "small-cnn"
_SMALL_CNN_SIZE = 96


class Encoder(nn.Module):
    """An image network cut at one layer, giving a row of features a region.

    Attributes:
        preprocessing: what the network wants to be shown; training, extraction and use all take it from here.
        grid: (rows, columns) of the regions, (1, 1) where they are pooled.
        feature_size: width F of a region.
        identity: everything that decides the features: name, weights digest, layer, pooling, preprocessing.
    """

    def __init__(self, config: EncoderConfig, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        # Channels last is the layout CPU and tensor-core convolutions want: twice the speed on two cores.
        self.network = network.to(memory_format=torch.channels_last)
        self.preprocessing = preprocessing
        self.config = config
        self._layer = _find_layer(network, config)
        self._prefix_tokens = int(getattr(network, "num_prefix_tokens", 0))
        if config.tf_average_pooling:
            _leave_padding_out_of_average_pools(network)
        self.train(False)
        self.grid, self.feature_size = self._measure()
        self.identity = {
            "encoder": config.encoder,
            "weights": config.encoder_weights if config.encoder_weights in ("pretrained", "none") else "file",
            "digest": weights_digest(network),
            "layer": config.layer,
            "pool": config.pool,
            "tf_average_pooling": config.tf_average_pooling,
            "preprocessing": preprocessing.to_dict(),
        }

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns features (B, N, F), N = 1 where pooled, from uint8 pixels (B, height, width, 3)."""
        images = normalise(pixels, self.preprocessing).contiguous(memory_format=torch.channels_last)
        features = self._regions(images)
        return features.mean(1, keepdim=True) if self.config.pool == "pooled" else features

    def train(self, mode: bool = True) -> "Encoder":
        """Sets training mode, but keeps batch norms on their stored statistics.

        Pretrained statistics are worth more than those of one small batch; folded ones (mean 0, variance 1)
        would be destroyed by it.
        """
        super().train(mode)
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def _regions(self, images: Tensor) -> Tensor:
        """Returns (B, N, F) of normalised images (B, 3, height, width)."""
        output = self._run(images)
        if output.ndim == 3:  # tokens of a transformer; the first ones stand for no region
            return output[:, self._prefix_tokens :]
        if output.ndim == 4 and getattr(self.network, "output_fmt", "NCHW") == "NHWC":
            return output.flatten(1, 2)
        if output.ndim == 4:
            return output.flatten(2).transpose(1, 2)
        if output.ndim == 2:
            return output[:, None]
        raise EncoderError(f"layer {self.config.layer!r} of {self.config.encoder} gives a {output.ndim}-d output")

    def _run(self, images: Tensor) -> Tensor:
        if self._layer is None:
            return cast("Tensor", cast("Any", self.network).forward_features(images))
        caught: list[Tensor] = []

        def stop(module: nn.Module, inputs: object, output: Tensor) -> None:
            caught.append(output)
            raise _LayerReached  # the layers above would be computed for nothing

        handle = self._layer.register_forward_hook(stop)
        with contextlib.suppress(_LayerReached):
            cast("Any", self.network).forward_features(images)
        handle.remove()
        if not caught:
            raise EncoderError(f"layer {self.config.layer!r} of {self.config.encoder} is not used by its forward pass")
        return caught[0]

    @torch.no_grad()
    def _measure(self) -> tuple[tuple[int, int], int]:
        size = self.preprocessing.size
        output = self._run(torch.zeros(1, 3, size, size))
        regions = self._regions(torch.zeros(1, 3, size, size))
        if self.config.pool == "pooled" or regions.shape[1] == 1:
            return (1, 1), regions.shape[2]
        if output.ndim == 4:
            nhwc = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
            rows, columns = output.shape[1:3] if nhwc else output.shape[2:]
            return (int(rows), int(columns)), regions.shape[2]
        side = round(regions.shape[1] ** 0.5)
        if side * side != regions.shape[1]:
            raise EncoderError(f"{self.config.encoder} gives {regions.shape[1]} regions, which form no square grid")
        return (side, side), regions.shape[2]


class _LayerReached(Exception):  # noqa: N818 - a signal, not an error
    """Ends a forward pass whose wanted layer has been computed."""


class SmallCNN(nn.Module):
    """Five convolutions to a stride of 8, small enough to learn from a few thousand pictures on a laptop.

    Args:
        width: channels of the first convolution.
        feature_size: channels of the last, F.
    """

    def __init__(self, width: int = 24, feature_size: int = 128) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 4 * width, feature_size)
        strides = (2, 2, 2, 1, 1)
        layers: list[nn.Module] = []
        for inputs, outputs, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.GroupNorm(8, outputs),  # no batch statistics: one picture alone gives what it gives in a batch
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers)

    def forward_features(self, images: Tensor) -> Tensor:
        """Returns the map (B, F, rows, columns) of images (B, 3, height, width)."""
        return cast("Tensor", self.layers(images))


def build_encoder(config: EncoderConfig, load_weights: bool = True) -> Encoder:
    """Returns the encoder a configuration names, its weights loaded, in evaluation mode.

    Args:
        config: name, weights, layer, pooling and preprocessing.
        load_weights: False builds the shell only, for a run that brings the weights itself.

    Raises:
        EncoderError: an unknown network or layer, or weights that are missing or do not fit.
    """
    if config.encoder == SMALL_CNN:
        size = config.image_size or _SMALL_CNN_SIZE
        defaults = Preprocessing(size, config.resize, (0.5,) * 3, (0.5,) * 3)
        return Encoder(config, SmallCNN(), _preprocessing(config, defaults))
    network, defaults = _timm_network(config, load_weights)
    return Encoder(config, network, _preprocessing(config, defaults))


def weights_digest(network: nn.Module) -> str:
    """Returns the SHA-256 (first 16 hex digits) over a network's weights, names and order included."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _timm_network(config: EncoderConfig, load_weights: bool) -> tuple[nn.Module, Preprocessing]:
    import timm

    if not timm.is_model(config.encoder):
        base = config.encoder.split(".")[0]
        near = difflib.get_close_matches(base, timm.list_models(), n=3) or ["inception_v3", "resnet50"]
        raise EncoderError(f"timm knows no network {config.encoder!r}; near are {', '.join(near)}")
    options: dict[str, Any] = {}
    shipped = timm.get_pretrained_cfg(config.encoder)
    if config.image_size and shipped is not None and shipped.fixed_input_size:
        options["img_size"] = config.image_size  # position embeddings are made for one size
    hub = load_weights and config.encoder_weights == "pretrained"
    try:
        network: nn.Module = timm.create_model(config.encoder, pretrained=hub, num_classes=0, **options)
    except Exception as error:
        if not hub:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EncoderError(
            f"the weights of {config.encoder} could not be fetched from the hub ({reason}); "
            "pass --encoder-weights FILE.safetensors, or none"
        ) from error
    given = cast("Any", network).pretrained_cfg
    metadata: Mapping[str, Any] = dict(given)
    if load_weights and config.encoder_weights not in ("pretrained", "none"):
        metadata = {**given, **_load_file(network, Path(config.encoder_weights), str(given["classifier"]))}
    return network, Preprocessing(
        size=int(metadata["input_size"][-1]),
        resize=config.resize,
        mean=tuple(metadata["mean"]),
        std=tuple(metadata["std"]),
        interpolation=_interpolation(str(metadata["interpolation"])),
    )


def _load_file(network: nn.Module, path: Path, classifier: str) -> dict[str, Any]:
    """Loads a safetensors state dict strictly, the classifier aside; returns its preprocessing metadata."""
    try:
        weights = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise EncoderError(f"no encoder weights at {path}") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise EncoderError(f"{path} is not a whole safetensors file: {error}") from error
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(f"{classifier}.")}
    missing, unexpected = _load_resized(network, weights)
    if missing or unexpected:
        raise EncoderError(
            f"{path} does not fit {type(network).__name__}: {len(missing)} tensors missing"
            f"{_first(missing)}, {len(unexpected)} not wanted{_first(unexpected)}"
        )
    read = {key: ast.literal_eval(metadata[key]) for key in ("mean", "std", "input_size") if key in metadata}
    if "interpolation" in metadata:
        read["interpolation"] = metadata["interpolation"]
    return read


def _load_resized(network: nn.Module, weights: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Loads `weights`, resampling position embeddings to the input size; returns missing and unfit names."""
    from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]

    own = network.state_dict()
    key = "pos_embed"
    if key in weights and key in own and weights[key].shape != own[key].shape:
        prefix = int(getattr(network, "num_prefix_tokens", 1))
        side = round((own[key].shape[1] - prefix) ** 0.5)
        weights[key] = resample_abs_pos_embed(weights[key].float(), [side, side], num_prefix_tokens=prefix)
    wrong = [name for name in weights if name in own and own[name].shape != weights[name].shape]
    if wrong:
        return [], wrong
    result = network.load_state_dict(weights, strict=False)
    return list(result.missing_keys), list(result.unexpected_keys)


def _first(names: list[str]) -> str:
    return f" (such as {names[0]})" if names else ""


def _preprocessing(config: EncoderConfig, defaults: Preprocessing) -> Preprocessing:
    return Preprocessing(
        size=config.image_size or defaults.size,
        resize=config.resize,
        mean=config.mean or defaults.mean,
        std=config.std or defaults.std,
        interpolation=defaults.interpolation,
    )


def _interpolation(name: str) -> Literal["bilinear", "bicubic"]:
    return "bicubic" if name.startswith("bicubic") else "bilinear"


def _find_layer(network: nn.Module, config: EncoderConfig) -> nn.Module | None:
    if not config.layer:
        return None
    modules: dict[str, nn.Module] = {name: module for name, module in network.named_modules() if name}
    if config.layer in modules:
        return modules[config.layer]
    near = difflib.get_close_matches(config.layer, list(modules), n=3)
    known = near or [name for name, _ in network.named_children()]
    raise EncoderError(f"{config.encoder} has no layer {config.layer!r}; it has {', '.join(known)}")


def _leave_padding_out_of_average_pools(network: nn.Module) -> None:
    """Makes average pools divide by the pixels that are there, as TensorFlow does.

    timm's Inception calls the pool as a function ahead of its `branch_pool`, with the padding counted: there
    the input is divided by the share of real pixels, which is the same thing.
    """
    for name, module in _average_pools(network):
        if isinstance(module, nn.AvgPool2d):
            module.count_include_pad = False
        elif name.endswith("branch_pool"):
            module.register_forward_pre_hook(_divide_by_real_share)


def _average_pools(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.AvgPool2d) or name.endswith("branch_pool"):
            yield name, module


def _divide_by_real_share(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    pooled = inputs[0]
    return pooled / F.avg_pool2d(torch.ones_like(pooled[:1, :1]), 3, 1, 1)
