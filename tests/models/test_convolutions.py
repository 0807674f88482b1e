"""Convolutions that do what follows them too, against torch's own layers one after the other."""

import copy
import math
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import timm
import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from seesay.config import EncoderConfig
from seesay.models import convolutions, encoders
from seesay.models.convolutions import fuse_convolutions
from seesay.models.encoders import Encoder, build_encoder
from seesay.models.products import library_has, prepack_weights

needs_library = pytest.mark.skipif(not library_has(*convolutions._OPERATIONS), reason="torch lacks its library here")
pytestmark = needs_library


def noise(*size: int) -> Tensor:
    images = torch.randn(*size, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=torch.channels_last)


def is_done(network: nn.Module, images: Tensor, run: Callable[[Tensor], object] | None = None) -> nn.Module:
    """A network whose normalisations know what comes through them, in evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        network.train()
        (run or network)(images)
    return network.eval().to(memory_format=torch.channels_last)


def fused(network: nn.Module, size: int, channels: int = 3, forward: str = "forward") -> fx.GraphModule:
    found = fuse_convolutions(network, forward, noise(1, channels, size, size))
    assert found is not None
    return found


def count(network: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(module, kinds) for module in network.modules())


@torch.no_grad()
def assert_same(found: nn.Module, network: nn.Module, images: Tensor) -> None:
    wanted = cast("Tensor", network(images))
    torch.testing.assert_close(found(images), wanted, rtol=0, atol=3e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("tf_efficientnet_lite0", 0),  # pads as TensorFlow does
        ("resnet18", 0),  # normalisation and activation are layers of their own
        ("mobilenetv3_small_050", 0),  # squeezes, hard activations
        ("efficientnet_b0", 0),
        ("convnext_atto", 0),
        ("densenet121", 62),  # normalises before it convolves; that stays as it is
        ("repvgg_a0", 17),  # normalises its input as well
    ],
)
def test_networks_of_timm_give_the_same_and_no_normalisation_is_left(name: str, left: int) -> None:
    torch.manual_seed(0)
    network = is_done(timm.create_model(name, pretrained=False, num_classes=0), noise(16, 3, 64, 64))
    found = fused(network, 64, forward="forward_features")
    assert count(found, nn.BatchNorm2d) == left
    assert count(found, nn.Conv2d) == 0
    images = noise(5, 3, 64, 64)
    with torch.no_grad():
        wanted = cast("Any", network).forward_features(images)
        torch.testing.assert_close(found(images), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_050"])
def test_a_image_gives_the_same_to_the_last_bit_alone_and_in_company(name: str) -> None:
    torch.manual_seed(0)
    network = is_done(timm.create_model(name, pretrained=False, num_classes=0), noise(16, 3, 96, 96))
    found, images = fused(network, 96, forward="forward_features"), noise(11, 3, 96, 96)
    with torch.no_grad():
        alone = torch.cat([found(image[None]) for image in images])
        for together in (2, 3, 8, 11):
            assert torch.equal(torch.cat([found(part) for part in torch.split(images, together)]), alone)


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.ReLU6(),
        nn.Hardtanh(-0.3, 0.4),
        nn.LeakyReLU(0.2),
        nn.SiLU(),
        nn.Hardswish(),
        nn.Sigmoid(),
        nn.Hardsigmoid(),
        nn.Tanh(),
        nn.GELU(),
        nn.GELU("tanh"),
        nn.Identity(),
    ],
    ids=str,
)
@pytest.mark.parametrize("norm", [True, False])
def test_each_activation_is_torchs(activation: nn.Module, norm: bool) -> None:
    torch.manual_seed(0)
    between = [nn.BatchNorm2d(8)] if norm else []
    network = is_done(nn.Sequential(nn.Conv2d(3, 8, 3), *between, activation), noise(8, 3, 12, 12))
    found = fused(network, 12)
    assert [type(module) for module in found.children()] == [convolutions._Convolution]
    assert_same(found, network, noise(4, 3, 12, 12))


def test_an_activation_that_the_library_lacks_stays_a_layer_of_its_own() -> None:
    torch.manual_seed(0)
    network = is_done(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ELU()), noise(8, 3, 12, 12))
    found = fused(network, 12)
    assert {type(module) for module in found.children()} == {convolutions._Convolution, nn.ELU}
    assert_same(found, network, noise(4, 3, 12, 12))


def test_a_normalisation_with_an_activation_that_the_library_lacks_stays_too() -> None:
    torch.manual_seed(0)
    norm = timm.layers.BatchNormAct2d(8, act_layer=nn.ELU)  # type: ignore[attr-defined]
    network = is_done(nn.Sequential(nn.Conv2d(3, 8, 3), norm), noise(8, 3, 12, 12))
    found = fused(network, 12)
    assert count(found, nn.BatchNorm2d) == 1
    assert_same(found, network, noise(4, 3, 12, 12))


def test_only_one_of_two_activations_is_done_by_the_convolution() -> None:
    torch.manual_seed(0)
    norm = timm.layers.BatchNormAct2d(8, act_layer=nn.SiLU)  # type: ignore[attr-defined]
    network = is_done(nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.Sigmoid()), noise(8, 3, 12, 12))
    found = fused(network, 12)
    assert {type(module) for module in found.children()} == {convolutions._Convolution, nn.Sigmoid}
    assert_same(found, network, noise(4, 3, 12, 12))


@pytest.mark.parametrize("size", [15, 16, 17])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 1), (2, 1, 4), (3, 1, 1), (2, 2, 1)])
def test_tensorflows_padding(size: int, kernel: int, stride: int, dilation: int, groups: int) -> None:
    torch.manual_seed(0)
    kind = cast("Any", timm.layers).Conv2dSame
    first = kind(4, 8, (kernel, 3), stride=stride, dilation=dilation, groups=groups)
    network = is_done(nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU()), noise(8, 4, size, size))
    assert_same(fused(network, size, channels=4), network, noise(3, 4, size, size))


@pytest.mark.parametrize("padding", ["valid", "same", 2, (1, 0)])
def test_torchs_padding(padding: Any) -> None:
    torch.manual_seed(0)
    network = is_done(nn.Sequential(nn.Conv2d(3, 8, (5, 3), padding=padding), nn.ReLU()), noise(8, 3, 12, 12))
    assert_same(fused(network, 12), network, noise(3, 3, 12, 12))


def test_padding_that_is_no_zeros_stays_torchs() -> None:
    torch.manual_seed(0)
    network = is_done(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")), noise(8, 3, 12, 12))
    found = fused(network, 12)
    assert count(found, nn.Conv2d) == 1
    assert_same(found, network, noise(3, 3, 12, 12))


class Branches(nn.Module):
    """A convolution that two look at, one that is used twice, and one whose normalisation has no statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.twice, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.last, self.free = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8, affine=False)

    def forward(self, images: Tensor) -> Tensor:
        first = self.first(images)
        second = self.act(self.twice(self.norm(first)))
        third = self.act(self.twice(F.avg_pool2d(second, 2)))
        return cast("Tensor", F.interpolate(self.free(self.last(third)), scale_factor=2.0) + first + second)


