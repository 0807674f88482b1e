"""What every captioner shares, whatever computes its networks: pictures in, captions out. Needs no torch."""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seesay.config import Config, DecodingOptions
from seesay.decoding.hypothesis import Hypothesis
from seesay.decoding.rules import token_rules
from seesay.errors import ConfigError, ImageError
from seesay.images import Picture, Preprocessing, load_pixels
from seesay.prefetch import prefetch
from seesay.sources import PictureBytes
from seesay.tokenizer import Tokenizer

Views = tuple[NDArray[np.uint8], ...]
"""A picture as each encoder of a captioner is shown it."""

_KEPT_RULES = 64  # sets of options whose words and phrases are kept in ids


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
        likely: the likeliest words at each place and for the end after them, each with its natural log-probability
            given the words before, likeliest first; the end is None, not a word. Empty if not asked for.
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
    likely: tuple[tuple[tuple[str | None, float], ...], ...] = ()

    @property
    def probability(self) -> float:
        """Probability (0..1) of the words, each given those before it."""
        return float(np.exp(sum(self.log_probs)))


class PictureCaptioner:
    """The way from pictures to captions; a captioner fills in `preprocessing`, `see` and `say`.

    Args:
        config: what it was trained with; of it the decoding options are read.
        tokenizer: its vocabulary.
        longest: words of a caption, at most, where no option says.
        grid: (rows, columns) of the regions, None where they form no grid.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, longest: int, grid: tuple[int, int] | None) -> None:
        self.config, self.tokenizer = config, tokenizer
        self._longest, self._grid = longest, grid
        # What is wrong with the words of the options is told once, not in every batch.
        self._rules = functools.lru_cache(maxsize=_KEPT_RULES)(lambda options: token_rules(options, tokenizer))

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the models come from; empty where that is unknown."""
        return ()

    def options(self, options: DecodingOptions | None = None) -> DecodingOptions:
        """Returns the run's decoding options, or the given ones, with the maximum length filled in."""
        chosen = options or self.config.decoding
        length = chosen.max_length or self.config.decoding.max_length or self._longest
        return replace(chosen, max_length=length)

    def check(self, options: DecodingOptions) -> None:
        """Refuses options whose words the vocabulary cannot keep, before anything is searched for.

        Raises:
            ConfigError: such as a required word that is not in the vocabulary.
        """
        self._rules(self.options(options))

    @overload
    def caption(  # type: ignore[overload-overlap]  # a str is a sequence of str too; the first form wins
        self, pictures: Picture, options: DecodingOptions | None = None, *, attention: bool = False, likely: int = 0
    ) -> Caption: ...

    @overload
    def caption(
        self,
        pictures: Sequence[Picture],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        likely: int = 0,
    ) -> list[Caption]: ...

    def caption(
        self,
        pictures: Picture | Sequence[Picture],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        likely: int = 0,
    ) -> Caption | list[Caption]:
        """Returns the caption of an image, or of each of several.

        Args:
            pictures: a path, URL, bytes of a file, opened image or NumPy array of uint8 (height, width, 3) (see
                `seesay.images.Picture`), or a sequence of these.
            options: how to search; None = as the run says. With `num_captions` above 1 the others are the
                caption's `alternatives`.
            attention: keep where the model looked at each word.
            likely: how many of the likeliest words to give at each place; 0 = none.

        Raises:
            ImageError: a picture cannot be read; its name and the reason are in the message.
            ConfigError: the model was trained on imported or joined features and has no encoder of its own; or the
                options cannot be kept, such as a required word outside the vocabulary.
        """
        if isinstance(pictures, (str, Path, bytes, PictureBytes, Image.Image, np.ndarray)):
            # In this thread: there is nothing to overlap, and two threads' sets of workers would wait for each other.
            views, name = self.prepare(pictures)
            return self.say(self.see([views]), [name], options, attention=attention, likely=likely)[0]
        results = []
        for _, found in self.caption_each(pictures, options, attention=attention, likely=likely):
            if isinstance(found, ImageError):
                raise found
            results.append(found)
        return results

    def caption_each(
        self,
        pictures: Iterable[Picture],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        likely: int = 0,
        batch_size: int = 32,
        workers: int = 2,
    ) -> Iterator[tuple[Picture, Caption | ImageError]]:
        """Yields every picture with its caption, or with the error that kept it from being read, in order."""
        for batch in self.caption_batches(
            pictures, options, attention=attention, likely=likely, batch_size=batch_size, workers=workers
        ):
            yield from batch

    def caption_batches(
        self,
        pictures: Iterable[Picture],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        likely: int = 0,
        batch_size: int = 32,
        workers: int = 2,
    ) -> Iterator[list[tuple[Picture, Caption | ImageError]]]:
        """Yields the pictures of a batch with their captions, or the errors that kept them from being read, in order.

        Opening pictures, encoding and the search run beside each other: while a batch is searched, the next one is
        encoded, and the pictures after it are opened.

        Args:
            pictures: what to caption.
            options: how to search; None = as the run says.
            attention: keep where the model looked at each word.
            likely: how many of the likeliest words to give at each place; 0 = none.
            batch_size: pictures the network sees at once.
            workers: threads that open pictures.

        Raises:
            ConfigError: `batch_size` is none.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        loaded = prefetch(self._load, pictures, workers, ahead=2 * batch_size)
        batches = iter(lambda: list(islice(loaded, batch_size)), [])
        for batch, seen in prefetch(self._see_batch, batches, workers=1, ahead=1):
            names = [picture_name(picture, found) for picture, found in batch if not isinstance(found, ImageError)]
            captions = self.say(seen, names, options, attention=attention, likely=likely) if names else []
            said = iter(captions)
            yield [(picture, found if isinstance(found, ImageError) else next(said)) for picture, found in batch]

    def prepare(self, picture: Picture) -> tuple[Views, str]:
        """Returns a picture as the encoder is shown it, and the name from which sampling draws its randomness.

        Raises:
            ImageError: it cannot be read.
            ConfigError: the model has no encoder of its own.
        """
        _, views = self._load(picture)
        if isinstance(views, ImageError):
            raise views
        return views, picture_name(picture, views)

    def preprocessing(self) -> Preprocessing:
        """Returns how a picture becomes what the encoder is shown."""
        raise NotImplementedError

    def see(self, pixels: Sequence[Views]) -> Any:
        """Returns what the decoder needs of pictures, as `say` takes it."""
        raise NotImplementedError

    def say(
        self,
        seen: Any,
        names: Sequence[str] | None,
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        likely: int = 0,
    ) -> list[Caption]:
        """Returns the captions of pictures.

        Args:
            seen: from `see`.
            names: from which sampling draws its randomness, and for messages.
            options: how to search; None = as the run says.
            attention: keep where the model looked at each word.
            likely: how many of the likeliest words to give at each place; 0 = none.
        """
        raise NotImplementedError

    def _see_batch(
        self, batch: list[tuple[Picture, Views | ImageError]]
    ) -> tuple[list[tuple[Picture, Views | ImageError]], Any]:
        """Returns a batch with what was seen of its pictures that could be read, None where there are none."""
        pixels = [found for _, found in batch if not isinstance(found, ImageError)]
        return batch, self.see(pixels) if pixels else None

    def _load(self, picture: Picture) -> tuple[Picture, Views | ImageError]:
        preprocessing = self.preprocessing()
        try:
            return picture, (load_pixels(picture, preprocessing),)
        except ImageError as error:
            return picture, error

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
    """Returns what sampling draws its randomness from: the path, or what a picture without one shows."""
    return str(picture) if isinstance(picture, (str, Path)) else hashlib.sha256(views[0].data).hexdigest()
