"""Where a captioner looks: one picture, its caption, and an overlay a word."""

import io
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from seesay.captioner import Caption, Captioner, Picture
from seesay.config import DecodingOptions
from seesay.data.annotations import load_dataset
from seesay.data.records import Annotation
from seesay.errors import ConfigError, DataError
from seesay.files import write_atomically
from seesay.images import read_image, resize_image, upright_rgb
from seesay.visualise import attention_strip
from seesay.visualise.beam_tree import draw_beam_tree


@dataclass(frozen=True)
class Explanation:
    """A picture as the model saw its frame, with what it said and where it looked.

    Attributes:
        image: the picture; cropped where the model sees a crop.
        caption: with attention (T, N).
        references: what people said, where that is known.
    """

    image: Image.Image
    caption: Caption
    references: tuple[str, ...] = ()

    def strip(self, tile: int = 160) -> Image.Image:
        """Returns the picture followed by one overlay a word."""
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
    picture: Picture,
    options: DecodingOptions | None = None,
    references: tuple[str, ...] = (),
) -> Explanation:
    """Returns a picture's caption with the attention behind each word.

    Raises:
        ImageError: the picture cannot be read.
        ConfigError: the decoder has no attention, or its regions form no grid.
    """
    # The file itself, not the opened picture: large JPEGs are shrunk as they are decoded, and the caption must
    # be the one that `seesay caption` gives.
    caption = captioner.caption(picture, options, attention=True)
    image = upright_rgb(picture) if isinstance(picture, Image.Image) else read_image(picture)
    if caption.attention is None:
        kind = captioner.run.config.model.decoder
        raise ConfigError(f"the {kind} decoder of {captioner.run.folder} has no attention to show")
    if caption.grid is None:
        raise ConfigError(f"the regions of {captioner.run.folder} form no grid to draw")
    assert captioner.model.encoder is not None
    preprocessing = captioner.model.encoder.preprocessing
    if preprocessing.resize == "crop":
        image = Image.fromarray(resize_image(image, preprocessing))
    return Explanation(image, caption, references)


def explain_search(
    captioner: Captioner, picture: Picture, options: DecodingOptions | None = None
) -> tuple[Caption, bytes]:
    """Returns a picture's caption, and a PNG of the candidates and their scores in every step of the search for it.

    Raises:
        ImageError: the picture cannot be read.
    """
    caption, trace = captioner.trace(picture, options)
    chosen = captioner.options(options)
    vocabulary = captioner.run.tokenizer.vocabulary
    penalty = chosen.length_penalty if chosen.strategy == "beam" else 0.0
    shown = [vocabulary.index(word) for word in caption.words]
    return caption, draw_beam_tree(trace, vocabulary.__getitem__, shown, penalty, caption.text)


def save_explanation(explanation: Explanation, out: Path, arrays: bool = False) -> list[Path]:
    """Writes the strip as PNG, and beside it the arrays as .npz; returns the files."""
    buffer = io.BytesIO()
    explanation.strip().save(buffer, "PNG")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, buffer.getvalue())
    if not arrays:
        return [out]
    buffer = io.BytesIO()
    caption = explanation.caption
    np.savez_compressed(
        buffer,
        words=np.array(caption.words),
        attention=np.asarray(caption.attention, np.float32),
        grid=np.array(caption.grid),
        log_probs=np.array(caption.log_probs),
    )
    write_atomically(out.with_suffix(".npz"), buffer.getvalue())
    return [out, out.with_suffix(".npz")]


def held_out_picture(captioner: Captioner, data: str | Path, seed: int | None = None) -> Annotation:
    """Returns a random picture that training did not see: of the test split, else of the validation split.

    Raises:
        DataError: there is no such picture.
    """
    annotations = load_dataset(data, captioner.run.config.data)
    for split in ("test", "val"):
        if items := annotations.split(split).items:
            return random.Random(seed).choice(items)
    raise DataError(f"{annotations.source} has no test or val picture")
