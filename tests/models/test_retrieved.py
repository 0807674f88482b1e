"""Retrieved captions as further regions, with every decoder."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.models import retrieved as module
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.packing import PAD_ID, pack_captions
from seesay.models.registry import decoder_builder, decoder_names
from seesay.models.retrieved import RetrievedCaptions
from tests import tiny
from tests.models.decoder_cases import CONFIGS, MASK, TOKENS, D, N, V, sized, spread

F = 10
CAPTIONS = torch.tensor(
    [
        [[4, 5, 6], [7, 8, 0]],
        [[9, 0, 0], [0, 0, 0]],  # one of two captions exists
        [[0, 0, 0], [0, 0, 0]],
    ]
)
NAMES = [*CONFIGS, "pooled", "pooled-add"]
every = pytest.mark.parametrize("name", NAMES)


def model(name: str, **changes: Any) -> CaptionModel:
    """Return a model with retrieved captions, in float64, in evaluation mode."""
    torch.manual_seed(0)
    if name.startswith("pooled"):
        merge = {"merge": "add", "embedding_size": D} if name == "pooled-add" else {"hidden_size": D}
        config = ModelConfig(decoder="pooled").replace(projection_size=D, output_size=8, **merge, **changes)
    else:
        config = sized(name, **changes)
    return build_model(config.replace(retrieve=2), V, F).double().eval()


def features() -> Tensor:
    return torch.randn(3, N, F, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def logits(made: CaptionModel, captions: Tensor | None, mask: Tensor | None = MASK) -> Tensor:
    found: Tensor = made(*made.add_captions(features(), mask, captions), pack_captions(TOKENS))
    return found


def test_every_registered_decoder_is_tested() -> None:
    tested = {(ModelConfig(decoder="pooled") if n.startswith("pooled") else CONFIGS[n]).decoder for n in NAMES}
    assert tested == {name for name in decoder_names() if decoder_builder(name).__module__.startswith("seesay.")}


@every
def test_a_gradient_reaches_every_parameter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DROPOUT", 0.0)
    hard = {"hard_share": 1.0} if name.endswith("hard") else {}
    made, packed = model(name, **hard).train(), pack_captions(TOKENS)
    output = made.forward_with_penalty(*made.add_captions(features(), MASK, CAPTIONS), packed)
    (nn.functional.cross_entropy(output.logits, packed.targets) + output.penalty()).backward()  # type: ignore[no-untyped-call]
    silent = [n for n, p in made.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    # The softmax is invariant to a constant over regions, so that the keys' bias has no gradient.
    allowed = ("cross_keys.bias", "self_input.bias", "key_value.bias")
    assert [n for n in silent if not n.endswith(allowed)] == []


@every
def test_steps_equal_teacher_forcing(name: str) -> None:
    made = model(name)
    found = spread(logits(made, CAPTIONS), TOKENS)
    inputs, mask = made.add_captions(features(), MASK, CAPTIONS)
    state = made.step_decoder.init_state(made.project(inputs), mask).pick(torch.zeros(3, 2, dtype=torch.int64))
    for t in range(5):
        output = made.step_decoder.step(TOKENS[:, :, t], state)
        state = output.state
        for (image, caption), row in found.items():
            if t < len(row):
                torch.testing.assert_close(output.logits[image, caption], row[t], rtol=1e-9, atol=1e-9)


@every
def test_captions_matter_but_padding_and_absent_ones_do_not(name: str) -> None:
    made = model(name)
    found = logits(made, CAPTIONS)
    longer = nn.functional.pad(CAPTIONS, (0, 3, 0, 2), value=PAD_ID)  # of words, and of captions
    torch.testing.assert_close(logits(made, longer), found)
    torch.testing.assert_close(logits(made, CAPTIONS[:, [1, 0]]), found)  # a set: the order has no effect
    absent = logits(made, torch.zeros_like(CAPTIONS))
    torch.testing.assert_close(absent, logits(made, None))
    torch.testing.assert_close(logits(made, torch.zeros(3, 2, 0, dtype=torch.int64)), absent)
    torch.testing.assert_close(logits(made, CAPTIONS, None), logits(made, CAPTIONS, torch.ones_like(MASK)))
    by_image = pack_captions(TOKENS).image_of_row[pack_captions(TOKENS).row_of_token()]
    assert not torch.allclose(found[by_image != 2], absent[by_image != 2])
    torch.testing.assert_close(found[by_image == 2], absent[by_image == 2])


def test_a_caption_is_the_mean_of_its_words_in_a_linear_layer() -> None:
    made = RetrievedCaptions(V, F).double().eval()
    vectors, mask = made(CAPTIONS)
    words = made.embedding.weight
    torch.testing.assert_close(vectors[0, 1], made.feature(words[[7, 8]].mean(0)))
    torch.testing.assert_close(vectors[1, 0], made.feature(words[9]))
    assert mask.tolist() == [[True, True], [True, False], [False, False]]


def test_all_captions_of_an_image_are_dropped_together_in_training_only() -> None:
    torch.manual_seed(0)
    made, captions = RetrievedCaptions(V, F).train(), CAPTIONS[:1].expand(2000, -1, -1)
    _, mask = made(captions)
    assert torch.equal(mask[:, 0], mask[:, 1])
    assert float(mask.float().mean()) == pytest.approx(1 - module.DROPOUT, abs=0.04)
    assert made.eval()(captions)[1].all()


def test_other_weights_do_not_depend_on_the_option() -> None:
    torch.manual_seed(0)
    plain = build_model(sized("attention"), V, F).double()
    weights = model("attention").state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in plain.state_dict().items())
    assert sum(name.startswith("retrieved.") for name in weights) == 3
    assert tiny.what_is_read("transformer", {"retrieve": 1}) == {"retrieve": 1}
