"""`PretrainedCaptioner`: models of transformers behind the interface of all captioners."""

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from seesay.allocation import return_freed_memory
from seesay.captioners.base import Captioner
from seesay.captioners.caption import DEFAULT_SETTINGS, Caption, CaptionSettings
from seesay.captioners.identity import ModelIdentity
from seesay.captioners.pretrained.beam import beam_search, is_plain_beam
from seesay.captioners.pretrained.families import Family, Regions
from seesay.captioners.pretrained.splitting import BatchSplitter, HubBatch, HubInputs
from seesay.captioners.pretrained.steps import OFFSET, HubDecoder, HubState, score_attention, start
from seesay.captioners.pretrained.words import subword_constraints
from seesay.captioners.settings import ModelSettings
from seesay.checkpoint import RunRecord
from seesay.config import Config, DecodingOptions
from seesay.decoding import GenerationRequest, generate
from seesay.decoding.constraints import TokenConstraints
from seesay.decoding.deduplicate import merge_distinct, widen
from seesay.decoding.hypothesis import Hypothesis, Result
from seesay.decoding.top_tokens import find_top_tokens
from seesay.errors import ConfigError, ImageError
from seesay.images.loading import ImageInput, Preprocessing, read_image
from seesay.retrieval.rerank import rerank, resolve_rerank, search_options
from seesay.tokenizer import END_ID

logger = logging.getLogger(__name__)

MIN_SIDE = 32
"""Smaller sides are enlarged: processors of transformers fail for images of a few pixels."""
MAX_RATIO = 100
"""Longer strips are compressed to this ratio of the sides: some processors refuse them."""
MAX_SIDE = 2048
"""Images whose shorter side is at least twice as long are reduced before they are processed, which bounds memory. For
models with a fixed size the limit is twice that size instead, as for seesay's own encoders."""
_WIDENINGS = 3


@dataclass(frozen=True)
class LoadedModel:
    """A model with its processor.

    Attributes:
        model: the model, on its device.
        processor: its processor.
        identity: its name, and its commit or a digest of its folder.
        precision: of its weights.
    """

    model: Any
    processor: Any
    identity: ModelIdentity
    precision: str