def test_what_others_look_at_is_left_for_them() -> None:
    torch.manual_seed(0)
    network = is_done(Branches(), noise(8, 3, 12, 12))
    found = fused(network, 12)
    assert count(found, nn.Conv2d) == 1  # the one that is given maps of two sizes
    assert count(found, nn.BatchNorm2d) == 1  # the one before which somebody looks
    assert_same(found, network, noise(3, 3, 12, 12))


class Deciding(nn.Module):
    """A network whose way depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return cast("Tensor", self.layer(images if images.mean() > 0 else -images))


def test_a_network_that_cannot_be_followed_is_left_alone() -> None:
    network = Deciding().eval()
    assert fuse_convolutions(network, "forward", noise(1, 3, 12, 12)) is None
    assert "forward" not in network.layer.__dict__
    assert network(noise(2, 3, 12, 12)).shape == (2, 4, 10, 10)


class Changing(nn.Module):
    """A network that gives something else each time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Conv2d(3, 4, 3), 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return cast("Tensor", self.layer(images) * self.calls)


def test_a_form_that_gives_something_else_is_not_taken() -> None:
    assert fuse_convolutions(Changing().eval(), "forward", noise(1, 3, 12, 12)) is None


def test_without_torchs_library_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert fuse_convolutions(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), "forward", noise(1, 3, 12, 12)) is None


def test_networks_of_other_threads_are_not_disturbed() -> None:
    """Torch's own tracer takes the calls of all modules for the traced one's."""
    other, done, failures = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), threading.Event(), []

    def work() -> None:
        while not done.is_set():
            found = other(torch.ones(1, 3, 8, 8))
            if not isinstance(found, Tensor):
                failures.append(found)

    thread = threading.Thread(target=work)
    thread.start()
    network = is_done(timm.create_model("resnet18", pretrained=False, num_classes=0), noise(2, 3, 32, 32))
    for _ in range(3):
        fused(network, 32, forward="forward_features")
    done.set()
    thread.join()
    assert not failures


