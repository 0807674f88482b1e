"""The recipe of fine-tuning: a pretrained model, whole or with adapters, on the user's images and captions."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from seesay.captioners.pretrained.adapters import (
    add_adapters,
    load_adapters,
    replace_folder,
    require_peft,
    save_adapters,
)
from seesay.captioners.pretrained.captioner import LoadedModel, PretrainedCaptioner
from seesay.captioners.pretrained.download import ModelFiles, find_files, require_transformers
from seesay.captioners.pretrained.families import Family
from seesay.captioners.pretrained.loading import base_files, load_model
from seesay.captioners.settings import ModelSettings
from seesay.checkpoint import ADAPTER_FOLDER, PRETRAINED_FOLDER, RunInfo, RunRecord, read_run, unwritable
from seesay.config import Config, DecodingOptions
from seesay.config.section import Section
from seesay.data.augmentation import Augmentation
from seesay.data.batches import Example, make_examples
from seesay.data.records import Annotation, Annotations
from seesay.data.validation.inspection import is_readable
from seesay.data.validation.trainability import require_trainable
from seesay.errors import ConfigError, DataError
from seesay.tokenizer import END_ID, START_ID
from seesay.training.finetuning.batches import FinetuningBatches, encode_caption
from seesay.training.finetuning.critic import FinetuningCritic
from seesay.training.finetuning.module import FinetuningModule
from seesay.training.inputs import read_captions
from seesay.training.recipe import VALIDATION_CAPTIONS, BuiltRun, PreparedRun, Recipe
from seesay.training.scst import Critic, make_critic
from seesay.training.trainer import trains_in_bfloat16

log = logging.getLogger("seesay")

_READ = {"encoder": ("encoder_training",), "text": ("level",), "model": ()}
"""Fields that fine-tuning reads, of the sections that describe networks of seesay's own."""
_UNREAD_TRAINING = ("scheduled_sampling", "scheduled_sampling_epochs")


class FinetuningRecipe(Recipe):
    """Fine-tunes a pretrained model.

    Args:
        config: the configuration, with `finetuning.model`.
        data: any data set that `load_annotations` reads.
        stores: feature stores of the command, which must be empty.
    """

    def __init__(self, config: Config, data: str | Path, stores: Sequence[str | Path] = ()) -> None:
        super().__init__(config)
        self.data, self.stores = data, stores

    def check(self) -> None:
        """Check that no setting is without effect, and that the libraries are installed."""
        config, finetuning = self.config, self.config.finetuning
        require_transformers(finetuning.model)
        if finetuning.lora:
            require_peft("finetuning.lora")
        if self.stores:
            raise ConfigError("--store has features of images, but a pretrained model reads the images; drop it")
        if config.encoder.encoder_training == "cached":
            raise ConfigError(
                "encoder.encoder_training is cached, but fine-tuning stores no features; set it to frozen or full, "
                "or start from the preset finetune"
            )
        if config.encoder.encoder_training != "full" and config.training.encoder_learning_rate:
            raise ConfigError(
                "training.encoder_learning_rate is set, but the image encoder is frozen; add --encoder-training full"
            )
        if config.training.second_stage and not config.training.init_from:
            raise ConfigError("training.scst_weight starts from a trained run; pass --init-from RUN")
        for name, read in _READ.items():
            _require_defaults(getattr(config, name), functools.partial(_is_unread, read))
        _require_defaults(config.training, lambda field: field in _UNREAD_TRAINING)
        if not finetuning.lora:
            _require_defaults(finetuning, lambda field: field.startswith("lora_"), "add --lora, or drop it")

    def annotations(self) -> Annotations:
        """Return the captions to train on."""
        return read_captions(self.config, self.data)

    def prepare(self, annotations: Annotations, resumed: RunRecord | None) -> PreparedRun:
        """Return the model with its examples; see `Recipe.prepare`."""
        require_trainable(annotations, self.config.text, is_readable)
        name, prompt = self.config.finetuning.model, self.config.finetuning.prompt
        source = resumed.info.pretrained if resumed else None
        files = base_files(source) if source else find_files(name)
        spec = ModelSettings((name,), "cpu", prompt=prompt)
        precision = "bfloat16" if self.config.finetuning.lora and trains_in_bfloat16(self.config) else "float32"
        loaded, family = load_model(spec, files, "cpu", precision)
        template = type(family).template(spec)
        limit = self.config.finetuning.max_caption_tokens or family.length(template.text if template else "")
        examples = {split: _examples(annotations.split(split), family, limit) for split in ("train", "val")}
        info = resumed.info if resumed else self._describe(loaded, examples["train"])
        if self.config.training.init_from and not resumed:
            _check_initial(self.config, info)
        captioner = PretrainedCaptioner(loaded, family, spec)
        references = {item.id: item.captions for item in annotations.split("val")}
        return _PreparedModel(self.config, info, captioner, loaded, examples, references)

    def _describe(self, loaded: LoadedModel, train: Sequence[Example]) -> RunInfo:
        name, digest = loaded.identity.name, loaded.identity.digest
        folder = Path(name)
        return RunInfo(
            vocabulary_size=len(loaded.processor.tokenizer),
            feature_size=0,
            grid=None,
            max_length=max(_count_tokens(caption) for example in train for caption in example.tokens),
            features={},
            encoder_stored=False,
            data=str(self.data),
            pretrained={
                "model": str(folder.resolve()) if folder.is_dir() else name,
                "revision": digest,
                "family": loaded.model.config.model_type,
                "lora": self.config.finetuning.lora,
            },
        )


