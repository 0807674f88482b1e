"""The recipe of networks of seesay's own: features from a store or an encoder in the loop."""

from pathlib import Path
from typing import Any

import torch

from seesay.checkpoint import RunInfo, RunRecord, load_run, save_weights
from seesay.config import Config
from seesay.data.augmentation import Augmentation
from seesay.data.batches import CaptionBatches
from seesay.data.records import Annotations
from seesay.models.captioning import build_model
from seesay.models.encoders import SMALL_CNN, Encoder
from seesay.models.vocabulary import init_bias_from_frequencies
from seesay.retrieval.index import RetrievalIndex, load_index
from seesay.tokenizer import Tokenizer
from seesay.training.cuda_graphs import GraphedCritic, GraphedTrainStep, uses_graphs
from seesay.training.inputs import Inputs, LazyInputs, build_tokenizer, count_words, make_inputs
from seesay.training.module import CaptioningModule
from seesay.training.recipe import VALIDATION_CAPTIONS, BuiltRun, PreparedRun, Recipe
from seesay.training.retrieved import build_training_index, retrieve_captions
from seesay.training.scst import SelfCritic, make_critic
from seesay.training.validation import check_config
from seesay.training.warm_start import warm_start


class NetworkRecipe(Recipe):
    """Trains a network of seesay's own.

    Args:
        config: the configuration.
        inputs: the captions and features; the features are opened only if there is something to train.
    """

    def __init__(self, config: Config, inputs: LazyInputs) -> None:
        super().__init__(config)
        self.inputs = inputs

    def check(self) -> None:
        """Check that the network can be built."""
        check_config(self.config)

    def annotations(self) -> Annotations:
        """Return the captions to train on."""
        return self.inputs.annotations()

    def prepare(self, annotations: Annotations, resumed: RunRecord | None) -> PreparedRun:
        """Return the examples with their features; see `Recipe.prepare`."""
        run = load_run(resumed.folder) if resumed else None
        training_data = self.inputs.training_data(annotations)
        tokenizer = run.tokenizer if run else build_tokenizer(annotations, self.config)
        inputs = make_inputs(training_data, tokenizer)
        if run is None:
            info = _describe_run(self.config, training_data.data, tokenizer, inputs)
        else:
            info = run.info
            if inputs.store is not None:
                inputs.store.require(info.features)
        index = None
        if self.config.model.retrieve:
            index = load_index(run.folder) if run else build_training_index(inputs, tokenizer)
            inputs = retrieve_captions(inputs, index, self.config.model.retrieve)
        return _PreparedNetwork(self.config, info, tokenizer, inputs, index)


class _PreparedNetwork(PreparedRun):
    """The examples of a network with their features, and the index of the training images if the network reads it."""

    def __init__(
        self, config: Config, info: RunInfo, tokenizer: Tokenizer, inputs: Inputs, index: RetrievalIndex | None
    ) -> None:
        self.config, self.info, self.inputs, self.index = config, info, inputs, index
        self.tokenizer: Tokenizer = tokenizer

    def save(self, out: Path, config: Config) -> None:
        """Write everything but the weights, with the index; see `PreparedRun.save`."""
        super().save(out, config)
        if self.index is not None:
            self.index.save(out)

    def build(self, out: Path, start: bool) -> BuiltRun:
        """Return the module and the batches; see `PreparedRun.build`."""
        info, inputs = self.info, self.inputs
        module = _build_module(self.config, info, self.tokenizer, inputs)
        if self.config.training.init_from and start:
            warm_start(module.model, self.config, info, self.tokenizer)
        stored = inputs.encoder if info.encoder_stored and inputs.store is not None else None
        preprocessing = inputs.encoder.preprocessing if inputs.encoder else None
        validation = CaptionBatches(inputs.val, inputs.store, preprocessing, VALIDATION_CAPTIONS, shuffle=False)
        return BuiltRun(module, validation, lambda: save_weights(out, _run_weights(module, stored)))


def _run_weights(module: CaptioningModule, encoder: Encoder | None) -> dict[str, torch.Tensor]:
    """Return the content of model.safetensors: the model, and an encoder that is stored but not part of it."""
    weights: dict[str, torch.Tensor] = module.model.state_dict()
    if encoder is not None and module.model.encoder is None:
        weights |= {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    return weights


def _describe_run(config: Config, data: str, tokenizer: Tokenizer, inputs: Inputs) -> RunInfo:
    source: Any = inputs.store if inputs.store is not None else inputs.encoder
    joined = inputs.store.stores if inputs.store is not None else []
    identity = source.identity
    from_hub = config.encoder.encoder_weights == "pretrained" and config.encoder.encoder != SMALL_CNN
    return RunInfo(
        vocabulary_size=len(tokenizer),
        feature_size=source.feature_size,
        grid=source.grid,
        max_length=max(example.length for example in inputs.train) - 2,
        features=identity,
        encoder_stored=inputs.encoder is not None and (inputs.store is None or not from_hub),
        data=data,
        source_sizes=[store.feature_size for store in joined] if len(joined) > 1 else [],
    )


def _build_module(config: Config, info: RunInfo, tokenizer: Tokenizer, inputs: Inputs) -> CaptioningModule:
    torch.manual_seed(config.training.seed)
    in_loop = inputs.store is None
    model = build_model(config.model, info.vocabulary_size, info.feature_size, inputs.encoder if in_loop else None)
    if config.model.log_frequency_bias:
        init_bias_from_frequencies(model.decoder, count_words(inputs.train, info.vocabulary_size))
    model.train()  # Lightning keeps the modes of modules, and an encoder is in evaluation mode
    batches = CaptionBatches(
        inputs.train,
        inputs.store,
        inputs.encoder.preprocessing if inputs.encoder else None,
        config.training.batch_captions,
        seed=config.training.seed,
        augmentation=Augmentation(config.training.hflip_prob, config.training.crop_fraction),
        mirrored=inputs.mirrored,
    )
    references = {item.id: item.captions for item in inputs.annotations.split("val")}
    graphs, critic = uses_graphs(config.training, model), None
    if config.training.second_stage:
        kind = GraphedCritic if graphs else SelfCritic
        critic = make_critic(config.training, config.decoding, info.max_length, inputs.train, kind)
    steps = GraphedTrainStep(model, config.training.label_smoothing) if graphs else None
    return CaptioningModule(model, config, tokenizer, batches, references, info.max_length, critic, steps)
