"""What a search may change: the spaces around the presets, and the files that are refused."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from seesay.config import Config, field_paths, preset_names, replace, resolve_config
from seesay.errors import ConfigError
from seesay.models.captioning import build_model
from seesay.training.tuning.space import Space, default_space, read_space, samples

CAPTIONS = 30_000
UNSEEN = {"doubly_stochastic", "log_frequency_bias", "attention_dropout"}
"""Settings of the network that do not show in its layers as torch prints them, or not in every decoder."""


@pytest.fixture
def base() -> Config:
    return resolve_config("attention-gru")


def drawn(config: Config) -> str:
    """Returns a network's layers with their sizes and dropout, as torch prints them."""
    with torch.device("meta"):
        return repr(build_model(config.model, vocabulary_size=7, feature_size=5))


@functools.cache
def space_of(preset: str) -> Space:
    return default_space(resolve_config(preset), (), CAPTIONS)


@pytest.mark.parametrize("preset", preset_names())
def test_space_of_a_preset_holds_its_own_settings_and_others_that_make_another_network(preset: str) -> None:
    space = space_of(preset)
    assert space.defaults().keys() == space.dimensions.keys()
    assert space.config(space.defaults()) == space.base == resolve_config(preset)
    assert {"learning_rate", "output_dropout", "hidden_size", "label_smoothing"} <= space.dimensions.keys()
    for name in space.dimensions.keys() - UNSEEN:
        if field_paths()[name][0] == "model":
            configs = [space.config({name: value}) for value in samples(space.dimensions[name])]
            assert len({drawn(config) for config in configs}) == len(configs), name


class TestDefaultSpace:
    def test_sizes_that_must_be_equal_go_together(self) -> None:
        for preset, follower in (("transformer", "embedding_size"), ("pooled-gru", "projection_size")):
            space = space_of(preset)
            assert follower not in space.dimensions
            for value in samples(space.dimensions["hidden_size"]):
                model = space.config({"hidden_size": value}).model
                assert getattr(model, follower) == model.hidden_size == value

    def test_what_is_fixed_stays_and_so_does_what_would_have_to_follow(self) -> None:
        base = resolve_config("transformer", overrides={"embedding_size": 256})
        space = default_space(base, {"embedding_size", "learning_rate"}, CAPTIONS)
        assert not {"embedding_size", "learning_rate", "hidden_size"} & space.dimensions.keys()

    def test_tied_weights_keep_the_sizes_that_they_tie(self) -> None:
        sizes = {"tie_weights": True, "embedding_size": 512}
        space = default_space(resolve_config("attention-gru", overrides=sizes), (), CAPTIONS)
        assert not {"embedding_size", "output_size"} & space.dimensions.keys()
        assert "hidden_size" in space.dimensions

    def test_a_start_from_another_run_keeps_its_sizes(self, base: Config) -> None:
        space = default_space(replace(base, init_from="runs/x"), (), CAPTIONS)
        assert not [name for name in space.dimensions if name.endswith("_size")]
        assert {"learning_rate", "output_dropout", "min_count"} <= space.dimensions.keys()

    @pytest.mark.parametrize(("captions", "warmups"), [(30_000, (0, 200, 600)), (4_000, (0, 200)), (100, (0, 200))])
    def test_warm_ups_fit_into_the_training(self, base: Config, captions: int, warmups: tuple[int, ...]) -> None:
        """But for the preset's own: 13 epochs of 4,000 captions, 64 a step, have 812 steps, of 100 have 20."""
        assert default_space(base, (), captions).dimensions["warmup_steps"] == CategoricalDistribution(warmups)


