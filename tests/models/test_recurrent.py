"""The recurrent decoders against reference loops over torch's cells."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from seesay.config import ModelConfig
from seesay.models.attention import AdditiveAttention
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.cells import gru_update, masked_mean
from seesay.models.decoders.attention_gru import AttentionGRUDecoder
from seesay.models.decoders.pooled_gru import PooledGRUDecoder
from seesay.models.packing import pack_captions
from tests.models.decoder_cases import MASK, TOKENS, D, V, memories, spread

SIZES = ModelConfig(projection_size=D, embedding_size=5, hidden_size=7, attention_size=4, output_size=8)


def attention_decoder() -> AttentionGRUDecoder:
    torch.manual_seed(0)
    return AttentionGRUDecoder(SIZES, V).double()


def pooled_decoder(merge: Any) -> PooledGRUDecoder:
    torch.manual_seed(0)
    width = 7 if merge == "state" else 5
    config = SIZES.replace(decoder="pooled", projection_size=width, num_layers=3, output_size=0, merge=merge)
    return PooledGRUDecoder(config, V).double()


def reference_attention_gru(decoder: AttentionGRUDecoder, memory: Tensor, mask: Tensor, caption: list[int]) -> Tensor:
    """Return logits (T, V) of one image (N, D) and one caption, step by step with torch.nn.GRUCell."""
    hidden_size = decoder.hidden_size
    cell = nn.GRUCell(memory.shape[1] + decoder.embedding.embedding_dim, hidden_size).double()
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([decoder.context_gates.weight, decoder.word_gates.weight], dim=1))
        cell.bias_ih.copy_(decoder.word_gates.bias)
        cell.weight_hh.copy_(decoder.state_gates.weight)
        cell.bias_hh.copy_(decoder.state_gates.bias)
    hidden = torch.zeros(1, hidden_size, dtype=torch.float64)
    attention = cast("AdditiveAttention", decoder.attention)
    rows = []
    for word in caption:
        energies = []
        for region in memory[mask]:
            inner = attention.key.weight @ region + attention.key.bias + attention.query.weight @ hidden[0]
            energies.append(attention.score.weight[0] @ torch.tanh(inner))
        weights = torch.softmax(torch.stack(energies), dim=0)
        context = (weights[:, None] * memory[mask]).sum(0)
        hidden = cell(torch.cat([context, decoder.embedding.weight[word]])[None], hidden)
        rows.append(decoder.output(hidden)[0])
    return torch.stack(rows)


def test_attention_gru_forward_equals_a_reference_loop_over_grucell() -> None:
    decoder = attention_decoder()
    memory = torch.randn(3, 4, D, dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, True, False, True], [True, False, False, False]])
    found = spread(decoder(memory, mask, pack_captions(TOKENS)).logits, TOKENS)
    assert len(found) == 5
    for (image, caption), logits in found.items():
        words = [word for word in TOKENS[image, caption].tolist() if word][:-1]
        expected = reference_attention_gru(decoder, memory[image], mask[image], words)
        torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


def test_attention_gru_gradients_equal_those_of_the_reference_loop() -> None:
    decoder = attention_decoder()
    memory = torch.randn(3, 4, D, dtype=torch.float64)
    mask = torch.ones(3, 4, dtype=torch.bool)
    packed = pack_captions(TOKENS)
    nn.functional.cross_entropy(decoder(memory, mask, packed).logits, packed.targets, reduction="sum").backward()  # type: ignore[no-untyped-call]
    # The reference copies the recurrent weights, so that only gradients of shared weights are compared.
    shared = ("attention", "output", "embedding")
    fast = {n: p.grad.clone() for n, p in decoder.named_parameters() if n.startswith(shared) and p.grad is not None}
    decoder.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for image in range(3):
        for caption in range(2):
            words = [word for word in TOKENS[image, caption].tolist() if word]
            if words:
                logits = reference_attention_gru(decoder, memory[image], mask[image], words[:-1])
                total = total + nn.functional.cross_entropy(logits, torch.tensor(words[1:]), reduction="sum")
    total.backward()  # type: ignore[no-untyped-call]
    assert len(fast) == 9
    for name, parameter in decoder.named_parameters():
        if name in fast:
            torch.testing.assert_close(fast[name], parameter.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("merge", ["state", "add"])
def test_pooled_gru_forward_equals_torch_gru_on_one_caption(merge: str) -> None:
    decoder = pooled_decoder(merge)
    memory = torch.randn(3, 1, 7 if merge == "state" else 5, dtype=torch.float64)
    found = spread(decoder(memory, None, pack_captions(TOKENS)).logits, TOKENS)
    for (image, caption), logits in found.items():
        words = torch.tensor([word for word in TOKENS[image, caption].tolist() if word][:-1])
        embedded = decoder.embedding(words)[None]
        if merge == "add":
            output, _ = decoder.gru(embedded + memory[image])
        else:
            output, _ = decoder.gru(embedded, memory[image][None].expand(3, 1, -1).contiguous())
        torch.testing.assert_close(logits, decoder.output(output[0]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("merge", ["state", "add"])
def test_pooled_step_by_step_equals_forward(merge: str) -> None:
    decoder, memory = pooled_decoder(merge), memories(size=7 if merge == "state" else 5)
    found = spread(decoder(memory, MASK, pack_captions(TOKENS)).logits, TOKENS)
    state = decoder.init_state(memory, MASK).pick(torch.zeros(3, 2, dtype=torch.int64))
    for t in range(5):
        output = decoder.step(TOKENS[:, :, t], state)
        state = output.state
        assert output.attention is None
        for (image, caption), logits in found.items():
            if t < len(logits):
                torch.testing.assert_close(output.logits[image, caption], logits[t], rtol=1e-10, atol=1e-10)


def test_gru_update_equals_grucell() -> None:
    cell = nn.GRUCell(5, 7).double()
    inputs, hidden = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    found = gru_update(inputs @ cell.weight_ih.T + cell.bias_ih, hidden @ cell.weight_hh.T + cell.bias_hh, hidden)
    torch.testing.assert_close(found, cell(inputs, hidden))


def test_the_state_is_carried_between_steps() -> None:
    # The tutorial calls its GRU without the previous state, so that only the last word has an effect.
    decoder = attention_decoder()
    memory = torch.randn(1, 4, D, dtype=torch.float64)
    state = decoder.init_state(memory, None)
    after = [decoder.step(torch.tensor([[word]]), state).state for word in (4, 9)]
    logits = [decoder.step(torch.tensor([[5]]), each).logits for each in after]
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("merge", ["state", "add"])
def test_the_image_reaches_the_pooled_decoder(merge: str) -> None:
    decoder = pooled_decoder(merge)
    memory = torch.randn(2, 1, 7 if merge == "state" else 5, dtype=torch.float64)
    tokens = torch.tensor([[[1, 4, 2]], [[1, 4, 2]]])
    found = spread(decoder(memory, None, pack_captions(tokens)).logits, tokens)
    assert not torch.allclose(found[0, 0], found[1, 0])


def test_masked_mean_counts_real_regions_only() -> None:
    memory = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert masked_mean(memory, torch.tensor([[True, True, False]])).item() == 2.0


def pooled_model() -> CaptionModel:
    torch.manual_seed(0)
    config = ModelConfig(
        decoder="pooled", projection_size=7, embedding_size=5, hidden_size=7, num_layers=3, output_size=8
    )
    return build_model(config, V, 10)


def test_a_gradient_reaches_every_parameter_of_the_pooled_gru() -> None:
    model, packed = pooled_model(), pack_captions(TOKENS)
    logits = model(torch.randn(3, 4, 10), None, packed)
    nn.functional.cross_entropy(logits, packed.targets).backward()  # type: ignore[no-untyped-call]
    silent = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert silent == []


def test_captions_of_other_images_have_no_effect_on_the_pooled_gru() -> None:
    model = pooled_model().double()
    features = torch.randn(3, 4, 10, dtype=torch.float64)
    together = spread(model(features, None, pack_captions(TOKENS)), TOKENS)
    for image in range(3):
        part = slice(image, image + 1)
        alone = spread(model(features[part], None, pack_captions(TOKENS[part])), TOKENS[part])
        for (_, caption), logits in alone.items():
            torch.testing.assert_close(together[image, caption], logits, rtol=1e-10, atol=1e-10)
