"""Settings that cannot go together, and names that are no decoder's: one line each, before any data is read."""

from pathlib import Path
from typing import Any

import pytest
import torch

from seesay.config import ModelConfig, preset_names, resolve_config
from seesay.errors import ConfigError
from seesay.models.captioning import check_model
from seesay.models.registry import decoder_names, register_decoder
from seesay.training.fit import train

LUONG = {"decoder": "luong"}
TRANSFORMER = {"decoder": "transformer", "embedding_size": 512}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"decoder": "transformr"}, ("'transformr'", "did you mean 'transformer'?")),
        ({"decoder": "zzz"}, ("'zzz'", "known are attention, luong, pooled, show-attend-tell, transformer, up-down")),
        ({"decoder": "up-down", "layers": 2}, ("model.layers is 2", "up-down", "one recurrent layer")),
        ({"decoder": "pooled"}, ("model.projection_size is 256", "model.hidden_size (512)")),
        ({"decoder": "transformer"}, ("model.embedding_size is 256", "model.hidden_size (512)")),
        ({**TRANSFORMER, "heads": 7}, ("model.heads is 7", "model.hidden_size (512)")),
        ({"attention_score": "multihead", "heads": 3}, ("model.heads is 3", "model.attention_size (512)")),
        ({**LUONG, "attention_score": "dot"}, ("model.attention_score=dot", "256", "512", "general")),
        ({**TRANSFORMER, "attention_score": "general"}, ("model.attention_score is general", "multihead")),
        ({**TRANSFORMER, "attention": "hard"}, ("model.attention=hard", "show-attend-tell", "transformer decoder")),
        ({"attention": "hard"}, ("model.attention=hard", "the attention decoder has none")),
        (
            {"decoder": "show-attend-tell", "attention": "hard", "attention_score": "multihead"},
            ("model.attention=hard", "model.attention_score=multihead cannot"),
        ),
        ({**TRANSFORMER, "doubly_stochastic": 1.0}, ("model.doubly_stochastic is 1.0", "set it to 0")),
        (
            {"decoder": "pooled", "projection_size": 512, "state_dropout": 0.1},
            ("model.state_dropout is 0.1", "pooled decoder"),
        ),
        (
            {"decoder": "pooled", "projection_size": 512, "attention_dropout": 0.1},
            ("model.attention_dropout is 0.1", "pooled decoder"),
        ),
        ({**LUONG, "output_size": 0}, ("model.output_size is 0", "luong")),
        ({"tie_weights": True}, ("model.tie_weights", "model.embedding_size is 256", "reads 512 values")),
    ],
)
def test_a_contradiction_is_refused_in_one_line(settings: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_model(ModelConfig(**settings))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.hard_share is 1\.5; it must be at most 1"):
        ModelConfig(hard_share=1.5)


def test_every_preset_is_free_of_contradictions_and_the_check_draws_nothing() -> None:
    before = torch.get_rng_state()
    for preset in preset_names():
        check_model(resolve_config(preset).model)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_refuses_before_it_reads_anything(tmp_path: Path) -> None:
    config = resolve_config("transformer", overrides={"heads": 7})
    with pytest.raises(ConfigError, match=r"model\.heads is 7"):
        train(config, tmp_path / "not there", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_two_decoders_cannot_have_one_name() -> None:
    assert "up-down" in decoder_names()
    with pytest.raises(ConfigError, match=r"a decoder 'up-down' already \(seesay\.models\.decoders\.up_down\)"):
        register_decoder("up-down")(lambda config, size: torch.nn.Linear(1, 1))
