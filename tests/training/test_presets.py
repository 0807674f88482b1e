"""Every preset with small sizes: overfits four images, is saved, loaded, explained and resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from seesay.captioners.trained import TrainedCaptioner
from seesay.config import Config, DecodingOptions, preset_names, resolve_config
from seesay.errors import ConfigError
from seesay.explanation.explain import explain
from seesay.models.captioning import build_model
from seesay.models.packing import pack_captions
from seesay.models.vocabulary import VocabularyLayer
from seesay.tokenizer import END_ID, Tokenizer
from seesay.training.inputs import count_words
from seesay.training.module import CaptioningModule
from seesay.training.train import train
from tests import tiny
from tests.decoding.oracles import decode
from tests.training.outcomes import outcome

HARD = {"attention": "hard", "hard_share": 0.5}
CASES: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in preset_names()), ("show-attend-tell", HARD)]

every = pytest.mark.parametrize(
    ("preset", "changes"), CASES, ids=[f"{name}-hard" if changes else name for name, changes in CASES]
)


def small(weights: Path, preset: str, **changes: Any) -> Config:
    """Return a preset with small sizes, including its dropout and penalties."""
    sizes = {"output_size": 16, "num_heads": 2, "feedforward_size": 48, "vocabulary_size": 0, "min_count": 1}
    if preset.startswith("pooled-gru"):
        sizes["projection_size"] = 32
    if preset == "transformer":
        sizes["embedding_size"] = 32
    sizes = tiny.what_is_read(resolve_config(preset).model.decoder, sizes)
    seen = {"encoder_training": "cached", "tf_average_pooling": False, "layer": "", "captions_per_image": 0}
    return tiny.cached_preset(preset, weights, **{**sizes, **seen, "precision": "float32", **changes})


@every
def test_overfits_four_images(preset: str, changes: dict[str, Any], weights: Path) -> None:
    places = ("feature_dropout", "embedding_dropout", "attention_dropout", "state_dropout", "output_dropout")
    config = small(weights, preset, **dict.fromkeys(places, 0.0), **changes)
    torch.manual_seed(0)
    features = torch.randn(4, 1 if config.encoder.pool == "pooled" else 4, 12)
    tokens = torch.tensor([[[1, 4, 5, 6, 2]], [[1, 5, 5, 2, 0]], [[1, 6, 4, 4, 2]], [[1, 7, 2, 0, 0]]])
    model, captions = build_model(config.model, 8, 12).train(), pack_captions(tokens)
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    for _ in range(300):
        logits, penalty = model.forward_with_penalty(features, None, captions)
        cross_entropy_rows = F.cross_entropy(logits, captions.targets)
        if cross_entropy_rows < 0.05:
            break
        optimizer.zero_grad()
        (cross_entropy_rows + penalty()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    for options in (DecodingOptions(), DecodingOptions(strategy="beam")):
        found = decode(model.step_decoder, model.project(features), None, options)
        generated = [[1, *hypotheses[0].tokens, 2] for hypotheses in found]
        assert generated == [[word for word in caption[0] if word] for caption in tokens.tolist()]


class Killed(Exception):  # noqa: N818
    """Simulates a kill within the process."""


@every
def test_is_saved_loaded_and_resumed_after_a_kill(
    preset: str,
    changes: dict[str, Any],
    colours: Path,
    features: Path,
    weights: Path,
    tmp_path: Path,
    images: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small(weights, preset, limit_images=12, checkpoint_every=2, log_every=1, **changes)
    folder = features if config.encoder.pool == "grid" else tmp_path / "pooled"
    train(config, colours, tmp_path / "unbroken", features=folder)
    end = CaptioningModule.on_train_batch_end

    def killed(module: CaptioningModule, *arguments: Any) -> None:
        if module.global_step == 5:
            raise Killed
        end(module, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CaptioningModule, "on_train_batch_end", killed)
        with pytest.raises(Killed):
            train(config, colours, tmp_path / "broken", features=folder)
    assert (tmp_path / "broken" / "checkpoints" / "last.ckpt").is_file()
    train(config, colours, tmp_path / "broken", features=folder)
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "unbroken")

    captioner = TrainedCaptioner.load(tmp_path / "broken", "cpu")
    (layer,) = [module for module in captioner.model.modules() if isinstance(module, VocabularyLayer)]
    with torch.no_grad():
        layer.bias[END_ID] -= 5.0  # after so little training, some captions would be empty
    assert captioner.caption(images[0]).words
    if config.model.decoder == "pooled":
        with pytest.raises(ConfigError, match=r"the pooled decoder of .* has no attention"):
            explain(captioner, images[0])
    else:
        explanation = explain(captioner, images[0])
        assert explanation.caption.attention is not None
        assert explanation.caption.attention.shape == (len(explanation.caption.words), 4)
        assert explanation.strip().height > 0


def test_training_adds_the_penalty_to_the_loss_but_does_not_log_it(
    colours: Path, features: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logged loss is comparable between decoders; the gradient includes the penalty."""
    seen: list[tuple[float, float]] = []
    real = CaptioningModule.training_step

    def watching(module: CaptioningModule, batch: Any, place: int) -> torch.Tensor:
        loss = real(module, batch, place)
        seen.append((float(loss.detach()), float(module.last_loss[0] / module.last_loss[1])))
        return loss

    monkeypatch.setattr(CaptioningModule, "training_step", watching)
    config = small(weights, "show-attend-tell", epochs=1, doubly_stochastic=3.0, learning_rate=1e-6)
    train(config, colours, tmp_path / "run", features=features)
    # Four regions and captions of at most nine tokens: the minimum penalty per token is not small.
    assert all(loss > logged + 0.05 for loss, logged in seen)


def test_the_bias_starts_at_the_frequencies_of_the_training_words(
    colours: Path, features: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[torch.Tensor, torch.Tensor, Tokenizer]] = []

    def start(module: CaptioningModule) -> None:
        counts = count_words(module.batches.examples, len(module.tokenizer))
        found.append((module.model.get_parameter("decoder.output.1.bias").detach().clone(), counts, module.tokenizer))
        raise Killed

    monkeypatch.setattr(CaptioningModule, "on_train_start", start)
    for wanted in (True, False):
        config = small(weights, "attention-gru", log_frequency_bias=wanted)
        with pytest.raises(Killed):
            train(config, colours, tmp_path / str(wanted), features=features)
    (bias, counts, tokenizer), (plain, _, _) = found
    shares = (counts + 1) / (counts + 1).sum()
    torch.testing.assert_close(bias.exp(), shares)
    assert not plain.any()
    assert int(counts.argmax()) == tokenizer.encode("red")[-1]  # every caption ends
