"""What every captioner shares, whatever computes its networks: images in, captions out. Needs no torch."""

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
from seesay.images import ImageInput, Preprocessing, load_pixels
from seesay.prefetch import prefetch
from seesay.sources import ImageBytes
from seesay.tokenizer import END_ID, Tokenizer

ModelInputs = tuple[NDArray[np.uint8], ...]
"""An image as each encoder of a captioner is shown it."""

_KEPT_RULES = 64  # sets of options whose words and phrases are kept in ids


@dataclass(frozen=True)
class Caption:
    """What the model says of an image, with its evidence.

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
        alternatives: the other captions asked for by `num_return_sequences`, best first; none of them has alternatives.
        top_tokens: the likeliest words at each place and for the end after them, each with its natural log-probability
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
    top_tokens: tuple[tuple[tuple[str | None, float], ...], ...] = ()

    @property
    def probability(self) -> float:
        """Probability (0..1) of the words, each given those before it."""
        return float(np.exp(sum(self.log_probs)))


class Captioner:
    """The way from images to captions; a captioner provides `preprocessing`, `decoder` and `encode`.

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
        self._rules = functools.lru_cache(maxsize=_KEPT_RULES)(lambda options: token_constraints(options, tokenizer))

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the models come from; empty where that is unknown."""
        return ()

    def options(self, options: DecodingOptions | None = None) -> DecodingOptions:
        """Returns the run's decoding options, or the given ones, with the maximum length filled in."""
        chosen = options or self.config.decoding
        length = chosen.max_length or self.config.decoding.max_length or self._longest
        return chosen.replace(max_length=length)

    def check(self, options: DecodingOptions) -> None:
        """Refuses options whose words the vocabulary cannot keep, before anything is searched for.

        Raises:
            ConfigError: such as a required word that is not in the vocabulary.
        """
        self._rules(self.options(options))

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
        """Returns the caption of an image, or of each of several.

        Args:
            images: a path, URL, bytes of a file, opened image or NumPy array of uint8 (height, width, 3) (see
                `seesay.images.ImageInput`), or a sequence of these.
            options: how to search; None = as the run says. With `num_return_sequences` above 1 the others are the
                caption's `alternatives`.
            attention: keep where the model looked at each word.
            top_tokens: how many of the likeliest words to give at each place; 0 = none.

        Raises:
            ImageError: an image cannot be read; its name and the reason are in the message.
            ConfigError: the model was trained on imported or joined features and has no encoder of its own; or the
                options cannot be kept, such as a required word outside the vocabulary.
        """
        if isinstance(images, (str, Path, bytes, ImageBytes, Image.Image, np.ndarray)):
            # In this thread: there is nothing to overlap, and two threads' sets of workers would wait for each other.
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
        """Yields every image with its caption, or with the error that kept it from being read, in order."""
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
        """Yields the images of a batch with their captions, or the errors that kept them from being read, in order.

        Opening images, encoding and the search run beside each other: while a batch is searched, the next one is
        encoded, and the images after it are opened.

        Args:
            images: what to caption.
            options: how to search; None = as the run says.
            attention: keep where the model looked at each word.
            top_tokens: how many of the likeliest words to give at each place; 0 = none.
            batch_size: images the network sees at once.
            workers: threads that open images.

        Raises:
            ConfigError: `batch_size` is none.
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
        """Returns an image as the encoder is shown it, and the name from which sampling draws its randomness.

        Raises:
            ImageError: it cannot be read.
            ConfigError: the model has no encoder of its own.
        """
        _, model_inputs = self._load(image)
        if isinstance(model_inputs, ImageError):
            raise model_inputs
        return model_inputs, image_name(image, model_inputs)

    def preprocessing(self) -> Preprocessing:
        """Returns how an image becomes what the encoder is shown."""
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
            names: of the images, for messages and the random numbers of sampling; None = their positions.
            options: how captions are searched for; None = the run's.
            attention: return attention weights.
            top_tokens: most probable words to return per position; 0 = none.
            trace: records every candidate of the search.
        """
        options = self.options(options)
        found = generate(self.decoder, state, GenerationRequest(options, self._rules(options), names, attention, trace))
        captions = self._captions(found)
        if not top_tokens:
            return captions
        tokens = [[hypothesis.tokens for hypothesis in hypotheses] for hypotheses in found]
        words = find_top_tokens(self.decoder, state, tokens, top_tokens, allow_unk=options.allow_unk)
        return [self._with_top_tokens(caption, rows) for caption, rows in zip(captions, words, strict=True)]

    def _with_top_tokens(self, caption: Caption, rows: Sequence[list[TopTokens]]) -> Caption:
        """Return a caption with the most probable words of its positions, and its alternatives with theirs."""
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
        """Return a batch with the state of its images that could be read, None where there are none."""
        pixels = [found for _, found in batch if not isinstance(found, ImageError)]
        return batch, self.encode(pixels) if pixels else None

    def _load(self, image: ImageInput) -> tuple[ImageInput, ModelInputs | ImageError]:
        preprocessing = self.preprocessing()
        try:
            return image, (load_pixels(image, preprocessing),)
        except ImageError as error:
            return image, error

    def _captions(self, found: Sequence[Sequence[Hypothesis]]) -> list[Caption]:
        """Returns the first hypothesis of each image as its caption, and the others as alternatives to it."""
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
    """Returns what sampling draws its randomness from: the path, or what an image without one shows."""
    return str(image) if isinstance(image, (str, Path)) else hashlib.sha256(model_inputs[0].data).hexdigest()