class TestEncoder:
    @staticmethod
    def build(**options: Any) -> Encoder:
        torch.manual_seed(0)
        config = EncoderConfig(encoder="mobilenetv3_small_050", encoder_weights="none", image_size=64, **options)
        encoder = build_encoder(config)
        is_done(encoder.network, noise(16, 3, 64, 64), encoder._run)
        return encoder

    @staticmethod
    def pixels(count: int = 3, size: int = 64) -> Tensor:
        return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)

    @staticmethod
    def fused_calls(encoder: Encoder, work: Callable[[], object]) -> int:
        calls = 0

        def note(*_: object) -> None:
            nonlocal calls
            calls += 1

        with encoders._fused[encoder].register_forward_hook(note):
            work()
        return calls

    @pytest.mark.parametrize("layer", ["", "blocks.2", "blocks.2.0.bn1"])
    @pytest.mark.parametrize("pool", ["grid", "pooled"])
    def test_gives_the_same_once_its_weights_are_fixed(self, layer: str, pool: Any) -> None:
        encoder, pixels = self.build(layer=layer, pool=pool), self.pixels()
        with torch.inference_mode():
            before = encoder(pixels)
            prepack_weights(encoder)
            assert self.fused_calls(encoder, lambda: encoder(pixels)) == 1
            torch.testing.assert_close(encoder(pixels), before, rtol=0, atol=1e-4 * float(before.abs().max()))

    def test_inception_leaves_the_padding_out_of_its_pools_there_too(self) -> None:
        config = EncoderConfig(
            encoder="inception_v3", encoder_weights="none", image_size=107, layer="Mixed_5c", tf_average_pooling=True
        )
        encoder = build_encoder(config)
        is_done(encoder.network, noise(4, 3, 107, 107), encoder._run)
        pixels = self.pixels(size=107)
        with torch.inference_mode():
            before = encoder(pixels)
            prepack_weights(encoder)
            assert self.fused_calls(encoder, lambda: encoder(pixels)) == 1
            torch.testing.assert_close(encoder(pixels), before, rtol=0, atol=1e-4 * float(before.abs().max()))

    def test_where_a_gradient_is_asked_for_it_is_as_it_was(self) -> None:
        encoder = self.build()
        prepack_weights(encoder)
        pixels = self.pixels()
        assert self.fused_calls(encoder, lambda: encoder(pixels)) == 0
        assert encoder(pixels).requires_grad

    def test_in_half_precision_it_is_as_it_was(self) -> None:
        encoder, pixels = self.build(), self.pixels()
        prepack_weights(encoder)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert self.fused_calls(encoder, lambda: encoder(pixels)) == 0

    def test_images_of_another_size_take_the_networks_own_way(self) -> None:
        encoder = self.build()
        prepack_weights(encoder)
        with torch.no_grad():
            assert self.fused_calls(encoder, lambda: encoder(self.pixels(size=96))) == 0

    def test_weights_that_are_trained_are_no_longer_fixed(self) -> None:
        encoder, pixels = self.build(encoder_training="full"), self.pixels()
        prepack_weights(encoder)
        encoder.train()
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.mul_(1.5)
            encoder.eval()
            wanted = encoder._run_plainly(noise(2, 3, 64, 64))
            assert torch.equal(encoder._run(noise(2, 3, 64, 64)), wanted)
            prepack_weights(encoder)
            assert self.fused_calls(encoder, lambda: encoder(pixels)) == 1
            found = encoder._run(noise(2, 3, 64, 64))
        assert math.isclose(float((found - wanted).abs().max() / wanted.abs().max()), 0, abs_tol=1e-4)

    def test_is_copied_and_saved_without_it(self) -> None:
        encoder = self.build()
        names = set(encoder.state_dict())
        prepack_weights(encoder)
        assert set(encoder.state_dict()) == names
        twin = copy.deepcopy(encoder)
        assert twin not in encoders._fused
        with torch.no_grad():
            assert torch.equal(twin._run(noise(2, 3, 64, 64)), twin._run_plainly(noise(2, 3, 64, 64)))

    def test_goes_with_the_encoder(self) -> None:
        encoder = self.build()
        prepack_weights(encoder)
        before = len(encoders._fused)
        del encoder
        assert len(encoders._fused) == before - 1
