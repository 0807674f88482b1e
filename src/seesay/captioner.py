"""`Captioner`: a trained model with everything a picture needs, from file to sentence."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
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
from seesay.decoding import Hypothesis, SearchTrace, TokenRules, decode, token_rules
from seesay.devices import choose_device
from seesay.errors import CheckpointError, ConfigError, ImageError
from seesay.features.extraction import round_features
from seesay.images import load_pixels, resize_image
from seesay.models.captioning import CaptionModel, build_model
from seesay.models.encoders import build_encoder
from seesay.models.protocol import Decoder
from seesay.prefetch import prefetch

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
        self._latest_rules: tuple[DecodingOptions, TokenRules] | None = None

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
        pictures: Iterable[Picture],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
        batch_size: int = 32,
        workers: int = 2,
    ) -> Iterator[tuple[Picture, Caption | ImageError]]:
        """Yields every picture with its caption, or with the error that kept it from being read, in order."""
        for batch in self.caption_batches(
            pictures, options, attention=attention, batch_size=batch_size, workers=workers
        ):
            yield from batch

    def caption_batches(
        self,
        pictures: Iterable[Picture],
        options: DecodingOptions | None = None,
        *,
        attention: bool = False,
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
            batch_size: pictures the network sees at once.
            workers: threads that open pictures.
        """
        loaded = prefetch(self._load, pictures, workers, ahead=2 * batch_size)
        batches = iter(lambda: list(islice(loaded, batch_size)), [])
        for batch, memory, mask in prefetch(self._see_batch, batches, workers=1, ahead=1):
            names = [_name(picture, found) for picture, found in batch if not isinstance(found, ImageError)]
            with torch.inference_mode():
                captions = [] if memory is None else self._say(memory, mask, options, names, attention)
            said = iter(captions)
            yield [(picture, found if isinstance(found, ImageError) else next(said)) for picture, found in batch]

    def _see_batch(
        self, batch: list[tuple[Picture, Views | ImageError]]
    ) -> tuple[list[tuple[Picture, Views | ImageError]], torch.Tensor | None, torch.Tensor | None]:
        """Returns a batch with the memory of its pictures that could be read, None where there are none."""
        pixels = [found for _, found in batch if not isinstance(found, ImageError)]
        with torch.inference_mode():
            memory, mask = self._see(pixels) if pixels else (None, None)
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
        return self._caption_pixels([pixels], [_name(picture, pixels)], options, False, trace)[0], trace

    @property
    def _decoder(self) -> Decoder:
        return self.model.search

    def _remember(self, features: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns what the decoder attends to, of features (B, N, F), and its mask."""
        return self.model.remember(features), mask

    def _say(
        self,
        memory: torch.Tensor,
        mask: torch.Tensor | None,
        options: DecodingOptions | None,
        keys: Sequence[str] | None,
        attention: bool,
        trace: SearchTrace | None = None,
    ) -> list[Caption]:
        options = self.options(options)
        found = decode(
            self._decoder,
            memory,
            mask,
            options,
            rules=self._rules(options),
            keys=keys,
            keep_attention=attention,
            trace=trace,
        )
        captions = []
        for hypotheses in found:
            best, *others = map(self._describe, hypotheses)
            captions.append(replace(best, alternatives=tuple(others)))
        return captions

    def _rules(self, options: DecodingOptions) -> TokenRules:
        """Returns the options' words and phrases in ids; what is wrong with them is told once, not in every batch."""
        if self._latest_rules is None or self._latest_rules[0] != options:
            self._latest_rules = options, token_rules(options, self.run.tokenizer)
        return self._latest_rules[1]

    def _caption_pixels(
        self,
        pixels: Sequence[Views],
        names: Sequence[str],
        options: DecodingOptions | None,
        attention: bool,
        trace: SearchTrace | None = None,
    ) -> list[Caption]:
        with torch.inference_mode():
            memory, mask = self._see(pixels)
            return self._say(memory, mask, options, names, attention, trace)

    def _see(self, pixels: Sequence[Views]) -> tuple[torch.Tensor, torch.Tensor | None]:
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


def _name(picture: Picture, views: Views) -> str:
    """Returns what sampling draws its randomness from: the path, or what an opened picture shows."""
    return hashlib.sha256(views[0].data).hexdigest() if isinstance(picture, Image.Image) else str(picture)
