"""Which parts of the network are in training mode while it trains."""

from pathlib import Path

import pytest
import torch
from torch import nn

from seesay.config import resolve_config
from seesay.data.scenes import make_scenes
from seesay.models.encoders import build_encoder
from seesay.training.fit import train


def test_an_encoder_trained_from_nothing_gathers_batch_statistics(tmp_path: Path) -> None:
    # Lightning leaves modules in the mode it finds them in, so the encoder's batch norms once stayed in evaluation
    # mode, with the statistics of nothing: the demo learned three times slower.
    make_scenes(tmp_path / "scenes", 8, 2, 2, size=48)
    config = resolve_config(
        "scenes", overrides={"image_size": 48, "epochs": 1, "batch_captions": 8, "hidden_size": 16, "log_every": 1}
    )
    train(config, tmp_path / "scenes", tmp_path / "run")
    from safetensors.torch import load_file

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
    from safetensors.torch import save_file

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
