"""Packed captions against torch's PackedSequence, for random lengths and numbers of captions."""

import dataclasses

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from seesay import tokenizer
from seesay.data.batches import pad_captions
from seesay.models import packing
from seesay.models.packing import PackedCaptions, pack_captions

START, END = tokenizer.START_ID, tokenizer.END_ID

bodies = st.lists(st.integers(tokenizer.UNK_ID, 9), max_size=6)
captions = bodies.map(lambda words: (START, *words, END))
images = st.lists(st.lists(captions, min_size=1, max_size=4), min_size=1, max_size=5)


def unpacked(packed: PackedCaptions) -> dict[int, list[int]]:
    """Return every caption's tokens by its index in the grid, from the packed ones."""
    rows = packed.row_of_token()
    found = {}
    for row, place in enumerate(packed.caption_of_row.tolist()):
        inputs, targets = packed.inputs[rows == row].tolist(), packed.targets[rows == row].tolist()
        assert inputs[1:] == targets[:-1]
        found[place] = [*inputs, targets[-1]]
    return found


def oracle(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return inputs, targets, sizes and order of the captions as packed by torch."""
    flat = tokens.flatten(0, 1)
    places = torch.nonzero((flat != 0).any(1))[:, 0]
    lengths = (flat[places] != 0).sum(1) - 1
    order = torch.argsort(lengths, descending=True, stable=True)
    flat, lengths = flat[places[order]], lengths[order]
    inputs = pack_padded_sequence(flat[:, :-1], lengths, batch_first=True)
    targets = pack_padded_sequence(flat[:, 1:], lengths, batch_first=True)
    return inputs.data, targets.data, inputs.batch_sizes, places[order]


@given(images)
def test_packing_equals_torch(images: list[list[tuple[int, ...]]]) -> None:
    tokens = pad_captions(images)
    packed = pack_captions(tokens)
    inputs, targets, sizes, places = oracle(tokens)
    assert torch.equal(packed.inputs, inputs)
    assert torch.equal(packed.targets, targets)
    assert packed.sizes == sizes.tolist()
    assert torch.equal(packed.caption_of_row, places)
    assert torch.equal(packed.image_of_row, places // tokens.shape[1])


@given(images)
def test_packing_contains_every_real_token_once_and_no_padding(images: list[list[tuple[int, ...]]]) -> None:
    packed = pack_captions(pad_captions(images))
    most = max(map(len, images))
    expected = {
        image * most + place: list(caption) for image, own in enumerate(images) for place, caption in enumerate(own)
    }
    assert unpacked(packed) == expected
    assert packed.rows == len(expected)
    assert bool((packed.inputs != 0).all())
    assert bool((packed.targets != 0).all())


@given(images, st.integers(0, 3), st.integers(0, 3))
def test_more_padding_changes_only_caption_of_row(images: list[list[tuple[int, ...]]], wider: int, longer: int) -> None:
    tokens = pad_captions(images)
    padded = torch.nn.functional.pad(tokens, (0, longer, 0, wider))
    plain, loose = pack_captions(tokens), pack_captions(padded)
    for name in ("inputs", "targets", "image_of_row"):
        assert torch.equal(getattr(plain, name), getattr(loose, name))
    assert plain.sizes == loose.sizes


def test_an_image_may_have_fewer_captions_or_none() -> None:
    tokens = torch.tensor([[[1, 5, 2], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [1, 2, 0]]])
    packed = pack_captions(tokens)
    assert unpacked(packed) == {0: [1, 5, 2], 5: [1, 2]}
    assert packed.image_of_row.tolist() == [0, 2]


def test_an_empty_batch_packs_to_an_empty_batch() -> None:
    for shape in ((2, 3, 4), (2, 3, 0), (0, 3, 4), (0, 0, 0)):
        packed = pack_captions(torch.zeros(shape, dtype=torch.int64))
        assert (packed.sizes, packed.rows, len(packed.inputs), len(packed.targets)) == ([], 0, 0, 0)
        assert len(packed.row_of_token()) == 0


@given(images)
def test_padding_by_caption_and_by_image_round_trips(
    images: list[list[tuple[int, ...]]],
) -> None:
    packed = pack_captions(pad_captions(images))
    by_caption, by_image = packed.by_caption(), packed.by_image(len(images) + 1)  # one image without a caption
    most = max(map(len, images))
    for row, place in zip(by_caption.pad(packed.inputs).tolist(), packed.caption_of_row.tolist(), strict=True):
        caption = images[place // most][place % most][:-1]
        assert row == [*caption, *[0] * (by_caption.places - len(caption))]
    rows = by_image.pad(packed.inputs).tolist()
    assert len(rows) == len(images) + 1
    for own, row in zip([*images, []], rows, strict=True):
        assert sorted(row) == sorted([0] * row.count(0) + [word for caption in own for word in caption[:-1]])
        assert row[: len(row) - row.count(0)] == [word for word in row if word]  # no gaps
    for index in (by_caption, by_image):
        assert torch.equal(index.pack(index.pad(packed.targets)), packed.targets)
        assert index.pad(torch.rand(len(packed.inputs), 3, 2)).shape == (index.rows, index.places, 3, 2)


def test_an_empty_batch_pads_to_an_empty_batch() -> None:
    packed = pack_captions(torch.zeros(2, 3, 4, dtype=torch.int64))
    assert packed.by_caption().pad(packed.inputs).shape == (0, 0)
    assert packed.by_image(2).pad(packed.inputs).shape == (2, 0)


def test_to_moves_every_tensor() -> None:
    packed = pack_captions(torch.tensor([[[1, 5, 2]]])).to(torch.device("meta"))
    tensors = {
        field.name: value.device.type
        for field in dataclasses.fields(packed)
        if isinstance(value := getattr(packed, field.name), Tensor)
    }
    assert tensors == dict.fromkeys(("inputs", "targets", "image_of_row", "caption_of_row"), "meta")
    assert packed.sizes == [1, 1]


def test_the_padding_id_equals_the_tokenizer_s() -> None:
    assert packing.PAD_ID == tokenizer.PAD_ID
