"""Image encoders: timm networks up to any of their layers, and a small network to train from scratch."""

import difflib
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seesay.config import EncoderConfig
from seesay.errors import EncoderError
from seesay.images.loading import Preprocessing, normalise
from seesay.models.calibration import calibrate
from seesay.models.grids import pooling_matrix
from seesay.models.networks import timm_network, weights_digest
from seesay.models.onnx_encoder import EncoderParts, OnnxEncoder
from seesay.models.products import Prepackable

log = logging.getLogger("seesay")

SMALL_CNN = "small-cnn"
_SMALL_CNN_SIZE = 96


class Encoder(Prepackable):
    """An image network up to one of its layers, which maps images to the features of their regions.

    With fixed weights it runs in ONNX Runtime on a CPU, unless gradients or another precision are required.

    Attributes:
        preprocessing: preprocessing of the images, shared by training, extraction and inference.
        grid: (rows, columns) of the regions; (1, 1) if they are pooled.
        feature_size: width F of a region.
        identity: everything that determines the features: name, weights digest, layer, pooling, preprocessing.
        runs_through: compute the layers above the selected one too. Needed to trace a graph: tracing cannot follow the
            exception that ends the forward pass early, and removes unused layers itself.
    """

    _pooling: Tensor | None

    def __init__(self, config: EncoderConfig, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        # Convolutions on CPUs and tensor cores are fastest with channels last: twice the speed on two cores.
        self.network = network.to(memory_format=torch.channels_last)
        self.preprocessing = preprocessing
        self.config = config
        layer = _find_layer(network, config)
        if layer is not None:
            layer.register_forward_hook(self._layer_reached)
        self.runs_through = False
        self._onnx = OnnxEncoder()
        self._reached: list[Tensor] = []
        self._prefix_tokens = int(getattr(network, "num_prefix_tokens", 0))
        if config.tf_average_pooling:
            _exclude_padding_from_average_pools(network)
        self.train(False)
        grid, self.feature_size = self._measure()
        self.grid = self._pooled(grid)
        self.register_buffer(
            "_pooling", pooling_matrix(grid, config.grid_size) if config.grid_size else None, persistent=False
        )
        self.identity = {
            "encoder": config.encoder,
            "weights": config.encoder_weights if config.encoder_weights in ("pretrained", "none") else "file",
            "digest": weights_digest(network),
            "layer": config.layer,
            "pool": config.pool,
            "tf_average_pooling": config.tf_average_pooling,
            "preprocessing": preprocessing.to_dict(),
            **({"grid_size": config.grid_size} if config.grid_size else {}),
        }

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features (B, N, F), N = 1 where pooled, of uint8 pixels (B, height, width, 3)."""
        parts = EncoderParts(self.network, self.encode_in_torch, self.identity)
        features = self._onnx(pixels, parts) if self._takes_onnx(pixels) else None
        return self.encode_in_torch(pixels) if features is None else features

    def encode_in_torch(self, pixels: Tensor) -> Tensor:
        """Return the features of `forward`, computed by torch."""
        images = normalise(pixels, self.preprocessing).contiguous(memory_format=torch.channels_last)
        features = self._regions(self._run(images))
        if self._pooling is not None:
            features = self._pooling.to(features.dtype) @ features
        return features.mean(1, keepdim=True) if self.config.pool == "pooled" else features

    def _takes_onnx(self, pixels: Tensor) -> bool:
        """Return whether ONNX Runtime can be used: float32 features on a CPU, without gradients."""
        if not self.fixed or self.runs_through or pixels.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        if torch.is_autocast_enabled("cpu") or pixels.shape[1:3] != (self.preprocessing.size,) * 2:
            return False
        return not (torch.is_grad_enabled() and any(each.requires_grad for each in self.parameters()))

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but keep batch norms of pretrained weights in evaluation mode.

        Their stored statistics are more accurate than those of one small batch, which would also destroy folded ones
        (mean 0, variance 1). A network that is trained from scratch collects its own statistics.
        """
        super().train(mode and self.config.encoder_training == "full")
        if self.config.encoder_weights == "none" and self.config.encoder_training == "full":
            return self
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def unpack(self) -> None:
        """Close the ONNX Runtime session, because the weights may change from now on."""
        super().unpack()
        self._onnx.close()

    def _regions(self, output: Tensor) -> Tensor:
        """Return an output of the network or of its layer, in any layout, as (B, N, F) without prefix tokens."""
        if not isinstance(output, Tensor):
            where = (
                f"layer {self.config.layer!r} of {self.config.encoder}" if self.config.layer else self.config.encoder
            )
            raise EncoderError(f"{where} returns {type(output).__name__}, not one tensor; choose another layer")
        if output.ndim == 3:  # tokens of a transformer; prefix tokens are no regions
            first = self._prefix_tokens if _is_square(output.shape[1] - self._prefix_tokens) else 0
            return output[:, first:]
        if output.ndim == 4:
            return output.flatten(1, 2) if self._has_channels_last(output) else output.flatten(2).transpose(1, 2)
        if output.ndim == 2:
            return output[:, None]
        raise EncoderError(f"layer {self.config.layer!r} of {self.config.encoder} has a {output.ndim}-d output")

    def _has_channels_last(self, output: Tensor) -> bool:
        """Return whether a map is (B, rows, columns, F); images are square, so that rows equal columns."""
        _, first, second, third = output.shape
        if (first == second) != (second == third):
            return first == second
        return getattr(self.network, "output_fmt", "NCHW") == "NHWC"

    def _run(self, images: Tensor) -> Tensor:
        """Return the output of the selected layer for normalised images (B, 3, height, width)."""
        try:
            output = cast("Any", self.network).forward_features(images)
        except _LayerReached as reached:
            return reached.output
        if self._reached:
            return self._reached.pop()
        if self.config.layer:
            raise EncoderError(f"layer {self.config.layer!r} of {self.config.encoder} is not used by its forward pass")
        return cast("Tensor", output)

    def _pooled(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the grid after average pooling to `grid_size`.

        Raises:
            EncoderError: it has fewer rows or columns, or features are pooled to one region.
        """
        size = self.config.grid_size
        if size and self.config.pool == "pooled":
            raise EncoderError(
                f"grid_size is {size}, but pool is pooled, which averages the whole grid; drop one of them"
            )
        if size > min(grid):
            raise EncoderError(
                f"grid_size is {size}, but the grid of {self.config.encoder} at {self.preprocessing.size} px has "
                f"{grid[0]} x {grid[1]} regions; lower it or raise --image-size"
            )
        return (size, size) if size else grid

    def _layer_reached(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        """Forward hook of the selected layer: ends the forward pass, as the layers above it are not needed."""
        if not self.runs_through:
            raise _LayerReached(output)
        self._reached[:] = [output]

    @torch.no_grad()
    def _measure(self) -> tuple[tuple[int, int], int]:
        """Return the grid and the feature size, from the output for a black image."""
        size = self.preprocessing.size
        try:
            output = self._run(torch.zeros(1, 3, size, size))
        except (RuntimeError, AssertionError) as error:  # raised by torch and timm for unsuitable sizes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise EncoderError(f"{self.config.encoder} cannot encode images of {size} x {size}: {reason}") from error
        regions = self._regions(output)
        if self.config.pool == "pooled" or regions.shape[1] == 1:
            return (1, 1), regions.shape[2]
        if output.ndim == 4:
            rows, columns = output.shape[1:3] if self._has_channels_last(output) else output.shape[2:]
            return (int(rows), int(columns)), regions.shape[2]
        if not _is_square(regions.shape[1]):
            raise EncoderError(f"{self.config.encoder} has {regions.shape[1]} regions, which form no square grid")
        side = math.isqrt(regions.shape[1])
        return (side, side), regions.shape[2]


class _LayerReached(Exception):  # noqa: N818 - a signal, not an error
    """Ends a forward pass when the selected layer has been computed, and holds its output."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


class SmallCNN(nn.Module):
    """Four convolutions with a total stride of 8, small enough to train on a few thousand images on a laptop.

    The coordinates of each region are concatenated to the input of the last one (Liu et al. 2018, "An intriguing
    failing of convolutional neural networks and the CoordConv solution"): without them, so few layers cannot encode the
    positions that captions mention.

    Args:
        width: channels of the first convolution.
        feature_size: channels F of the last convolution.
    """

    def __init__(self, width: int = 32, feature_size: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(3, width, 5, 2),
            *_convolution(width, 2 * width, 3, 2),
            *_convolution(2 * width, 3 * width, 3, 2),
        )
        self.last = nn.Sequential(*_convolution(3 * width + 2, feature_size, 3, 1))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the features (B, F, rows, columns) of images (B, 3, height, width)."""
        maps = self.layers(images)
        batch, _, rows, columns = maps.shape
        down = torch.linspace(-1, 1, rows, device=maps.device, dtype=maps.dtype)
        along = torch.linspace(-1, 1, columns, device=maps.device, dtype=maps.dtype)
        places = torch.stack(torch.meshgrid(down, along, indexing="ij")).expand(batch, -1, -1, -1)
        return cast("Tensor", self.last(torch.cat([maps, places], dim=1)))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def build_encoder(config: EncoderConfig, identity: Mapping[str, Any] | None = None) -> Encoder:
    """Return the encoder of a configuration with its weights, in evaluation mode.

    Args:
        config: name, weights, layer, pooling and preprocessing.
        identity: `Encoder.identity` of a run that contains the weights itself. The encoder is built without weights;
            identity and preprocessing are taken from here, because the configuration lacks the settings that came from
            the file of the weights.

    Raises:
        EncoderError: an unknown network or layer, weights that are missing or do not fit, or an unsuitable size.
    """
    if identity is not None:
        stored = Preprocessing.from_dict(identity["preprocessing"])
        untrained, _ = _network(config.replace(encoder_weights="none", image_size=stored.size))
        encoder = Encoder(config, untrained, stored)
        encoder.identity = dict(identity)
        return encoder
    network, defaults = _network(config)
    preprocessing = Preprocessing(
        size=config.image_size or defaults.size,
        resize=config.resize,
        mean=config.mean or defaults.mean,
        std=config.std or defaults.std,
        interpolation=defaults.interpolation,
    )
    encoder = Encoder(config, network, preprocessing)
    if config.encoder_weights == "none" and config.encoder_training != "full":
        # After the digest was computed, so that it depends on the seed only, not on the rounding of statistics.
        calibrate(network, encoder._run, preprocessing.size)
        encoder.identity["weights"] = "random"
        log.warning(
            "the weights of %s are random (--encoder-weights none): its features carry little information and captions "
            "will be poor; pass --encoder-weights FILE.safetensors, or pretrained",
            config.encoder,
        )
    return encoder


def _network(config: EncoderConfig) -> tuple[nn.Module, Preprocessing]:
    if config.encoder == SMALL_CNN:
        if config.encoder_weights not in ("pretrained", "none"):
            raise EncoderError(f"{SMALL_CNN} is trained from scratch; it cannot load {config.encoder_weights}")
        return SmallCNN(), Preprocessing(_SMALL_CNN_SIZE, config.resize, (0.5,) * 3, (0.5,) * 3)
    return timm_network(config)


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _find_layer(network: nn.Module, config: EncoderConfig) -> nn.Module | None:
    if not config.layer:
        return None
    modules: dict[str, nn.Module] = {name: module for name, module in network.named_modules() if name}
    if config.layer in modules:
        return modules[config.layer]
    near = difflib.get_close_matches(config.layer, list(modules), n=3)
    known = near or [name for name, _ in network.named_children()]
    raise EncoderError(f"{config.encoder} has no layer {config.layer!r}; it has {', '.join(known)}")


def _exclude_padding_from_average_pools(network: nn.Module) -> None:
    """Exclude padding from the means of average pooling, as TensorFlow does.

    timm's Inception calls the pooling function before its `branch_pool`, with padding included: there the input of
    `branch_pool` is divided by the fraction of pixels that are not padding, which is equivalent.
    """
    for name, module in _average_pools(network):
        if isinstance(module, nn.AvgPool2d):
            module.count_include_pad = False
        elif name.endswith("branch_pool"):
            module.register_forward_pre_hook(_divide_by_unpadded_fraction)


def _average_pools(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.AvgPool2d) or name.endswith("branch_pool"):
            yield name, module


def _divide_by_unpadded_fraction(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    pooled = inputs[0]
    return pooled / F.avg_pool2d(torch.ones_like(pooled[:1, :1]), 3, 1, 1)