def _check_initial(config: Config, info: RunInfo) -> None:
    """Check that training can start from the weights of the run in `training.init_from`.

    Raises:
        ConfigError: it has another model, or not the same kind of weights.
    """
    path = config.training.init_from
    there, here = read_run(path).info.pretrained, info.pretrained
    if there != here:
        name = there["model"] if there else "a network of seesay's own"
        kind = ", with adapters" if there and there["lora"] else ""
        raise ConfigError(
            f"training.init_from: {path} has {name}{kind}, which is not what is trained; "
            "start from a run with the same --model and --lora"
        )


def _require_defaults(section: Section, chosen: Callable[[str], bool], advice: str = "drop it") -> None:
    """Check that fields without effect have their defaults.

    Raises:
        ConfigError: one has not.
    """
    for name in filter(chosen, type(section).model_fields):
        if (value := getattr(section, name)) != section.default_of(name):
            raise ConfigError(
                f"{section.spell(name)} is {value!r}, which this fine-tuning of a pretrained model does not read; "
                f"{advice}"
            )


def _is_unread(read: Sequence[str], field: str) -> bool:
    return field not in read


def _count_tokens(caption: Sequence[int]) -> int:
    return sum(token not in (START_ID, END_ID) for token in caption)


def _examples(items: Annotations | Sequence[Annotation], family: Family, limit: int) -> list[Example]:
    """Return the images of a split with the token ids of their captions.

    Raises:
        DataError: there are none.
    """
    cut = 0

    def encode(caption: str) -> list[int]:
        nonlocal cut
        ids = family.caption_ids(caption)
        cut += len(ids) > limit
        return encode_caption(ids, limit)

    listed = list(items)
    examples = make_examples(listed, encode)
    if not examples:
        raise DataError("no image of a split has a caption with words")
    if cut:
        log.warning(
            "%d captions of the %s split have more than %d tokens and are cut; raise finetuning.max_caption_tokens",
            cut,
            listed[0].split,
            limit,
        )
    return examples


