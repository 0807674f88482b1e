"""Training modes of the network's parts during training."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from seesay.captioners.trained import TrainedCaptioner
from seesay.config import EncoderConfig, resolve_config
from seesay.data.synthetic.scenes import make_scenes
from seesay.errors import EncoderError
from seesay.models.encoders import build_encoder
from seesay.training.train import train
from tests import tiny
from tests.tiny import SIZE


def test_an_encoder_with_random_weights_uses_batch_statistics(tmp_path: Path) -> None:
    # Bug: Lightning keeps the modes of modules, so that the encoder's batch norms stayed in evaluation mode with their
    # initial statistics; the demo trained three times slower.
    make_scenes(tmp_path / "scenes", 8, 2, 2, size=48)
    config = resolve_config(
        "scenes", overrides={"image_size": 48, "epochs": 1, "batch_captions": 8, "hidden_size": 16, "log_every": 1}
    )
    train(config, tmp_path / "scenes", tmp_path / "run")
    weights = load_file(tmp_path / "run" / "model.safetensors")
    means = [tensor for name, tensor in weights.items() if name.endswith("running_mean")]
    assert len(means) == 4
    assert all(bool(mean.abs().sum() > 0) for mean in means)


@pytest.mark.parametrize(
    ("training", "weights", "expected"),
    [("full", "none", True), ("full", "file", False), ("frozen", "none", False), ("cached", "file", False)],
)
def test_batch_norm_mode_follows_what_is_trained(training: str, weights: str, expected: bool, tmp_path: Path) -> None:
    import timm

    name = "resnet10t"
    path = "none"
    if weights == "file":
        path = str(tmp_path / "weights.safetensors")
        save_file(timm.create_model(name, pretrained=False).state_dict(), path)
    config = resolve_config(
        overrides={"encoder": name, "encoder_weights": path, "encoder_training": training, "image_size": 64}
    )
    encoder = build_encoder(config.encoder).train()
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert {module.training for module in norms} == {expected}
    assert torch.is_grad_enabled()


def test_a_trained_encoder_can_be_loaded_from_its_run(tmp_path: Path) -> None:
    weights = tiny.write_encoder(tmp_path / "encoder.safetensors")
    tiny.make_colours(tmp_path / "data", train=6, val=2, test=2)
    config = tiny.cached(weights, encoder_training="full", epochs=1, image_size=SIZE)
    train(config, tmp_path / "data", tmp_path / "run")
    tuned = build_encoder(tiny.cached(tmp_path / "run").encoder.replace(image_size=0))
    captioner = TrainedCaptioner.load(tmp_path / "run", "cpu")
    assert captioner.model.encoder is not None
    pixels = torch.randint(0, 256, (2, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = tuned(pixels)
        torch.testing.assert_close(found, captioner.model.encoder(pixels))
        assert not torch.allclose(found, tiny.build(weights)(pixels), atol=1e-4), "training has changed it"
    assert tuned.preprocessing == captioner.model.encoder.preprocessing


def test_loading_the_encoder_of_a_run_without_one_raises(tmp_path: Path) -> None:
    run = tiny.random_run(tmp_path / "run", tiny.untrained(encoder="small-cnn"))
    file = run / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if not name.startswith("encoder.")}, file)
    with pytest.raises(EncoderError, match=r"contains no encoder weights.*--encoder-training full"):
        build_encoder(EncoderConfig(encoder="resnet10t", encoder_weights=str(run)))
