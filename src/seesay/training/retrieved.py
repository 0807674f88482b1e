"""The captions of similar training images that a network with `model.retrieve` reads."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from seesay.data.batches import Example
from seesay.data.records import Annotation
from seesay.retrieval.building import calibrate, index_images, stored_reader
from seesay.retrieval.index import IndexInfo, RetrievalIndex
from seesay.tokenizer import Tokenizer
from seesay.training.inputs import Inputs

log = logging.getLogger("seesay")

_BATCH = 64


def build_training_index(inputs: Inputs, tokenizer: Tokenizer) -> RetrievalIndex:
    """Return the index of the training images, with the similarity calibrated on the validation images.

    Args:
        inputs: the data, with a store.
        tokenizer: of the captions.
    """
    assert inputs.store is not None, "validation.check_config requires cached features"
    read = stored_reader(inputs.store)
    training, validation = (inputs.annotations.split(split).items for split in ("train", "val"))
    index = index_images(training, read, tokenizer, IndexInfo(inputs.store.identity))
    return calibrate(index, *read(validation))


def retrieve_captions(inputs: Inputs, index: RetrievalIndex, count: int) -> Inputs:
    """Return the inputs with the captions of the `count` most similar training images in each example.

    An image never retrieves itself, see `RetrievalIndex.search`; a mirrored image has the captions of the original one.
    """
    train, val = (_retrieve(inputs, examples, index, count) for examples in (inputs.train, inputs.val))
    without = sum(not any(example.retrieved) for example in train)
    log.info("captions of %d similar images for each of %d training images", count, len(train) - without)
    if without:
        log.info("%d training images are unlike the others and have none", without)
    return replace(inputs, train=train, val=val)


def _retrieve(inputs: Inputs, examples: Sequence[Example], index: RetrievalIndex, count: int) -> list[Example]:
    assert inputs.store is not None
    read = stored_reader(inputs.store)
    found: list[Example] = []
    for at in range(0, len(examples), _BATCH):
        part = examples[at : at + _BATCH]
        _, pooled = read([Annotation(example.id, example.image, ()) for example in part])
        captions = index.nearest_captions(index.query(pooled, [example.id for example in part]), count)
        found += [replace(example, retrieved=each) for example, each in zip(part, captions, strict=True)]
    return found