@dataclass
class _PreparedModel(PreparedRun):
    """A pretrained model with its examples."""

    config: Config
    info: RunInfo
    captioner: PretrainedCaptioner
    loaded: LoadedModel
    examples: dict[str, list[Example]]
    references: Mapping[str, Sequence[str]]

    def build(self, out: Path, start: bool) -> BuiltRun:
        """Return the module and the batches; see `PreparedRun.build`."""
        torch.manual_seed(self.config.training.seed)
        initial = self.config.training.init_from
        save = self._select_weights(out, Path(initial) if initial and start else None)
        self._set_modes()
        training, captioner = self.config.training, self.captioner
        limit = self.config.finetuning.captions_per_pass
        batches = FinetuningBatches(
            captioner,
            self.examples["train"],
            training.batch_captions,
            limit,
            generates=training.second_stage,
            seed=training.seed,
            augmentation=Augmentation(training.hflip_prob, training.crop_fraction),
        )
        validation = FinetuningBatches(
            captioner,
            self.examples["val"],
            min(VALIDATION_CAPTIONS, 2 * training.batch_captions),
            limit,
            generates=True,
            shuffle=False,
        )
        options = DecodingOptions(max_length=self.config.decoding.max_length or self.info.max_length)
        critic = None
        if training.second_stage:
            critic = FinetuningCritic(captioner, make_critic(training, options, 0, batches.examples, Critic))
        module = FinetuningModule(captioner, self.config, batches, self.references, options, critic)
        return BuiltRun(module, validation, save)

    def _select_weights(self, out: Path, initial: Path | None) -> Callable[[], None]:
        """Select the weights to train; return the function that writes them into the run folder.

        Args:
            out: the run folder.
            initial: folder of the run whose weights are the initial ones; None: those of the pretrained model.
        """
        model, family, finetuning = self.captioner.model, self.captioner.family, self.config.finetuning
        full = self.config.encoder.encoder_training == "full"
        if finetuning.lora:
            source = self.info.pretrained or {}
            identity = replace(self.loaded.identity, name=source["model"], digest=source["revision"])
            wrapped = add_adapters(family, finetuning, identity, full)
            if initial:
                load_adapters(wrapped, initial / ADAPTER_FOLDER)
            return _saving(out / ADAPTER_FOLDER, lambda part: save_adapters(wrapped, part))
        if initial:
            files = ModelFiles(initial / PRETRAINED_FOLDER, self.loaded.identity)
            first, _ = load_model(ModelSettings((str(initial),), "cpu"), files, "cpu", "float32")
            model.load_state_dict(first.model.state_dict())
        model.requires_grad_(True)
        for name in [] if full else family.image_encoders():
            model.get_submodule(name).requires_grad_(False)

        def write(part: Path) -> None:
            model.save_pretrained(part)
            self.loaded.processor.save_pretrained(part)

        return _saving(out / PRETRAINED_FOLDER, write)

    def _set_modes(self) -> None:
        """Set the modes, which Lightning keeps: a frozen image encoder has no dropout."""
        model: Any = self.captioner.model
        model.train()
        if self.config.encoder.encoder_training != "full":
            for name in self.captioner.family.image_encoders():
                model.get_submodule(name).eval()
        if self.config.finetuning.gradient_checkpointing:
            try:
                _enable_checkpointing(model)
            except ValueError as error:
                raise ConfigError(
                    f"finetuning.gradient_checkpointing: {self.loaded.identity.name} does not support it; drop it"
                ) from error


def _saving(folder: Path, write: Callable[[Path], None]) -> Callable[[], None]:
    """Return a function that replaces the weights of a run.

    Raises:
        CheckpointError: by that function; the disk is full or cannot be written.
    """

    def save() -> None:
        try:
            replace_folder(folder, write)
        except (OSError, SafetensorError) as error:
            raise unwritable(folder, error) from error

    return save


def _enable_checkpointing(model: Any) -> None:
    """Recompute activations in the backward pass instead of storing them.

    Raises:
        ValueError: the architecture does not support it.
    """
    arguments = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=arguments)
    else:  # earlier versions
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments)