class PretrainedCaptioner(Captioner):
    """A captioner of transformers.

    Args:
        loaded: the model and its processor.
        family: what is particular to its architecture.
        spec: its settings, with the prompt of the images.
        run: the run that fine-tuned it, if any.

    Attributes:
        model: the model; None after `close`.
        family: what is particular to its architecture; None after `close`.
        processor: the processor of transformers.
        tokenizer: its tokenizer.
        run: the run that fine-tuned it, if any.
        splitter: splits batches into parts that are decoded together.
    """

    def __init__(self, loaded: LoadedModel, family: Family, spec: ModelSettings, run: RunRecord | None = None) -> None:
        self.run = run
        self.model, self.family = loaded.model, family
        self.processor, self.tokenizer = loaded.processor, loaded.processor.tokenizer
        self._identity, self._precision = loaded.identity, loaded.precision
        kind = type(family)  # not `family`, which has the model, in a cache that outlives `close`
        # A call may have a prompt of its own.
        self._templates = functools.lru_cache(maxsize=64)(
            lambda prompt: kind.template(replace(spec, prompt=prompt or spec.prompt))
        )
        fixed = self.preprocessing() if family.has_fixed_size else None
        self._min_side = MAX_SIDE if fixed is None else 2 * fixed.size
        self.splitter = BatchSplitter(family, self.name)
        self._constraints = functools.lru_cache(maxsize=64)(
            lambda options: subword_constraints(options, self.tokenizer)
        )

    @property
    def name(self) -> str:
        """Name of the model, or of the run folder."""
        return self._identity.name if self.run is None else super().name

    @property
    def folders(self) -> tuple[Path, ...]:
        """The run folder of a fine-tuned model."""
        return () if self.run is None else (self.run.folder,)

    @property
    def run_config(self) -> Config | None:
        """The configuration of the run that fine-tuned the model, if any."""
        return None if self.run is None else self.run.config

    @property
    def punctuates(self) -> bool:
        """False for a fine-tuned model: its captions end as its training captions do."""
        return self.run is None

    @property
    def prompt_text(self) -> str:
        """The prompt of the images before its variables are filled in; empty: none."""
        template = self._templates("")
        return template.source if template else ""

    @property
    def takes_prompts(self) -> bool:
        """Whether the architecture takes a prompt."""
        return self.family.takes_prompts

    def check_prompt(self, prompt: str) -> None:
        """Check the prompt of a call; an empty one stands for the captioner's.

        Raises:
            ConfigError: the model takes no prompt, or not this one.
        """
        self._templates(prompt)

    def identities(self) -> tuple[ModelIdentity, ...]:
        """Return the name of the model with its commit, or the digest of its folder."""
        return (self._identity,)

    def describe(self) -> dict[str, Any]:
        """Return the architecture and the size of the vocabulary."""
        return {
            "decoder": self.model.config.model_type,
            "encoder": None,
            "vocabulary": len(self.tokenizer),
            "grid": None,
        }

    @property
    def defaults(self) -> DecodingOptions:
        """Those of the run; without one greedy, or the beam search of the model's generation configuration."""
        if self.run is not None:
            return self.options(self.run.config.decoding)
        config = self.model.generation_config
        options = DecodingOptions(
            max_length=self._length(""),
            no_repeat_ngram_size=getattr(config, "no_repeat_ngram_size", 0) or 0,
        )
        if (beams := getattr(config, "num_beams", 1) or 1) == 1:
            return options
        return options.replace(strategy="beam", beam_size=beams, length_penalty=config.length_penalty or 1.0)

    def options(self, options: DecodingOptions | None = None, prompt: str = "") -> DecodingOptions:
        """Return `options`, by default the captioner's, with `max_length` set."""
        chosen = options or self.defaults
        length = max(self._length(prompt), chosen.min_length)
        return resolve_rerank(chosen, {}).replace(max_length=chosen.max_length or length)

    def _length(self, prompt: str) -> int:
        """Return the maximum number of tokens by default for the prompt of a call."""
        if self.run is not None and not prompt:
            return self.run.info.max_length
        template = self._templates(prompt)
        return self.family.length(template.text if template else "")

    def check(self, options: DecodingOptions) -> None:
        """Check the options before a search.

        Raises:
            ConfigError: `allow_unk` or consensus reranking is set, or words contradict each other or the vocabulary.
        """
        if options.rerank == "consensus":
            raise ConfigError(
                f"decoding.rerank is consensus, but {self.name} has no index of training images; choose --rerank mbr"
            )
        if options.allow_unk:
            raise ConfigError(
                "decoding.allow_unk: a pretrained captioner has no unknown word to allow; drop --allow-unk"
            )
        self._constraints(self.options(options))

    def preprocessing(self) -> Preprocessing | None:
        """Return how the image's processor resizes and crops; None: it does not resize to a fixed size."""
        processor = self.family.processor.image_processor
        crops = bool(getattr(processor, "do_center_crop", False))
        size = dict((processor.crop_size if crops else processor.size) or {})
        if size.get("height") != size.get("width") or "height" not in size:
            return None
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
        return Preprocessing(size["height"], "crop" if crops else "squash", mean, std)

    def load_inputs(self, image: ImageInput, prompt: str = "") -> HubInputs:
        """Return the pixels of an image and its prompt."""
        template = self._templates(prompt)
        pixels = np.asarray(_bounded(read_image(image, min_side=self._min_side), self._min_side))
        return pixels, template.render(image) if template else ""

    def encode(self, inputs: Sequence[HubInputs]) -> HubBatch:
        """Return the arguments of the model's `generate`, in parts that are decoded together."""
        return self.splitter.split(inputs)

    def take(self, encoded: HubBatch, places: Sequence[int]) -> HubBatch:
        """Return the images at some positions of a batch, processed again."""
        return self.encode([encoded.inputs[place] for place in places])

    @torch.inference_mode()
    def generate(
        self, encoded: HubBatch, names: Sequence[str] | None, settings: CaptionSettings = DEFAULT_SETTINGS
    ) -> list[Caption | ImageError]:
        """Return the captions of a batch; see `Captioner.generate`.

        If memory runs out, the batch is halved until it fits.

        Raises:
            ConfigError: an option or attention is not available, or memory runs out for a single image.
        """
        options = self.options(settings.options, settings.prompt)
        self.check(options)
        settings = replace(settings, options=options)
        named = names or [str(place) for place in range(len(encoded.inputs))]
        captions: dict[int, Caption | ImageError] = {
            place: ImageError(f"{named[place]}: {reason}") for place, reason in encoded.refused.items()
        }
        found = self.splitter.caption(
            encoded, named, options, lambda features, names: self._caption_features(features, names, settings)
        )
        captions.update(zip((place for part in encoded.parts for place in part.places), found, strict=True))
        return [captions[place] for place in range(len(encoded.inputs))]

    @property
    def _device(self) -> torch.device:
        """The device of the model, which training may move."""
        device: torch.device = self.model.device
        return device

    def close(self) -> None:
        """Free the memory of the model."""
        if self.model is None:
            return
        device = self._device
        self.model = None
        self.family = self.splitter = None  # type: ignore[assignment]
        return_freed_memory()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _caption_features(
        self, features: Mapping[str, Any], names: Sequence[str], settings: CaptionSettings
    ) -> list[Caption]:
        """Return the captions of images from the arguments of the model's `generate`."""
        features = {name: self.on_device(value) for name, value in features.items()}
        regions = self.family.regions(features) if settings.attention else None
        if settings.attention and regions is None:
            raise ConfigError(
                f"attention is not available for {self.name}: {self.model.config.model_type} models have no "
                "cross-attention to regions of the image"
            )
        with _eager_attention(self.model, regions is not None):
            return self._search(features, names, settings, regions)

    def _search(
        self, features: Mapping[str, Any], names: Sequence[str], settings: CaptionSettings, regions: Regions | None
    ) -> list[Caption]:
        options = settings.options
        assert options is not None  # `generate` has resolved them
        constraints = self._constraints(options)
        plain, search = is_plain_beam(options), search_options(options)
        if not plain or regions is not None or settings.top_tokens:
            decoder, state = start(self.model, features, None if regions is None else regions.positions)
        if plain:
            found = self._distinct_beams(features, search, constraints)
            if regions is not None:
                found = score_attention(decoder, state, found)
        else:
            required = options.num_return_sequences
            request = GenerationRequest(search, constraints, names, regions is not None, required=required)
            found = generate(decoder, state, request)
        if options.rerank != "none":
            found = [each[: options.num_return_sequences] for each in rerank(found, options)]
        captions = [[self._caption(each, regions) for each in hypotheses] for hypotheses in found]
        if settings.top_tokens:
            captions = self._with_top_tokens(captions, found, (decoder, state), settings.top_tokens)
        return [replace(best, alternatives=tuple(others)) for best, *others in captions]

    def _distinct_beams(
        self, features: Mapping[str, Any], options: DecodingOptions, constraints: TokenConstraints
    ) -> list[list[Hypothesis]]:
        """Return the distinct captions of transformers' beam search, from wider beams if there are too few."""
        wanted = options.num_return_sequences
        found: list[list[Hypothesis]] = []
        for widening in range(_WIDENINGS + 1):
            wider = widen(options, widening)
            beams = beam_search(self.model, features, wider, constraints)
            before = found or [[] for _ in beams]
            merged = (
                merge_distinct(old, Result(new, failed=False), options, constraints).hypotheses
                for old, new in zip(before, beams, strict=True)
            )
            # The best caption stays first: transformers ranks by other lengths than `Hypothesis.score`.
            found = [
                [old[0], *(each for each in new if each.tokens != old[0].tokens)]
                for old, new in zip(found or beams, merged, strict=True)
            ]
            if all(len(each) >= wanted for each in found):
                break
        return [each[:wanted] for each in found]

    def _caption(self, hypothesis: Hypothesis, regions: Regions | None) -> Caption:
        special = set(self.tokenizer.all_special_ids)
        ids = [token - OFFSET for token in hypothesis.tokens]
        kept = [place for place, token in enumerate(ids) if token not in special]
        text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        maps = hypothesis.attention
        return Caption(
            text=text,
            words=tuple(self._words([ids[place] for place in kept])),
            log_probs=tuple(hypothesis.log_probs[place] for place in kept),
            end_log_prob=hypothesis.log_probs[-1],
            score=hypothesis.score,
            finished=hypothesis.finished,
            attention=None if maps is None else maps[kept],
            grid=None if regions is None else regions.grid,
        )

    def _words(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token."""
        return [self.tokenizer.decode([token]).strip().removeprefix("##") for token in ids]

    def _with_top_tokens(
        self,
        captions: list[list[Caption]],
        found: Sequence[Sequence[Hypothesis]],
        decoding: tuple[HubDecoder, HubState],
        count: int,
    ) -> list[list[Caption]]:
        """Return captions with the most probable tokens per position."""
        tokens = [[hypothesis.tokens for hypothesis in hypotheses] for hypotheses in found]
        tops = find_top_tokens(*decoding, tokens, count, allow_unk=True)
        return [
            [replace(caption, top_tokens=self._top_words(places)) for caption, places in zip(each, rows, strict=True)]
            for each, rows in zip(captions, tops, strict=True)
        ]

    def _top_words(
        self, places: Sequence[Sequence[tuple[int, float]]]
    ) -> tuple[tuple[tuple[str | None, float], ...], ...]:
        return tuple(
            tuple(
                (None if token == END_ID else self._words([token - OFFSET])[0], log_prob) for token, log_prob in place
            )
            for place in places
        )

    def on_device(self, value: Any) -> Any:
        """Return an argument of the model on its device and, if it is a tensor of numbers, in its data type."""
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(self._device, self.model.dtype if value.is_floating_point() else None)


def _bounded(image: Image.Image, min_side: int) -> Image.Image:
    """Return an image whose sides are neither too small for processors nor needlessly larger than `min_side`."""
    factor = min(image.size) // min_side
    if factor > 1:
        image = image.reduce(factor)
    most = MAX_RATIO * max(min(image.size), MIN_SIDE)
    size = min(max(image.width, MIN_SIDE), most), min(max(image.height, MIN_SIDE), most)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


@contextmanager
def _eager_attention(model: Any, wanted: bool) -> Iterator[None]:
    """Use the attention implementation that returns weights; the faster ones silently return none."""
    configs = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")} if wanted else {}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation = "eager"
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation
