"""`SearchCaptioner`, the base of captioners that run seesay's own search. Does not need torch."""

import functools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seesay.captioners.base import Captioner
from seesay.captioners.caption import DEFAULT_SETTINGS, Caption, CaptionSettings
from seesay.config import Config, DecodingOptions
from seesay.decoding import GenerationRequest, generate
from seesay.decoding.constraints import token_constraints
from seesay.decoding.generate import StepDecoder, keep_images
from seesay.decoding.hypothesis import Hypothesis
from seesay.decoding.top_tokens import TopTokens, find_top_tokens
from seesay.decoding.trace import SearchTrace
from seesay.errors import ConfigError
from seesay.images.loading import ImageInput, Preprocessing, load_pixels
from seesay.retrieval.index import RetrievalIndex
from seesay.retrieval.rerank import rerank, resolve_rerank, search_options
from seesay.tokenizer import END_ID, Tokenizer

ModelInputs = tuple[NDArray[np.uint8], ...]
"""The preprocessed pixels of an image, (height, width, 3) per encoder of a captioner."""

_CACHED_CONSTRAINTS = 64  # sets of options whose words and phrases are cached as token ids


class SearchCaptioner(Captioner):
    """Base class of captioners that run seesay's own search; a subclass provides a decoder and an encoder.

    Args:
        config: the training configuration; its decoding options are the defaults.
        tokenizer: the tokenizer.
        longest: default maximum number of words per caption.
        grid: (rows, columns) of the regions; None if they form no grid.
    """

    _index_advice = "build one with seesay evaluate RUN DATA --tune-rerank"

    def __init__(self, config: Config, tokenizer: Tokenizer, longest: int, grid: tuple[int, int] | None) -> None:
        self.config, self.tokenizer = config, tokenizer
        self._longest, self._grid = longest, grid
        # Cached so that warnings about the options' words are logged once, not in every batch.
        self._constraints = functools.lru_cache(maxsize=_CACHED_CONSTRAINTS)(
            lambda options: token_constraints(options, tokenizer)
        )

    @property
    def run_config(self) -> Config:
        """The configuration of the run."""
        return self.config

    def describe(self) -> dict[str, Any]:
        """Return the names of decoder and encoder, the size of the vocabulary and the grid."""
        return {
            "decoder": self.config.model.decoder,
            "encoder": self.config.encoder.encoder,
            "vocabulary": len(self.tokenizer),
            "grid": self._grid,
        }

    @property
    def punctuates(self) -> bool:
        """False: the captions of a run end as its training captions do, mostly without a full stop."""
        return False

    @property
    def defaults(self) -> DecodingOptions:
        """The decoding options of the configuration."""
        return self.config.decoding

    @property
    def retrieval(self) -> RetrievalIndex | None:
        """The index of the training images; None: the captioner has none."""
        return None

    def options(self, options: DecodingOptions | None = None, prompt: str = "") -> DecodingOptions:
        """Return `options`, by default the run's, with `max_length` and the values of reranking set."""
        chosen = options or self.defaults
        if chosen.rerank != "none":
            chosen = resolve_rerank(chosen, {} if self.retrieval is None else self.retrieval.info.tuned)
        return chosen.replace(max_length=chosen.max_length or self.defaults.max_length or self._longest)

    def check(self, options: DecodingOptions) -> None:
        """Check the words of the options against the vocabulary, and that there is an index for consensus reranking.

        Raises:
            ConfigError: for example, a required word is not in the vocabulary.
        """
        self._constraints(self.options(options))
        self._require_index(options)

    def _require_index(self, options: DecodingOptions) -> None:
        if options.rerank == "consensus" and self.retrieval is None:
            raise ConfigError(
                f"decoding.rerank is consensus, but {self.name} has no index of training images; {self._index_advice}, "
                "or choose --rerank mbr"
            )

    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing that the encoder needs."""

    @property
    @abstractmethod
    def decoder(self) -> StepDecoder:
        """The decoder that generates tokens."""

    @abstractmethod
    def encode(self, inputs: Sequence[ModelInputs]) -> Any:
        """Return the decoder's state before the start token, of B images."""

    def load_inputs(self, image: ImageInput, prompt: str = "") -> ModelInputs:
        """Return the preprocessed pixels of an image."""
        return (load_pixels(image, self.preprocessing()),)

    def generate(
        self,
        encoded: Any,
        names: Sequence[str] | None,
        settings: CaptionSettings = DEFAULT_SETTINGS,
        *,
        trace: SearchTrace | None = None,
    ) -> list[Caption]:
        """Return the captions of encoded images; see `Captioner.generate`.

        Args:
            encoded: the decoder's state from `encode`.
            names: a name per image; None: their positions.
            settings: what to generate.
            trace: records every candidate of the search.

        Raises:
            ConfigError: consensus reranking without an index of training images.
        """
        options = self.options(settings.options)
        self._require_index(options)
        state, pooled = self._split(encoded)
        found = generate(
            self.decoder,
            state,
            GenerationRequest(
                search_options(options),
                self._constraints(options),
                names,
                settings.attention,
                trace,
                required=options.num_return_sequences,
            ),
        )
        if options.rerank != "none":
            index = self.retrieval
            query = None if index is None or pooled is None else index.query(pooled, names)
            found = [each[: options.num_return_sequences] for each in rerank(found, options, index, query)]
        captions = self._captions(found)
        if not settings.top_tokens:
            return captions
        tokens = [[hypothesis.tokens for hypothesis in hypotheses] for hypotheses in found]
        words = find_top_tokens(self.decoder, state, tokens, settings.top_tokens, allow_unk=options.allow_unk)
        return [self._with_top_tokens(caption, rows) for caption, rows in zip(captions, words, strict=True)]

    def take(self, encoded: Any, places: Sequence[int]) -> Any:
        """Return the decoder's state of the images at some positions."""
        return keep_images(encoded, places)

    def _split(self, encoded: Any) -> tuple[Any, NDArray[np.float32] | None]:
        """Return the decoder's state, and the pooled features (B, F) of the images if there is an index."""
        return encoded, None

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

    def _captions(self, found: Sequence[Sequence[Hypothesis]]) -> list[Caption]:
        """Return the first hypothesis of each image as its caption, the others as alternatives."""
        captions = []
        for hypotheses in found:
            best, *others = map(self._describe, hypotheses)
            captions.append(replace(best, alternatives=tuple(others)))
        return captions

    def _image_attention(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weights (T, N) of the image's regions, of the weights of all that was attended to."""
        return weights

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
            attention=None if maps is None else self._image_attention(maps[:words]),
            grid=self._grid,
        )
