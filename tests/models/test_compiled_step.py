"""The step in C against the decoder's own modules."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seesay.config import ModelConfig
from seesay.models import compiled_step as module
from seesay.models.compiled_step import compiled_step
from seesay.models.decoders.attention_gru import AttentionGRUDecoder
from seesay.models.kernels import kernels_for
from seesay.models.products import prepack_weights
from seesay.models.protocol import DecoderState, StepOutput
from tests.c_source import struct_fields

needs_compiler = pytest.mark.skipif(kernels_for(torch.zeros(1)) is None, reason="needs a C compiler (cc)")


def made(settings: dict[str, int | bool | str] | None = None, *, fixed: bool = True) -> AttentionGRUDecoder:
    torch.manual_seed(4)
    sizes = {"projection_size": 7, "embedding_size": 6, "hidden_size": 21, "attention_size": 10, "output_size": 9}
    decoder = AttentionGRUDecoder(ModelConfig(**{**sizes, **(settings or {})}), vocabulary_size=37).eval()  # type: ignore[arg-type]
    if fixed:
        prepack_weights(decoder)
    return decoder


def own_step(decoder: AttentionGRUDecoder, tokens: Tensor, state: DecoderState) -> StepOutput:
    return super(AttentionGRUDecoder, decoder).step(tokens, state)


@needs_compiler
@pytest.mark.parametrize("settings", [{}, {"output_size": 0}, {"tie_weights": True, "output_size": 6}])
@pytest.mark.parametrize(("images", "rows"), [(1, 1), (1, 5), (3, 4)])
@torch.inference_mode()
def test_steps_are_those_of_the_modules(settings: dict[str, int | bool | str], images: int, rows: int) -> None:
    decoder, loose = made(settings), made(settings, fixed=False)
    memory = torch.randn(images, 4, 7)
    found = decoder.init_state(memory, None)
    found = wanted = found.pick(torch.zeros((images, rows), dtype=torch.int64))
    for _ in range(3):
        tokens = torch.randint(0, 37, (images, rows))
        assert compiled_step(decoder, found) is not None
        ours, theirs = decoder.step(tokens, found), own_step(loose, tokens, wanted)
        torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.attention, theirs.attention, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours.state.per_row["hidden"], theirs.state.per_row["hidden"], rtol=1e-4, atol=1e-5)
        found, wanted = ours.state, theirs.state


@needs_compiler
@torch.inference_mode()
def test_rows_do_not_depend_on_their_company() -> None:
    decoder, memory, tokens = made(), torch.randn(3, 4, 7), torch.randint(0, 37, (3, 5))
    state = decoder.init_state(memory, None).pick(torch.zeros((3, 5), dtype=torch.int64))
    whole = decoder.step(tokens, state).logits
    alone = decoder.init_state(memory[1:2], None).pick(torch.zeros((1, 1), dtype=torch.int64))
    assert torch.equal(decoder.step(tokens[1:2, 2:3], alone).logits[0, 0], whole[1, 2])


@needs_compiler
@torch.inference_mode()
def test_half_precision_of_autocast_is_kept_out() -> None:
    decoder, memory = made(), torch.randn(1, 4, 7)
    tokens = torch.tensor([[3]])
    with torch.autocast("cpu", torch.bfloat16):
        found = decoder.step(tokens, decoder.init_state(memory, None))
        state = decoder.init_state(memory.bfloat16(), None)
    assert found.logits.dtype == torch.float32
    assert state.per_image["memory"].dtype == torch.float32
    wanted = own_step(decoder, tokens, decoder.init_state(memory, None))
    torch.testing.assert_close(found.logits, wanted.logits, rtol=2e-2, atol=2e-2)  # the keys are autocast's


@torch.inference_mode()
def test_what_c_does_not_read_is_left_to_the_modules() -> None:
    memory, mask = torch.randn(2, 4, 7), torch.tensor([[True] * 4, [True, True, False, False]])
    tokens = torch.tensor([[3], [4]])
    masked = made()
    state = masked.init_state(memory, mask)
    assert compiled_step(masked, state) is None
    torch.testing.assert_close(masked.step(tokens, state).logits, own_step(masked, tokens, state).logits)
    for decoder in (made(fixed=False), made().train(), made({"attention_score": "multihead", "attention_size": 8})):
        assert compiled_step(decoder, decoder.init_state(memory, None)) is None
    wide = made().double()
    assert compiled_step(wide, wide.init_state(memory.double(), None)) is None
    assert wide.step(tokens, wide.init_state(memory.double(), None)).logits.dtype == torch.float64


@needs_compiler
@torch.inference_mode()
def test_parts_of_ones_own_are_asked() -> None:
    class Loud(AttentionGRUDecoder):
        def compute_logits(self, output: Tensor, embedded: Tensor) -> Tensor:
            return super().compute_logits(output, embedded) + 99

    memory, tokens = torch.randn(1, 4, 7), torch.tensor([[3]])
    plain = made()
    state = plain.init_state(memory, None)
    wanted = plain.step(tokens, state).logits
    loud = made()
    loud.__class__ = Loud
    torch.testing.assert_close(loud.step(tokens, state).logits, wanted + 99)
    plain.output = torch.nn.Sequential(torch.nn.Linear(21, 37))  # after a step in C
    torch.testing.assert_close(plain.step(tokens, state).logits, own_step(plain, tokens, state).logits)


@needs_compiler
def test_weights_that_training_changes_are_the_new_ones() -> None:
    decoder, memory, tokens = made(), torch.randn(1, 4, 7), torch.tensor([[3]])
    with torch.inference_mode():
        decoder.step(tokens, decoder.init_state(memory, None))
    decoder.train()
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.mul_(1.5)
    decoder.eval()
    for again in (False, True):
        if again:
            prepack_weights(decoder)
        with torch.inference_mode():
            state = decoder.init_state(memory, None)
            torch.testing.assert_close(
                decoder.step(tokens, state).logits, own_step(decoder, tokens, state).logits, rtol=1e-4, atol=1e-5
            )


@needs_compiler
@torch.inference_mode()
def test_the_process_defaults_do_not_matter_and_the_weights_may_move(request: pytest.FixtureRequest) -> None:
    decoder, memory, tokens = made(), torch.randn(1, 4, 7), torch.tensor([[3]])
    state = decoder.init_state(memory, None)
    wanted = decoder.step(tokens, state).logits
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    for dtype in (torch.float64, torch.float16):
        torch.set_default_dtype(dtype)
        assert torch.equal(decoder.step(tokens, state).logits, wanted)
    torch.set_default_dtype(torch.float32)
    decoder.double().float()
    torch.randn(1000)
    assert torch.equal(decoder.step(tokens, state).logits, wanted)


@needs_compiler
@torch.inference_mode()
def test_threads_may_step_at_once_over_grids_of_other_sizes() -> None:
    decoder, tokens = made(), torch.tensor([[3, 4, 5]])
    states = [
        decoder.init_state(torch.randn(1, regions, 7), None).pick(torch.zeros(1, 3, dtype=torch.int64))
        for regions in (4, 60)
    ]
    wanted = [decoder.step(tokens, state).logits for state in states]

    def work(number: int) -> bool:
        with torch.inference_mode():
            return all(torch.equal(decoder.step(tokens, states[number]).logits, wanted[number]) for _ in range(200))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(work, [0, 1]))


@needs_compiler
@torch.inference_mode()
def test_ids_that_are_no_words_and_memory_of_another_width_are_refused() -> None:
    decoder, memory = made(), torch.randn(1, 4, 7)
    state = decoder.init_state(memory, None)
    for token in (-1, 37):
        with pytest.raises(IndexError):
            decoder.step(torch.tensor([[token]]), state)
    with pytest.raises(RuntimeError):
        decoder.init_state(torch.randn(1, 4, 5), None)


@torch.inference_mode()
def test_a_decoder_in_half_precision_is_left_alone() -> None:
    decoder, memory = made().bfloat16(), torch.randn(1, 4, 7).bfloat16()
    assert decoder.step(torch.tensor([[3]]), decoder.init_state(memory, None)).logits.dtype == torch.bfloat16


def test_where_gradients_are_wanted_it_is_not_taken() -> None:
    decoder = made()
    assert compiled_step(decoder, decoder.init_state(torch.randn(1, 4, 7), None)) is None


def test_the_struct_is_that_of_the_source() -> None:
    """A field more in one of them would shift all that follow."""
    source = Path(module.__file__).with_name("kernels.c")
    assert struct_fields(source, "attention_gru") == [*module._SIZES, *module._WEIGHTS]
