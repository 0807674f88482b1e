"""Explanation of a caption: attention overlays per word, as an HTML page and as an image strip."""

import io
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from seesay.captioners.base import Captioner
from seesay.captioners.caption import Caption
from seesay.captioners.trained import TrainedCaptioner
from seesay.config import DecodingOptions
from seesay.data.annotations import load_dataset
from seesay.data.readers.columns import USUAL_NAMES, ColumnNames
from seesay.data.records import Annotation, Box
from seesay.errors import ConfigError, DataError, ImageError
from seesay.explanation import (
    Card,
    Gallery,
    Section,
    Table,
    Text,
    WordByWord,
    attention_entropy,
    attention_strip,
    frame_of_crop,
    write_report,
)
from seesay.explanation.beam_tree import draw_beam_tree
from seesay.explanation.grounding import GroundingHit, find_grounding_hits
from seesay.explanation.report import Cell
from seesay.files import write_atomically
from seesay.images.loading import ImageInput, read_image, resize_image
from seesay.outputs import ARRAYS, HTML_PAGE, PNG_IMAGE, FileKind, check_file, check_name

MAX_SIMILAR = 6
"""Number of similar training images on the page."""
_THUMBNAIL_SIDE = 320


@dataclass(frozen=True)
class SimilarImage:
    """A training image that is similar to the explained one.

    Attributes:
        id: its id.
        path: its file.
        captions: its human captions, in the words of the vocabulary.
        similarity: cosine similarity of the images.
        is_input: its captions were inputs of the network.
    """

    id: str
    path: str
    captions: tuple[str, ...]
    similarity: float
    is_input: bool = False

    def card(self) -> Card | None:
        """Return the image with its captions; None if its file is gone or unreadable."""
        try:
            image = read_image(self.path)
        except ImageError:
            return None
        image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
        title = f"similarity {self.similarity:.2f}" + (
            "; its captions were inputs of the model" if self.is_input else ""
        )
        return Card(image, title, self.captions, name=self.id)


@dataclass(frozen=True)
class Explanation:
    """An image with its generated caption and attention.

    Attributes:
        image: the image; cropped if the preprocessing crops.
        caption: generated caption with attention (T, N).
        references: human captions, if known.
        boxes: object boxes in pixels of the image, if known.
        similar: training images that are similar, if the run has an index of them.
    """

    image: Image.Image
    caption: Caption
    references: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    similar: tuple[SimilarImage, ...] = ()

    @property
    def grounding_hits(self) -> tuple[GroundingHit, ...]:
        """Words that name an object with a box, with their grounding."""
        return find_grounding_hits(self.caption, self.boxes, self.image.size) if self.boxes else ()

    def word_overlays(self, side: int = 560) -> WordByWord:
        """Returns the section with the attention overlay of each word.

        Args:
            side: longer side of the image in pixels.
        """
        assert self.caption.attention is not None
        assert self.caption.grid is not None
        facts = [
            f"probability {row[1]:.2f}, attention entropy {row[2]:.1f} of {row[3]:.1f} bits" for row in self._rows()
        ]
        words = list(self.caption.words)
        return WordByWord(self.image, words, self.caption.attention, self.caption.grid, facts, side=side)

    def sections(self) -> list[Section]:
        """Returns the sections of the page: overlays, table of words, human captions."""
        hits = {hit.word: hit for hit in self.grounding_hits}
        header = ["word", "probability", "entropy, bits", "maximum"]
        rows: list[list[Cell]] = [list(row) for row in self._rows()]
        if hits:
            header += ["object", "attention over uniform", "maximum inside box"]
            for index, row in enumerate(rows):
                found = hits.get(index)
                row += [None] * 3 if found is None else [found.label, found.ratio, "yes" if found.hit else "no"]
        sections: list[Section] = [self.word_overlays(), Table(header, rows, self._summary(), heading="Word by word")]
        if self.references:
            sections.append(Text("\n\n".join(self.references), "Human captions"))
        if cards := [card for each in self.similar if (card := each.card()) is not None]:
            sections.append(Gallery(cards, "Similar training images"))
        return sections

    def _rows(self) -> list[tuple[str, float, float, float]]:
        """Returns each word with its probability, attention entropy and maximum entropy (bits)."""
        assert self.caption.attention is not None
        entropies = attention_entropy(self.caption.attention).tolist()
        max_entropy = math.log2(self.caption.attention.shape[1])
        return [
            (word, math.exp(log_prob), bits, max_entropy)
            for word, log_prob, bits in zip(self.caption.words, self.caption.log_probs, entropies, strict=True)
        ]

    def _summary(self) -> str:
        bits = [row[2] for row in self._rows()]
        summary = f"mean attention entropy {sum(bits) / max(1, len(bits)):.2f} bits per word"
        if found := self.grounding_hits:
            hits, baseline = sum(hit.hit for hit in found), sum(hit.baseline for hit in found)
            summary += f"; maximum on the named object for {hits} of {len(found)} words ({baseline:.1f} at random)"
        return summary

    def strip(self, tile: int = 160) -> Image.Image:
        """Returns the image followed by one overlay per word."""
        assert self.caption.attention is not None
        assert self.caption.grid is not None
        return attention_strip(
            self.image,
            list(self.caption.words),
            self.caption.attention,
            self.caption.grid,
            title=self.caption.text,
            tile=tile,
        )


