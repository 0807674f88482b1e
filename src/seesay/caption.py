"""What every captioner shares, whatever computes its networks: pictures in, captions out. Needs no torch."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seesay.config import Config, DecodingOptions
from seesay.decoding.hypothesis import Hypothesis
from seesay.decoding.rules import TokenRules, token_rules
from seesay.errors import ImageError
from seesay.images import Preprocessing, load_pixels, resize_image
from seesay.prefetch import prefetch
from seesay.tokenizer import Tokenizer

Picture = str | Path | Image.Image
"""What can be captioned: a path, an http(s) URL, or an opened picture."""

Views = tuple[NDArray[np.uint8], ...]
"""A picture as each encoder of a captioner is shown it."""


@dataclass(frozen=True)
class Caption:
    """What the model says of a picture, with its evidence.

    Attributes:
        text: the caption.
        words: the same, word by word.
        log_probs: natural log-probability of each word.
        end_log_prob: that of the end after them, which the score counts too.
        score: what the search maximised: the sum of all these log-probabilities (those of repeated words times
            `repetition_penalty`), in a beam search divided by (words + 1) ** `length_penalty`.
        finished: False if the caption was cut at the maximum length.
        attention: where the model looked at each word, (T, N), rows summing to 1; None if not asked for.
        grid: (rows, columns) of the N regions, None where they form no grid.
        alternatives: the other captions asked for by `num_captions`, best first; none of them has alternatives.
    """

    text: str
    words: tuple[str, ...]
    log_probs: tuple[float, ...]
    end_log_prob: float
    score: float
    finished: bool
    attention: NDArray[np.float32] | None = None
    grid: tuple[int, int] | None = None
    alternatives: tuple["Caption", ...] = ()

    @property
    def probability(self) -> float:
        """Probability (0..1) of the words, each given those before it."""
        return float(np.exp(sum(self.log_probs)))


class PictureCaptioner:
    """The way from pictures to captions; a captioner fills in `_preprocessing` and `_caption_pixels`.

    Args:
        config: what it was trained with; of it the decoding options are read.
        tokenizer: its vocabulary.
        longest: words of a caption, at most, where no option says.
        grid: (rows, columns) of the regions, None where they form no grid.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, longest: int, grid: tuple[int, int] | None) -> None:
        self.config, self.tokenizer = config, tokenizer
        self._longest, self._grid = longest, grid
        self._latest_rules: tuple[DecodingOptions, TokenRules] | None = None

    def options(self, options: DecodingOptions | None = None) -> DecodingOptions:
        """Returns the run's decoding options, or the given ones, with the maximum length filled in."""
        chosen = options or self.config.decoding
        length = chosen.max_length or self.config.decoding.max_length or self._longest
        return replace(chosen, max_length=length)

    @overload
    def caption(  # type: ignore[overload-overlap]  # a str is a sequence of str too; the first form wins
        self, pictures: Picture, options: DecodingOptions | None = None, *, attention: bool = False
    ) -> Caption: ...

    @overload
    def caption(
        self, pictures: Sequence[Picture], options: DecodingOptions | None = None, *, attention: bool = False
    ) -> list[Caption]: ...

    def caption(
        self,
        pictures: Picture | Sequence[Picture],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
    ) -> Caption | list[Caption]:
        """Returns the caption of a picture, or of each of several.

        Args:
            pictures: a path, URL or opened picture, or a sequence of these.
            options: how to search; None = as the run says. With `num_captions` above 1 the others are the
                caption's `alternatives`.
            attention: keep where the model looked at each word.

        Raises:
            ImageError: a picture cannot be read; its name and the reason are in the message.
            ConfigError: the model was trained on imported or joined features and has no encoder of its own; or the
                options cannot be kept, such as a required word outside the vocabulary.
        """
        if isinstance(pictures, (str, Path, Image.Image)):
            return self.caption([pictures], options, attention=attention)[0]
        results = []
        for _, found in self.caption_each(pictures, options, attention=attention):
            if isinstance(found, ImageError):
                raise found
            results.append(found)
        return results

    def caption_each(
        self,
        pictures: Sequence[Picture],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        batch_size: int = 32,
        workers: int = 2,
    ) -> Iterator[tuple[Picture, Caption | ImageError]]:
        """Yields every picture with its caption, or with the error that kept it from being read, in order."""
        loaded = prefetch(self._load, pictures, workers, ahead=2 * batch_size)
        while batch := list(islice(loaded, batch_size)):
            pixels = [found for _, found in batch if not isinstance(found, ImageError)]
            names = [picture_name(picture, found) for picture, found in batch if not isinstance(found, ImageError)]
            captions = iter(self._caption_pixels(pixels, names, options, attention) if pixels else [])
            for picture, found in batch:
                yield picture, found if isinstance(found, ImageError) else next(captions)

    def _preprocessing(self) -> Preprocessing:
        """Returns how a picture becomes what the encoder is shown."""
        raise NotImplementedError

    def _caption_pixels(
        self, pixels: Sequence[Views], names: Sequence[str], options: DecodingOptions | None, attention: bool
    ) -> list[Caption]:
        """Returns the captions of a batch of pictures as the encoders are shown them."""
        raise NotImplementedError

    def _load(self, picture: Picture) -> tuple[Picture, Views | ImageError]:
        preprocessing = self._preprocessing()
        try:
            if isinstance(picture, Image.Image):
                return picture, (resize_image(picture, preprocessing),)
            return picture, (load_pixels(picture, preprocessing),)
        except ImageError as error:
            return picture, error

    def _rules(self, options: DecodingOptions) -> TokenRules:
        """Returns the options' words and phrases in ids; what is wrong with them is told once, not in every batch."""
        if self._latest_rules is None or self._latest_rules[0] != options:
            self._latest_rules = options, token_rules(options, self.tokenizer)
        return self._latest_rules[1]

    def _captions(self, found: Sequence[Sequence[Hypothesis]]) -> list[Caption]:
        """Returns the first hypothesis of each picture as its caption, and the others as alternatives to it."""
        captions = []
        for hypotheses in found:
            best, *others = map(self._describe, hypotheses)
            captions.append(replace(best, alternatives=tuple(others)))
        return captions

    def _describe(self, hypothesis: Hypothesis) -> Caption:
        tokenizer, words = self.tokenizer, len(hypothesis.tokens)
        maps = hypothesis.attention
        return Caption(
            text=tokenizer.decode(hypothesis.tokens),
            words=tuple(tokenizer.words(hypothesis.tokens)),
            log_probs=hypothesis.log_probs[:words],
            end_log_prob=hypothesis.log_probs[words],
            score=hypothesis.score,
            finished=hypothesis.finished,
            attention=None if maps is None else maps[:words],
            grid=self._grid,
        )


def picture_name(picture: Picture, views: Views) -> str:
    """Returns what sampling draws its randomness from: the path, or what an opened picture shows."""
    return hashlib.sha256(views[0].data).hexdigest() if isinstance(picture, Image.Image) else str(picture)
