"""`Captioner`, the base of all captioners, and `Caption`, its result. Does not need torch."""

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
from seesay.decoding import GenerationRequest, generate
from seesay.decoding.constraints import token_constraints
from seesay.decoding.generate import StepDecoder
from seesay.decoding.hypothesis import Hypothesis
from seesay.decoding.top_tokens import TopTokens, find_top_tokens
from seesay.decoding.trace import SearchTrace
from seesay.errors import ConfigError, ImageError
from seesay.images.loading import ImageInput, Preprocessing, load_pixels
from seesay.images.prefetch import prefetch
from seesay.images.sources import ImageBytes
from seesay.tokenizer import END_ID, Tokenizer

ModelInputs = tuple[NDArray[np.uint8], ...]
"""The preprocessed pixels of an image, (height, width, 3) per encoder of a captioner."""

_CACHED_CONSTRAINTS = 64  # sets of options whose words and phrases are cached as token ids


@dataclass(frozen=True)
class Caption:
    """The caption of an image, with its scores.

    Attributes:
        text: the caption.
        words: the words of the caption.
        log_probs: natural log-probability of each word.
        end_log_prob: natural log-probability of the end token, which is part of the score.
        score: the sum of these log-probabilities (those of repeated words times `repetition_penalty`), in beam search
            divided by (words + 1) ** `length_penalty`; the search maximises it.
        finished: False if the caption was truncated at the maximum length.
        attention: attention weights per word, (T, N), rows sum to 1; None if not requested.
        grid: (rows, columns) of the N regions; None if they form no grid.
        alternatives: the other captions requested by `num_return_sequences`, best first; theirs are empty.
        top_tokens: the most probable words at each position and at the end, with their natural log-probabilities
            conditioned on the previous words, most probable first; None stands for the end token. Empty if not
            requested.
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
    top_tokens: tuple[tuple[tuple[str | None, float], ...], ...] = ()

    @property
    def probability(self) -> float:
        """Probability (0..1) of the words, without the end token."""
        return float(np.exp(sum(self.log_probs)))


class Captioner:
    """Base class of captioners; a subclass provides `preprocessing`, `decoder` and `encode`.

    Args:
        config: the training configuration; its decoding options are the defaults.
        tokenizer: the tokenizer.
        longest: default maximum number of words per caption.
        grid: (rows, columns) of the regions; None if they form no grid.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, longest: int, grid: tuple[int, int] | None) -> None:
        self.config, self.tokenizer = config, tokenizer
        self._longest, self._grid = longest, grid
        # Cached so that warnings about the options' words are logged once, not in every batch.
        self._constraints = functools.lru_cache(maxsize=_CACHED_CONSTRAINTS)(
            lambda options: token_constraints(options, tokenizer)
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of the models; empty if unknown."""
        return ()

    def options(self, options: DecodingOptions | None = None) -> DecodingOptions:
        """Return `options`, by default the run's, with `max_length` set."""
        chosen = options or self.config.decoding
        length = chosen.max_length or self.config.decoding.max_length or self._longest
        return chosen.replace(max_length=length)

    def check(self, options: DecodingOptions) -> None:
        """Check the words of the options against the vocabulary before a search.

        Raises:
            ConfigError: for example, a required word is not in the vocabulary.
        """
        self._constraints(self.options(options))

    @overload
    def caption(  # type: ignore[overload-overlap]  # a str is a sequence of str too; the first form wins
        self,
        images: ImageInput,
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
    ) -> Caption: ...

    @overload
    def caption(
        self,
        images: Sequence[ImageInput],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
    ) -> list[Caption]: ...

    def caption(
        self,
        images: ImageInput | Sequence[ImageInput],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
    ) -> Caption | list[Caption]:
        """Return the caption of an image, or the captions of several.

        Args:
            images: a path, URL, bytes of a file, opened image or NumPy array of uint8 (height, width, 3) (see
                `seesay.images.loading.ImageInput`), or a sequence of these.
            options: decoding options; None: the run's. With `num_return_sequences` above 1 the other captions are
                `alternatives` of the first.
            attention: return attention weights.
            top_tokens: most probable words to return per position; 0: none.

        Raises:
            ImageError: an image cannot be read; the message has its name and the reason.
            ConfigError: the model was trained on imported or joined features and has no encoder; or the options cannot
                be satisfied, for example a required word outside the vocabulary.
        """
        if isinstance(images, (str, Path, bytes, ImageBytes, Image.Image, np.ndarray)):
            # In this thread: there is nothing to overlap, and the thread pools of two threads would contend.
            model_inputs, name = self.prepare(images)
            return self.generate(
                self.encode([model_inputs]), [name], options, attention=attention, top_tokens=top_tokens
            )[0]
        results = []
        for _, found in self.caption_each(images, options, attention=attention, top_tokens=top_tokens):
            if isinstance(found, ImageError):
                raise found
            results.append(found)
        return results

    def caption_each(
        self,
        images: Iterable[ImageInput],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
        batch_size: int = 32,
        workers: int = 2,
    ) -> Iterator[tuple[ImageInput, Caption | ImageError]]:
        """Yield every image with its caption or its `ImageError`, in order; see `caption_batches`."""
        for batch in self.caption_batches(
            images, options, attention=attention, top_tokens=top_tokens, batch_size=batch_size, workers=workers
        ):
            yield from batch

    def caption_batches(
        self,
        images: Iterable[ImageInput],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
        batch_size: int = 32,
        workers: int = 2,
    ) -> Iterator[list[tuple[ImageInput, Caption | ImageError]]]:
        """Yield batches of images with their captions or `ImageError`s, in order.

        Loading, encoding and decoding overlap: while a batch is decoded, the next one is encoded and the images after
        it are loaded.

        Args:
            images: the images.
            options: decoding options; None: the run's.
            attention: return attention weights.
            top_tokens: most probable words to return per position; 0: none.
            batch_size: images per batch.
            workers: threads that load images.

        Raises:
            ConfigError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        loaded = prefetch(self._load, images, workers, ahead=2 * batch_size)
        batches = iter(lambda: list(islice(loaded, batch_size)), [])
        for batch, state in prefetch(self._encode_batch, batches, workers=1, ahead=1):
            names = [image_name(image, found) for image, found in batch if not isinstance(found, ImageError)]
            captions: Iterator[Caption] = iter(())
            if names:
                captions = iter(self.generate(state, names, options, attention=attention, top_tokens=top_tokens))
            yield [(image, found if isinstance(found, ImageError) else next(captions)) for image, found in batch]

    def prepare(self, image: ImageInput) -> tuple[ModelInputs, str]:
        """Return the preprocessed pixels of an image and the name that seeds its samples.

        Raises:
            ImageError: the image cannot be read.
            ConfigError: the model has no encoder.
        """
        _, model_inputs = self._load(image)
        if isinstance(model_inputs, ImageError):
            raise model_inputs
        return model_inputs, image_name(image, model_inputs)

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing that the encoder needs."""
        raise NotImplementedError

    @property
    def decoder(self) -> StepDecoder:
        """The decoder that generates tokens."""
        raise NotImplementedError

    def encode(self, pixels: Sequence[ModelInputs]) -> Any:
        """Return the decoder's state before the start token, of B images."""
        raise NotImplementedError

    def generate(
        self,
        state: Any,
        names: Sequence[str] | None,
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        top_tokens: int = 0,
        trace: SearchTrace | None = None,
    ) -> list[Caption]:
        """Return the captions of encoded images.

        Args:
            state: from `encode`.
            names: a name per image for messages and the seeds of sampling; None: their positions.
            options: decoding options; None: the run's.
            attention: return attention weights.
            top_tokens: most probable words to return per position; 0: none.
            trace: records every candidate of the search.
        """
        options = self.options(options)
        found = generate(
            self.decoder, state, GenerationRequest(options, self._constraints(options), names, attention, trace)
        )
        captions = self._captions(found)
        if not top_tokens:
            return captions
        tokens = [[hypothesis.tokens for hypothesis in hypotheses] for hypotheses in found]
        words = find_top_tokens(self.decoder, state, tokens, top_tokens, allow_unk=options.allow_unk)
        return [self._with_top_tokens(caption, rows) for caption, rows in zip(captions, words, strict=True)]

    def _with_top_tokens(self, caption: Caption, rows: Sequence[list[TopTokens]]) -> Caption:
        """Return a caption and its alternatives with the most probable words per position."""
        best, *others = (self._top_words(places) for places in rows)
        alternatives = (
            replace(other, top_tokens=places) for other, places in zip(caption.alternatives, others, strict=True)
        )
        return replace(caption, top_tokens=best, alternatives=tuple(alternatives))

    def _top_words(self, places: list[TopTokens]) -> tuple[tuple[tuple[str | None, float], ...], ...]:
        words = self.tokenizer.vocabulary
        return tuple(
            tuple((None if token == END_ID else words[token], value) for token, value in place) for place in places
        )

    def _encode_batch(
        self, batch: list[tuple[ImageInput, ModelInputs | ImageError]]
    ) -> tuple[list[tuple[ImageInput, ModelInputs | ImageError]], Any]:
        """Return a batch with the decoder state of its readable images; None if there are none."""
        pixels = [found for _, found in batch if not isinstance(found, ImageError)]
        return batch, self.encode(pixels) if pixels else None

    def _load(self, image: ImageInput) -> tuple[ImageInput, ModelInputs | ImageError]:
        preprocessing = self.preprocessing()
        try:
            return image, (load_pixels(image, preprocessing),)
        except ImageError as error:
            return image, error

    def _captions(self, found: Sequence[Sequence[Hypothesis]]) -> list[Caption]:
        """Return the first hypothesis of each image as its caption, the others as alternatives."""
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


def image_name(image: ImageInput, model_inputs: ModelInputs) -> str:
    """Return the name that seeds the samples of an image: its path, or a digest of its pixels."""
    return str(image) if isinstance(image, (str, Path)) else hashlib.sha256(model_inputs[0].data).hexdigest()
