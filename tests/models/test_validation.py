"""Contradictory settings and unknown decoders: one-line errors before data is read."""

import itertools
import typing
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from seesay.config import ModelConfig, preset_names, resolve_config
from seesay.errors import ConfigError
from seesay.models.captioning import build_model, check_model
from seesay.models.packing import pack_captions
from seesay.models.registry import decoder_builder, decoder_names, decoder_options, register_decoder
from seesay.models.validation import fields_read
from seesay.training.train import train

LUONG = {"decoder": "luong"}
TRANSFORMER = {"decoder": "transformer", "embedding_size": 512}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"decoder": "transformr"}, ("'transformr'", "did you mean 'transformer'?")),
        ({"decoder": "zzz"}, ("'zzz'", "known are attention, luong, pooled, show-attend-tell, transformer, up-down")),
        (
            {"decoder": "up-down", "num_layers": 2},
            ("model.num_layers is 2", "up-down decoder does not read", "set it to 1"),
        ),
        ({"decoder": "pooled"}, ("model.projection_size is 256", "model.hidden_size (512)")),
        ({"decoder": "transformer"}, ("model.embedding_size is 256", "model.hidden_size (512)")),
        ({**TRANSFORMER, "num_heads": 7}, ("model.num_heads is 7", "model.hidden_size (512)")),
        ({"attention_score": "multihead", "num_heads": 3}, ("model.num_heads is 3", "model.attention_size (512)")),
        ({**LUONG, "attention_score": "dot"}, ("model.attention_score=dot", "256", "512", "general")),
        (
            {**TRANSFORMER, "attention_score": "general"},
            ("model.attention_score is 'general'", "transformer decoder does not read"),
        ),
        ({**TRANSFORMER, "attention": "hard"}, ("model.attention is 'hard'", "transformer decoder does not read")),
        (
            {"attention": "hard"},
            ("model.attention is 'hard'", "the attention decoder does not read", "set it to 'soft'"),
        ),
        (
            {"decoder": "show-attend-tell", "attention": "hard", "attention_score": "multihead"},
            ("model.attention=hard", "model.attention_score=multihead cannot"),
        ),
        ({**TRANSFORMER, "doubly_stochastic": 1.0}, ("model.doubly_stochastic is 1.0", "set it to 0.0")),
        (
            {"decoder": "pooled", "projection_size": 512, "state_dropout": 0.1},
            ("model.state_dropout is 0.1", "pooled decoder"),
        ),
        (
            {"decoder": "pooled", "projection_size": 512, "attention_dropout": 0.1},
            ("model.attention_dropout is 0.1", "pooled decoder"),
        ),
        ({**LUONG, "output_size": 0}, ("model.output_size is 0", "luong")),
        ({"tie_weights": True}, ("model.tie_weights", "model.embedding_size is 256", "has 512 inputs")),
    ],
)
def test_a_contradiction_raises_a_one_line_error(settings: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_model(ModelConfig(**settings))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_share_above_one_raises() -> None:
    with pytest.raises(ConfigError, match=r"model\.hard_share is 1\.5; it must be at most 1"):
        ModelConfig(hard_share=1.5)


def test_every_preset_is_valid_and_the_check_uses_no_random_numbers() -> None:
    before = torch.get_rng_state()
    for preset in preset_names():
        check_model(resolve_config(preset).model)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_raises_before_it_reads_data(tmp_path: Path) -> None:
    config = resolve_config("transformer", overrides={"num_heads": 7})
    with pytest.raises(ConfigError, match=r"model\.num_heads is 7"):
        train(config, tmp_path / "not there", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_decoder_names_are_unique() -> None:
    assert "up-down" in decoder_names()
    with pytest.raises(ConfigError, match=r"decoder .up-down. is already registered \(seesay\."):
        register_decoder("up-down", [])(lambda config, size: torch.nn.Linear(1, 1))


def test_a_decoder_may_only_declare_fields_of_the_model_section() -> None:
    with pytest.raises(ConfigError, match="the decoder 'mine' reads 'embeding_size'; did you mean 'embedding_size'"):
        register_decoder("mine", ["embeding_size"])


class Recorder:
    """Wraps a configuration and records the fields that are read."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.seen: set[str] = set()

    def __getattr__(self, name: str) -> object:
        self.seen.add(name)
        return getattr(self.config, name)


DEMANDED = {"transformer": {"embedding_size"}}
"""Fields that a decoder does not read, but that must equal another."""


@pytest.mark.parametrize("name", decoder_names())
def test_a_decoder_declares_what_it_reads(name: str) -> None:
    """Over all scores and kinds of attention, its constructor reads all of its options and no others."""
    seen: set[str] = set()
    read = decoder_options(name)
    scores = typing.get_args(ModelConfig.model_fields["attention_score"].annotation)
    kinds: tuple[Literal["soft", "hard"], ...] = ("soft", "hard") if "attention" in read else ("soft",)
    for score, kind in itertools.product(scores if "attention_score" in read else ("additive",), kinds):
        config = ModelConfig(decoder=name, attention_score=score, attention=kind, projection_size=512)
        recorder = Recorder(config)
        with torch.device("meta"):
            decoder_builder(name)(typing.cast("ModelConfig", recorder), 7)
        seen |= recorder.seen
    shared = frozenset.intersection(*map(decoder_options, decoder_names()))
    assert seen <= read
    assert read - seen <= shared | DEMANDED.get(name, set())


def another(name: str, value: Any) -> Any:
    """Return another value of a setting."""
    kind = ModelConfig.model_fields[name].annotation
    if typing.get_origin(kind) is Literal:
        return next(choice for choice in typing.get_args(kind) if choice != value)
    others: dict[Any, Any] = {bool: not value, int: 2 * value + 2, float: 0.9 - value / 2}
    return others[kind]


@pytest.mark.parametrize("preset", preset_names())
def test_a_setting_that_is_not_read_has_no_effect(preset: str) -> None:
    """It raises, or changes neither the initial weights nor training with the same random numbers."""
    model = resolve_config(preset).model
    small: dict[str, Any] = {"projection_size": 8, "embedding_size": 8, "hidden_size": 8, "output_size": 8}
    small |= {"num_heads": 2} if "num_heads" in decoder_options(model.decoder) else {}
    model = model.replace(**{name: size for name, size in small.items() if getattr(model, name)})
    if "output_size" not in decoder_options(model.decoder):
        model = model.replace(output_size=ModelConfig.default_of("output_size"))
    captions = pack_captions(torch.tensor([[[1, 4, 5, 2]], [[1, 5, 2, 0]]]))

    def initial_and_trained(config: ModelConfig) -> list[torch.Tensor]:
        torch.manual_seed(0)
        network = build_model(config, 7, 5).train()
        found = network.forward_with_penalty(torch.ones(2, 4, 5), None, captions)
        return [*network.state_dict().values(), found.logits, torch.as_tensor(found.penalty())]

    before, read = initial_and_trained(model), decoder_options(model.decoder)
    for name in set(ModelConfig.model_fields) - fields_read(model):
        changed = model.replace(**{name: another(name, getattr(model, name))})
        if name not in read:
            with pytest.raises(ConfigError, match=rf"^model\.{name} is .* decoder does not read"):
                build_model(changed, 7, 5)
        else:
            after = initial_and_trained(changed)
            assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True)), name
