"""Where a captioner looks: one image, its caption, and an overlay a word, as a page and as a strip."""

import io
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from seesay.captioner import Caption, ImageInput, TrainedCaptioner
from seesay.config import DecodingOptions
from seesay.data.annotations import load_dataset
from seesay.data.readers.columns import USUAL_NAMES, ColumnNames
from seesay.data.records import Annotation, Box
from seesay.errors import ConfigError, DataError
from seesay.files import write_atomically
from seesay.grounding import GroundingHit, point
from seesay.images import read_image, resize_image
from seesay.outputs import ARRAYS, HTML_PAGE, PNG_IMAGE, FileKind, check_file, check_name
from seesay.visualise import (
    Section,
    Table,
    Text,
    WordByWord,
    attention_entropy,
    attention_strip,
    frame_of_crop,
    write_report,
)
from seesay.visualise.beam_tree import draw_beam_tree
from seesay.visualise.report import Cell


@dataclass(frozen=True)
class Explanation:
    """An image as the model saw its frame, with what it said and where it looked.

    Attributes:
        image: the image; cropped where the model sees a crop.
        caption: with attention (T, N).
        references: what people said, where that is known.
        boxes: the objects in the image, in its pixels, where they are known.
    """

    image: Image.Image
    caption: Caption
    references: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()

    @property
    def grounding_hits(self) -> tuple[GroundingHit, ...]:
        """The words that name an object with a box, and whether the model looked at it."""
        return point(self.caption, self.boxes, self.image.size) if self.boxes else ()

    def looks(self, side: int = 560) -> WordByWord:
        """Returns the section of a page in which each word shows where the model looked.

        Args:
            side: longer side of the image in pixels.
        """
        assert self.caption.attention is not None
        assert self.caption.grid is not None
        facts = [
            f"probability {row[1]:.2f}, attention spread over {row[2]:.1f} of {row[3]:.1f} bits" for row in self._rows()
        ]
        words = list(self.caption.words)
        return WordByWord(self.image, words, self.caption.attention, self.caption.grid, facts, side=side)

    def sections(self) -> list[Section]:
        """Returns the page: the image word by word, the numbers, and what people said."""
        grounding_hits = {each.word: each for each in self.grounding_hits}
        header = ["word", "probability", "spread, bits", "at most"]
        rows: list[list[Cell]] = [list(row) for row in self._rows()]
        if grounding_hits:
            header += ["object", "attention over chance", "strongest look inside"]
            for place, row in enumerate(rows):
                found = grounding_hits.get(place)
                row += [None] * 3 if found is None else [found.label, found.ratio, "yes" if found.hit else "no"]
        sections: list[Section] = [self.looks(), Table(header, rows, self._summary(), heading="Word by word")]
        if self.references:
            sections.append(Text("\n\n".join(self.references), "People said"))
        return sections

    def _rows(self) -> list[tuple[str, float, float, float]]:
        """Returns each word with its probability, its attention's entropy in bits, and the most that could be."""
        assert self.caption.attention is not None
        spread = attention_entropy(self.caption.attention).tolist()
        most = math.log2(self.caption.attention.shape[1])
        return [
            (word, math.exp(log_prob), bits, most)
            for word, log_prob, bits in zip(self.caption.words, self.caption.log_probs, spread, strict=True)
        ]

    def _summary(self) -> str:
        bits = [row[2] for row in self._rows()]
        told = f"attention spread over {sum(bits) / max(1, len(bits)):.2f} bits a word on average"
        if found := self.grounding_hits:
            hits, chance = sum(each.hit for each in found), sum(each.chance for each in found)
            told += (
                f"; the strongest look is on the named object in {hits} of {len(found)} words ({chance:.1f} by chance)"
            )
        return told

    def strip(self, tile: int = 160) -> Image.Image:
        """Returns the image followed by one overlay a word."""
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
    captioner: TrainedCaptioner,
    image: ImageInput,
    options: DecodingOptions | None = None,
    references: tuple[str, ...] = (),
    boxes: tuple[Box, ...] = (),
) -> Explanation:
    """Returns an image's caption with the attention behind each word.

    Args:
        captioner: the model.
        image: what `TrainedCaptioner.caption` takes.
        options: how to search; None = as the run says.
        references: what people said.
        boxes: labelled objects, in the image's pixels.

    Raises:
        ImageError: the image cannot be read.
        ConfigError: the decoder has no attention, or its regions form no grid.
    """
    # The file itself, not the opened image: large JPEGs are shrunk as they are decoded, and the caption must
    # be the one that `seesay caption` gives.
    caption = captioner.caption(image, options, attention=True)
    image = read_image(image)
    if caption.attention is None:
        kind = captioner.run.config.model.decoder
        raise ConfigError(f"the {kind} decoder of {captioner.run.folder} has no attention to show")
    if caption.grid is None:
        raise ConfigError(f"the regions of {captioner.run.folder} form no grid to draw")
    assert captioner.model.encoder is not None
    preprocessing = captioner.model.encoder.preprocessing
    if preprocessing.resize == "crop":
        cropped = Image.fromarray(resize_image(image, preprocessing))
        boxes = tuple(_boxes_of_crop(boxes, image.size, cropped.size))
        image = cropped
    return Explanation(image, caption, references, boxes)