def explain(
    captioner: Captioner,
    image: ImageInput,
    options: DecodingOptions | None = None,
    references: tuple[str, ...] = (),
    boxes: tuple[Box, ...] = (),
) -> Explanation:
    """Returns the caption of an image with the attention of each word.

    Args:
        captioner: the model.
        image: input of `Captioner.caption`.
        options: decoding options; None: those of the captioner.
        references: human captions.
        boxes: labelled objects in pixels of the image.

    Raises:
        ImageError: the image cannot be read.
        ConfigError: the model has no attention, or its regions have no grid.
    """
    # Pass the file, not the opened image: large JPEGs are decoded at reduced size, and the caption must equal that of
    # `seesay caption`.
    caption = captioner.caption(image, options, attention=True)
    similar = similar_images(captioner, image) if isinstance(captioner, TrainedCaptioner) else ()
    image = read_image(image)
    if caption.attention is None:
        raise ConfigError(f"the {captioner.describe().get('decoder')} decoder of {captioner.name} has no attention")
    if caption.grid is None:
        raise ConfigError(f"the regions of {captioner.name} have no grid")
    preprocessing = captioner.preprocessing()
    if preprocessing is not None and preprocessing.resize == "crop":
        cropped = Image.fromarray(resize_image(image, preprocessing))
        boxes = tuple(_crop_boxes(boxes, image.size, cropped.size))
        image = cropped
    return Explanation(image, caption, references, boxes, similar)


def similar_images(
    captioner: TrainedCaptioner, image: ImageInput, count: int = MAX_SIMILAR
) -> tuple[SimilarImage, ...]:
    """Return the training images most similar to an image, most similar first; none if the run has no index of them.

    Args:
        captioner: the run.
        image: input of `Captioner.caption`.
        count: maximum number of images.

    Raises:
        ImageError: the image cannot be read.
    """
    index = captioner.retrieval
    if index is None:
        return ()
    names = [str(image)] if isinstance(image, (str, Path)) else None
    query = index.query(captioner.pooled_features([captioner.load_inputs(image)]), names)
    found, is_like = index.nearest(query, count)
    inputs = captioner.retrieve if is_like[0] else 0
    return tuple(
        SimilarImage(
            index.ids[place],
            index.paths[place],
            tuple(captioner.run.tokenizer.decode(tokens) for tokens in index.image_captions(place)),
            similarity,
            is_input=rank < inputs,
        )
        for rank, (place, similarity) in enumerate(
            zip(found.images[0].tolist(), found.similarity[0].tolist(), strict=True)
        )
        if math.isfinite(similarity)
    )


def _crop_boxes(boxes: Sequence[Box], size: tuple[int, int], crop: tuple[int, int]) -> Iterator[Box]:
    for box in boxes:
        if (frame := frame_of_crop((box.x, box.y, box.width, box.height), size, crop)) is not None:
            yield Box(box.label, *frame)


