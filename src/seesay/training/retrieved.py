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
    All training images have captions: they are of the domain by definition, and in a small data set less similar to
    each other than the calibrated similarity, since the space of the vectors was fitted to them.
    """
    assert inputs.store is not None
    read = stored_reader(inputs.store)

    def retrieve(examples: Sequence[Example], min_similarity: float) -> list[Example]:
        found: list[Example] = []
        for at in range(0, len(examples), _BATCH):
            part = examples[at : at + _BATCH]
            _, pooled = read([Annotation(example.id, example.image, ()) for example in part])
            query = index.query(pooled, [example.id for example in part])
            captions = index.nearest_captions(query, count, min_similarity)
            found += [replace(example, retrieved=each) for example, each in zip(part, captions, strict=True)]
        return found

    train, val = retrieve(inputs.train, min_similarity=-1.0), retrieve(inputs.val, min_similarity=0.0)
    without = sum(not any(example.retrieved) for example in val)
    log.info(
        "inputs are captions of %d similar training images too; %d of %d validation images are unlike all of them",
        count,
        without,
        len(val),
    )
    return replace(inputs, train=train, val=val)