class TestFile:
    def read(self, base: Config, folder: Path, values: Any, fixed: tuple[str, ...] = ()) -> Space:
        (folder / "space.yaml").write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        return read_space(base, folder / "space.yaml", fixed)

    def test_choices_and_ranges_are_read(self, base: Config, tmp_path: Path) -> None:
        text = """
            training.learning_rate: {low: 1e-4, high: 0.01, log: true}
            output_dropout: {low: 0.0, high: 0.5, step: 0.2}
            min_count: {low: 1, high: 5}
            attention_score: [additive, general]
            tie_weights: [true, false]
            embedding_size: [256, 512]
            """
        with pytest.raises(ConfigError, match=r"space\.yaml: model\.tie_weights needs equal widths"):
            self.read(base, tmp_path, text)
        space = self.read(replace(base, embedding_size=512), tmp_path, text.replace("[256, 512]", "[512, 1024]"))
        assert dict(space.dimensions) == {
            "learning_rate": FloatDistribution(1e-4, 0.01, log=True),
            "output_dropout": FloatDistribution(0.0, 0.4, step=0.2),
            "min_count": IntDistribution(1, 5),
            "attention_score": CategoricalDistribution(("additive", "general")),
            "tie_weights": CategoricalDistribution((True, False)),
            "embedding_size": CategoricalDistribution((512, 1024)),
        }
        assert space.defaults().keys() == space.dimensions.keys() - {"embedding_size"} | {"embedding_size"}

    def test_values_are_such_as_people_write(self, base: Config) -> None:
        space = read_space(base, {"learning_rate": {"low": 1e-4, "high": 1e-2}}, ())
        assert space.config({"learning_rate": 0.00123456789}).training.learning_rate == 0.001235
        stepped = read_space(base, {"output_dropout": {"low": 0.0, "high": 0.7, "step": 0.1}}, ())
        assert stepped.config({"output_dropout": 0.1 * 3}).model.output_dropout == 0.3

    def test_default_with_more_digits_than_a_trial_has_is_kept_as_it_is(self, base: Config) -> None:
        odd = replace(base, learning_rate=0.00123456789)
        space = read_space(odd, {"learning_rate": {"low": 1e-4, "high": 1e-2}}, ())
        assert space.defaults() == {"learning_rate": 0.00123456789}
        assert space.config({}) == odd

    def test_setting_that_only_another_choice_reads_may_be_searched_with_it(self, base: Config) -> None:
        with pytest.raises(ConfigError, match="heads is to be searched, but the attention decoder does not read it"):
            read_space(base, {"num_heads": [4, 8]}, ())
        read_space(base, {"num_heads": [4, 8], "attention_score": ["additive", "multihead"]}, ())

    @pytest.mark.parametrize(
        ("values", "told"),
        [
            ({"learning_rat": [0.1, 0.2]}, "unknown configuration key 'learning_rat'; did you mean 'learning_rate'?"),
            ({"model.learning_rate": [0.1, 0.2]}, "unknown configuration key 'model.learning_rate'"),
            ({7: [0.1, 0.2]}, "unknown configuration key '7'"),
            ({"learning_rate": [0.1, 0.2], "training.learning_rate": [1, 2]}, "training.learning_rate is given twice"),
            ({"encoder": ["a", "b"]}, "encoder.encoder cannot be searched: all trials share their features"),
            ({"limit_images": [1, 2]}, "data.limit_images cannot be searched: all trials share their images"),
            ({"beam_size": [1, 2]}, "decoding.beam_size cannot be searched: trials are compared by greedy captions"),
            ({"seed": [1, 2]}, "training.seed cannot be searched: it is the same in all trials"),
            ({"decoder": ["luong", "up-down"]}, "model.decoder cannot be searched"),
            ({"hidden_size": [128]}, "single value"),
            ({"hidden_size": [128, 128]}, "[128, 128] (choices are different"),
            ({"hidden_size": []}, "contain one or more elements"),
            ({"hidden_size": [128, 0]}, "model.hidden_size is 0; it must be at least 1"),
            ({"hidden_size": [128, 1.5]}, "model.hidden_size must be a whole number, not 1.5"),
            (
                {"hidden_size": 128},
                "model.hidden_size must be a list of different choices, or a range of numbers",
            ),
            ({"hidden_size": None}, "model.hidden_size must be a list of different choices, or a range"),
            ({"tie_weights": {"low": 0, "high": 1}}, "model.tie_weights must be"),
            ({"lr_drop_epochs": [[1], [2]]}, "training.lr_drop_epochs must be a list of different choices"),
            ({"learning_rate": {"low": 0.1}}, "missing 1 required positional argument: 'high'"),
            ({"learning_rate": {"low": 0.1, "hihg": 1}}, "unexpected keyword argument 'hihg'"),
            ({"learning_rate": {"low": 0.1, "high": 0.1}}, "single value"),
            ({"learning_rate": {"low": 0, "high": 0.1}}, "training.learning_rate is 0; it must be above 0"),
            ({"learning_rate": {"low": "x", "high": 0.1}}, "training.learning_rate must be a number, not 'x'"),
            ({"label_smoothing": {"low": 0, "high": 0.1, "log": True}}, "`low > 0` must hold for `log=True`"),
            ({"label_smoothing": {"low": 0, "high": 0.1, "log": "yes"}}, "log is true or false"),
            (
                {"learning_rate": {"low": 0.1, "high": 0.2, "log": True, "step": 0.1}},
                "`step` is not supported when `log` is true",
            ),
            ({"label_smoothing": {"low": 0, "high": 0.1, "step": 0.2}}, "single value"),
            ({"min_count": {"low": 1, "high": 4, "step": 0.5}}, "low, high and step are whole numbers"),
            ({"feedforward_size": [256, 512]}, "which the attention decoder does not read"),
            ({"crop_fraction": [0.0, 0.5]}, "training.crop_fraction crops images at random in each epoch"),
            ({}, "there is no setting to search"),
        ],
    )
    def test_what_cannot_be_is_told_in_a_line_that_names_the_file(
        self, base: Config, tmp_path: Path, values: Any, told: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            self.read(base, tmp_path, values)
        assert told in str(caught.value)
        assert str(caught.value).startswith(f"{tmp_path / 'space.yaml'}: ")
        assert "\n" not in str(caught.value)

    def test_contradiction_with_the_preset_is_told_before_a_trial(self, tmp_path: Path) -> None:
        transformer = resolve_config("transformer")
        with pytest.raises(ConfigError, match=r"space\.yaml: model\.num_heads is 8, which does not divide"):
            self.read(transformer, tmp_path, {"hidden_size": [100, 256]})
        with pytest.raises(ConfigError, match=r"model\.embedding_size is 128; in the transformer it must equal"):
            self.read(transformer, tmp_path, {"embedding_size": [128, 256]})
        with pytest.raises(ConfigError, match=r"model\.hidden_size is to be searched, but also set by --hidden-size"):
            self.read(transformer, tmp_path, {"hidden_size": [128, 256]}, fixed=("hidden_size",))