def explain_search(
    captioner: TrainedCaptioner, image: ImageInput, options: DecodingOptions | None = None
) -> tuple[Caption, bytes]:
    """Returns the caption of an image, and a PNG of the candidates of every search step.

    Raises:
        ImageError: the image cannot be read.
    """
    caption, trace = captioner.trace(image, options)
    decoding = captioner.options(options)
    vocabulary = captioner.run.tokenizer.vocabulary
    penalty = decoding.length_penalty if decoding.strategy == "beam" else 0.0
    tokens = [vocabulary.index(word) for word in caption.words]
    return caption, draw_beam_tree(trace, vocabulary.__getitem__, tokens, penalty, caption.text)


def check_explanation(out: Path, arrays: bool = False, inputs: Iterable[str | Path | None] = ()) -> None:
    """Checks that the files of `save_explanation` do not replace inputs or foreign files.

    Args:
        out: the page or the strip.
        arrays: whether arrays are also written.
        inputs: the image and other inputs.

    Raises:
        DataError: a file would be replaced.
    """
    for path, kind in _files(out, arrays):
        check_file(path, kind, inputs=inputs)


def _files(out: Path, arrays: bool) -> list[tuple[Path, FileKind]]:
    """Returns the files of an explanation: the page (unless `out` is a PNG), the strip, and the arrays."""
    check_name(out)
    page = [] if out.suffix.lower() == ".png" else [(out, HTML_PAGE)]
    strip = out if not page else out.with_suffix(".png")
    return [*page, (strip, PNG_IMAGE), *([(out.with_suffix(".npz"), ARRAYS)] if arrays else [])]


def save_explanation(explanation: Explanation, out: Path, arrays: bool = False) -> list[Path]:
    """Writes an explanation; returns the files.

    Args:
        explanation: the explanation.
        out: the page, with the strip as PNG beside it; or only the strip, if its suffix is .png.
        arrays: also write the attention as .npz.

    Raises:
        DataError: a file exists that was not written by seesay.
        SeesayError: a file cannot be written.
    """
    check_explanation(out, arrays)
    files = _files(out, arrays)
    for path, kind in files:
        if kind is HTML_PAGE:
            write_report(path, explanation.caption.text or "(an empty caption)", explanation.sections())
        else:
            write_atomically(path, _strip(explanation) if kind is PNG_IMAGE else _arrays(explanation))
    return [path for path, _ in files]


def _strip(explanation: Explanation) -> bytes:
    buffer, metadata = io.BytesIO(), PngInfo()
    metadata.add_text("Software", "seesay")
    explanation.strip().save(buffer, "PNG", pnginfo=metadata)
    return buffer.getvalue()


def _arrays(explanation: Explanation) -> bytes:
    """Returns the arrays as .npz; the first array identifies seesay as the writer."""
    from seesay import __version__

    buffer, caption = io.BytesIO(), explanation.caption
    attention = np.asarray(caption.attention, np.float32)
    np.savez_compressed(
        buffer,
        seesay=np.array(__version__),
        words=np.array(caption.words),
        attention=attention,
        grid=np.array(caption.grid),
        log_probs=np.array(caption.log_probs),
        entropy=attention_entropy(attention),
    )
    return buffer.getvalue()


def held_out_image(
    captioner: TrainedCaptioner, data: str | Path, seed: int | None = None, columns: ColumnNames = USUAL_NAMES
) -> Annotation:
    """Returns a random image of the test split, else of the validation split.

    Args:
        captioner: the model, with the split settings for data without splits.
        data: anything `load_annotations` reads.
        seed: seed of the choice.
        columns: table columns to use instead of those of the run.

    Raises:
        DataError: there is no such image.
    """
    config = captioner.run.config.data
    selected = columns.over(config)
    annotations = load_dataset(data, config.replace(image_column=selected.image, caption_column=selected.caption))
    for split in ("test", "val"):
        if items := annotations.split(split).items:
            return random.Random(seed).choice(items)
    raise DataError(f"{annotations.source} has no test or val image")