def _boxes_of_crop(boxes: Sequence[Box], size: tuple[int, int], crop: tuple[int, int]) -> Iterator[Box]:
    for box in boxes:
        if (frame := frame_of_crop((box.x, box.y, box.width, box.height), size, crop)) is not None:
            yield Box(box.label, *frame)


def explain_search(
    captioner: TrainedCaptioner, image: ImageInput, options: DecodingOptions | None = None
) -> tuple[Caption, bytes]:
    """Returns an image's caption, and a PNG of the candidates and their scores in every step of the search for it.

    Raises:
        ImageError: the image cannot be read.
    """
    caption, trace = captioner.trace(image, options)
    chosen = captioner.options(options)
    vocabulary = captioner.run.tokenizer.vocabulary
    penalty = chosen.length_penalty if chosen.strategy == "beam" else 0.0
    shown = [vocabulary.index(word) for word in caption.words]
    return caption, draw_beam_tree(trace, vocabulary.__getitem__, shown, penalty, caption.text)


def check_explanation(out: Path, arrays: bool = False, inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuses an explanation's files where an input or a foreign file is; the arguments are `save_explanation`'s.

    Args:
        out: the page or the strip.
        arrays: whether the numbers are written too.
        inputs: the image, and what else is read.

    Raises:
        DataError: one of the files would replace another one.
    """
    for path, kind in _files(out, arrays):
        check_file(path, kind, inputs=inputs)


def _files(out: Path, arrays: bool) -> list[tuple[Path, FileKind]]:
    """Returns the files of an explanation: the page, unless `out` is the strip itself, the strip, the arrays."""
    check_name(out)
    page = [] if out.suffix.lower() == ".png" else [(out, HTML_PAGE)]
    strip = out if not page else out.with_suffix(".png")
    return [*page, (strip, PNG_IMAGE), *([(out.with_suffix(".npz"), ARRAYS)] if arrays else [])]


def save_explanation(explanation: Explanation, out: Path, arrays: bool = False) -> list[Path]:
    """Writes what was found; returns the files.

    Args:
        explanation: what was found.
        out: the page, with the strip as PNG beside it; or the strip alone, if its name ends in .png.
        arrays: write the numbers too, as .npz beside them.

    Raises:
        DataError: a file is there that seesay did not write.
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
    buffer, about = io.BytesIO(), PngInfo()
    about.add_text("Software", "seesay")
    explanation.strip().save(buffer, "PNG", pnginfo=about)
    return buffer.getvalue()


def _arrays(explanation: Explanation) -> bytes:
    """Returns the numbers as .npz; its first array shows that seesay wrote it."""
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
    """Returns a random image that training did not see: of the test split, else of the validation split.

    Args:
        captioner: whose configuration tells how data without splits is dealt.
        data: anything `load_annotations` reads.
        seed: makes the choice repeatable.
        columns: columns of tables, instead of those of the run.

    Raises:
        DataError: there is no such image.
    """
    config = captioner.run.config.data
    named = columns.over(config)
    annotations = load_dataset(data, replace(config, image_column=named.image, caption_column=named.caption))
    for split in ("test", "val"):
        if items := annotations.split(split).items:
            return random.Random(seed).choice(items)
    raise DataError(f"{annotations.source} has no test or val image")
