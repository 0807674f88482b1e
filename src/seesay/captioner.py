"""`Captioner`: a trained model with everything a picture needs, from file to sentence."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from seesay.checkpoint import Run, load_run, load_weights
from seesay.config import DecodingOptions
from seesay.decoding import Hypothesis, SearchTrace, token_rules
from seesay.decoding.engine import searching
from seesay.decoding.likely import LikelyWords, likely_words
from seesay.decoding.stepping import Steps, run_alone
from seesay.devices import choose_device
from seesay.errors import CheckpointError, ConfigError, ImageError
from seesay.features.extraction import round_features
from seesay.images import load_pixels, resize_image
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.encoders import build_encoder
from seesay.models.protocol import Decoder, DecoderState
from seesay.prefetch import prefetch
from seesay.sources import PictureBytes
from seesay.tokenizer import END_ID

Picture = str | Path | PictureBytes | Image.Image
"""What can be captioned: a path, an http(s) URL, a file in memory, or an opened picture."""

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


class Captioner:
    """A trained captioner.

    Attributes:
        run: where it comes from: configuration, vocabulary, metadata.
        model: the network, in evaluation mode.
    """

    def __init__(self, run: Run, model: CaptionModel, device: torch.device) -> None:
        self.run = run
        self.model = model
        self.device = device
        # What is wrong with the words of the options is told once, not in every batch.
        self._rules = functools.lru_cache(maxsize=_KEPT_RULES)(lambda options: token_rules(options, run.tokenizer))

    @classmethod
    def load(cls, model: str | Path | Sequence[str | Path], device: str = "auto") -> "Captioner":
        """Returns the captioner of a run folder, or of several, which then speak as one.

        Args:
            model: the run folder; or several of the same vocabulary, for a `CaptionerEnsemble`.
            device: auto, cpu, cuda or mps.

        Raises:
            ConfigError: the runs have different vocabularies.
            CheckpointError: no run there, or one that is damaged or whose encoder has changed.
            EncoderError: the encoder's weights cannot be had.
        """
        if not isinstance(model, (str, Path)):
            from seesay.captioner_ensemble import CaptionerEnsemble

            members = [cls.load(each, device) for each in model]
            return members[0] if len(members) == 1 else CaptionerEnsemble(members)
        run = load_run(model)
        encoder = None
        if "encoder" in run.info.features:
            stored = run.info.encoder_stored  # then the weights come from the run, and all else from its metadata
            encoder = build_encoder(run.config.encoder, identity=run.info.features if stored else None)
            if not run.info.encoder_stored and encoder.identity != run.info.features:
                raise CheckpointError(
                    f"{run.folder} was trained on another version of {run.config.encoder.encoder}: "
                    f"weights {run.info.features['digest']} then, {encoder.identity['digest']} now"
                )
        network = build_model(run.config.model, run.info.vocabulary_size, run.info.feature_size)
        if run.info.encoder_stored:
            network.encoder = encoder
            load_weights(run, network)
        else:
            load_weights(run, network)
            network.encoder = encoder
        chosen = torch.device(choose_device(device))
        return cls(run, network.to(chosen).eval(), chosen)

    def options(self, options: DecodingOptions | None = None) -> DecodingOptions:
        """Returns the run's decoding options, or the given ones, with the maximum length filled in."""
        chosen = options or self.run.config.decoding
        length = chosen.max_length or self.run.config.decoding.max_length or self.run.info.max_length
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
        """Returns the caption of a picture, or of each of several.

        Args:
            pictures: a path, URL or opened picture, or a sequence of these.
            options: how to search; None = as the run says. With `num_captions` above 1 the others are the
                caption's `alternatives`.
            attention: keep where the model looked at each word.
            likely: how many of the likeliest words to give at each place; 0 = none.

        Raises:
            ImageError: a picture cannot be read; its name and the reason are in the message.
            ConfigError: the model was trained on imported or joined features and has no encoder of its own; or the
                options cannot be kept, such as a required word outside the vocabulary.
        """
        if isinstance(pictures, (str, Path, PictureBytes, Image.Image)):
            return self.caption([pictures], options, attention=attention, likely=likely)[0]
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
        """
        loaded = prefetch(self._load, pictures, workers, ahead=2 * batch_size)
        batches = iter(lambda: list(islice(loaded, batch_size)), [])
        for batch, memory, mask in prefetch(self._see_batch, batches, workers=1, ahead=1):
            names = [_name(picture, found) for picture, found in batch if not isinstance(found, ImageError)]
            captions = [] if memory is None else self._say(memory, mask, options, names, attention, likely)
            said = iter(captions)
            yield [(picture, found if isinstance(found, ImageError) else next(said)) for picture, found in batch]

    def _see_batch(
        self, batch: list[tuple[Picture, Views | ImageError]]
    ) -> tuple[list[tuple[Picture, Views | ImageError]], torch.Tensor | None, torch.Tensor | None]:
        """Returns a batch with the memory of its pictures that could be read, None where there are none."""
        pixels = [found for _, found in batch if not isinstance(found, ImageError)]
        with torch.inference_mode():
            memory, mask = self.see(pixels) if pixels else (None, None)
        return batch, memory, mask

    @torch.inference_mode()
    def caption_features(
        self,
        features: torch.Tensor,
        memory_mask: torch.Tensor | None = None,
        options: DecodingOptions | None = None,
        *,
        keys: Sequence[str] | None = None,
        attention: bool = False,
    ) -> list[Caption]:
        """Returns the captions of pictures whose features are known.

        Args:
            features: (B, N, F).
            memory_mask: (B, N), True = a real region; None = all are.
            options: how to search; None = as the run says.
            keys: a name a picture, for sampling and messages.
            attention: keep where the model looked at each word.

        Raises:
            ConfigError: not as many keys as pictures; or of an ensemble, its members look through other encoders.
            DataError: a picture has no region.
        """
        mask = None if memory_mask is None else memory_mask.to(self.device)
        memory, mask = self._remember(features.to(self.device), mask)
        return self._say(memory, mask, options, keys, attention)

    def trace(self, picture: Picture, options: DecodingOptions | None = None) -> tuple[Caption, SearchTrace]:
        """Returns a picture's caption and every candidate that the search for it looked at.

        Args:
            picture: a path, URL or opened picture.
            options: how to search; None = as the run says.

        Raises:
            ImageError: it cannot be read.
        """
        _, pixels = self._load(picture)
        if isinstance(pixels, ImageError):
            raise pixels
        trace = SearchTrace()
        return self._caption_pixels([pixels], [_name(picture, pixels)], options, False, 0, trace)[0], trace

    def prepare(self, picture: Picture) -> tuple[Views, str]:
        """Returns a picture as the encoder is shown it, and the name from which sampling draws its randomness.

        Raises:
            ImageError: it cannot be read.
            ConfigError: the model has no encoder of its own.
        """
        _, views = self._load(picture)
        if isinstance(views, ImageError):
            raise views
        return views, _name(picture, views)

    @property
    def decoder(self) -> Decoder:
        """What says the words."""
        return self.model.search

    def _remember(self, features: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns what the decoder attends to, of features (B, N, F), and its mask."""
        return self.model.remember(features), mask

    def saying(
        self,
        begin: Callable[[], DecoderState],
        memory: torch.Tensor,
        mask: torch.Tensor | None,
        options: DecodingOptions | None,
        keys: Sequence[str] | None,
        attention: bool,
        likely: int = 0,
        trace: SearchTrace | None = None,
    ) -> Steps[list[Caption]]:
        """Asks for the steps of the search for pictures' captions, and returns these (see `decoding.stepping`).

        Args:
            begin: gives the decoder's state of these pictures before the start token.
            memory: (B, N, D).
            mask: (B, N), True = may attend; None = all.
            options: how to search; None = as the run says.
            keys: a name a picture.
            attention: keep where the model looked at each word.
            likely: of the likeliest words, how many to give at each place.
            trace: told of every candidate.
        """
        options = self.options(options)
        found = yield from searching(
            begin,
            memory,
            mask,
            options,
            rules=self._rules(options),
            keys=keys,
            keep_attention=attention,
            trace=trace,
        )
        said = [[self._describe(hypothesis) for hypothesis in hypotheses] for hypotheses in found]
        if likely:
            tokens = [[hypothesis.tokens for hypothesis in hypotheses] for hypotheses in found]
            words = yield from likely_words(begin(), tokens, likely, allow_unk=options.allow_unk)
            said = [
                [replace(caption, likely=self._named(places)) for caption, places in zip(captions, rows, strict=True)]
                for captions, rows in zip(said, words, strict=True)
            ]
        return [replace(best, alternatives=tuple(others)) for best, *others in said]

    @torch.inference_mode()
    def _say(
        self,
        memory: torch.Tensor,
        mask: torch.Tensor | None,
        options: DecodingOptions | None,
        keys: Sequence[str] | None,
        attention: bool,
        likely: int = 0,
        trace: SearchTrace | None = None,
    ) -> list[Caption]:
        decoder = self.decoder
        begin = lambda: decoder.init_state(memory, mask)  # noqa: E731
        return run_alone(decoder, self.saying(begin, memory, mask, options, keys, attention, likely, trace))

    def _caption_pixels(
        self,
        pixels: Sequence[Views],
        names: Sequence[str],
        options: DecodingOptions | None,
        attention: bool,
        likely: int = 0,
        trace: SearchTrace | None = None,
    ) -> list[Caption]:
        with torch.inference_mode():
            memory, mask = self.see(pixels)
            return self._say(memory, mask, options, names, attention, likely, trace)

    def see(self, pixels: Sequence[Views]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns what the decoder attends to, of pictures, and its mask."""
        return self._remember(self._encode([view for (view,) in pixels]), None)

    def _encode(self, pixels: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        features = self.model.encode(torch.from_numpy(np.stack(pixels)).to(self.device))
        # Rounded as the store did in training.
        return round_features(features) if self.run.config.encoder.encoder_training == "cached" else features

    def _load(self, picture: Picture) -> tuple[Picture, Views | ImageError]:
        if self.model.encoder is None:
            raise ConfigError(
                f"{self.run.folder} was trained on imported or joined features and has no encoder of its own: "
                "it can be evaluated with those features, but cannot look at pictures"
            )
        preprocessing = self.model.encoder.preprocessing
        try:
            if isinstance(picture, Image.Image):
                return picture, (resize_image(picture, preprocessing),)
            return picture, (load_pixels(picture, preprocessing),)
        except ImageError as error:
            return picture, error

    def _describe(self, hypothesis: Hypothesis) -> Caption:
        tokenizer, words = self.run.tokenizer, len(hypothesis.tokens)
        maps = hypothesis.attention
        return Caption(
            text=tokenizer.decode(hypothesis.tokens),
            words=tuple(tokenizer.words(hypothesis.tokens)),
            log_probs=hypothesis.log_probs[:words],
            end_log_prob=hypothesis.log_probs[words],
            score=hypothesis.score,
            finished=hypothesis.finished,
            attention=None if maps is None else maps[:words],
            grid=self.run.info.grid,
        )

    def _named(self, places: list[LikelyWords]) -> tuple[tuple[tuple[str | None, float], ...], ...]:
        words = self.run.tokenizer.vocabulary
        return tuple(
            tuple((None if token == END_ID else words[token], value) for token, value in place) for place in places
        )


def _name(picture: Picture, views: Views) -> str:
    """Returns what sampling draws its randomness from: the path, or what a picture without one shows."""
    return str(picture) if isinstance(picture, (str, Path)) else hashlib.sha256(views[0].data).hexdigest()
