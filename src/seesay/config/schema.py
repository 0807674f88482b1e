"""Every option of the project, defined once: its default, its bounds and the line that documents it.

A `Config` is a tree of frozen pydantic models, one per concern. Field names are unique across the sections, so that
each of them is also a flag of the command line. YAML keys, flags, tuning and HTTP fields all derive from these models.
"""

import functools
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator
from pydantic.fields import FieldInfo

from seesay.config.encoder_aliases import resolve
from seesay.config.section import Integers, Number, Numbers, Section, Texts, option
from seesay.errors import ConfigError


class DataConfig(Section):
    """Which captions are read and how images are assigned to the splits."""

    section: ClassVar[str] = "data"

    format: str = option("auto", "reader of the captions; auto detects it from the files", common=True)
    image_column: str = option("", "image column of tables (empty: the first column of a usual name)", common=True)
    caption_column: str = option("", "caption column of tables (empty: the first column of a usual name)", common=True)
    split_fractions: str = option("80/10/10", "train/val[/test] percentages for data without splits")
    resplit: bool = option(False, "split all images by these percentages even if the data has splits")
    split_seed: int = option(0, "seed of that split, which is by image")
    limit_images: int = option(0, "maximum number of images per split (0: no limit)", ge=0, common=True)
    limit_captions: int = option(0, "maximum number of training captions (0: no limit)", ge=0)
    captions_per_image: int = option(0, "maximum number of captions per training image (0: no limit)", ge=0)


class TextConfig(Section):
    """How captions are split into tokens."""

    section: ClassVar[str] = "text"

    level: Literal["word", "character"] = option(
        "word", "unit of the vocabulary; character suits languages without spaces", common=True
    )
    lowercase: bool = option(True, "lowercase captions")
    filter_characters: str = option(
        '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', "characters replaced by a space before splitting"
    )
    min_word_length: int = option(1, "drop shorter words", ge=0)
    drop_numeric: bool = option(False, "drop words that are not purely alphabetic")
    vocabulary_size: int = option(0, "keep this many of the most frequent words (0: every word)", ge=0, common=True)
    min_count: int = option(1, "drop words that occur less often in the training captions", ge=0, common=True)
    max_words: int = option(0, "truncate training captions to this many words (0: no limit)", ge=0)

    @property
    def tokenization(self) -> str:
        """The tokenization with which captions of such a vocabulary are scored by default."""
        return "characters" if self.level == "character" else "ptb"


class EncoderConfig(Section):
    """Which network encodes the images, and how they are preprocessed."""

    section: ClassVar[str] = "encoder"

    encoder: str = option(
        "inception_v3.tf_in1k",
        "timm model name, an alias such as siglip2-base (seesay doctor --encoders), or small-cnn to train from scratch",
        common=True,
    )
    encoder_weights: str = option(
        "pretrained",
        "pretrained (from the hub), none, a safetensors file, or a run that trained the encoder",
        common=True,
    )
    layer: str = option("", "module or stage whose output is used, such as Mixed_7a (empty: the last feature map)")
    pool: Literal["grid", "pooled"] = option("grid", "grid keeps the regions, pooled averages them to one")
    grid_size: int = option(
        0, "average-pool the grid to this many rows and columns before it is stored, such as 7 (0: no pooling)", ge=0
    )
    image_size: int = option(
        0, "images are resized to this square (0: the size of the weights or the alias)", ge=0, common=True
    )
    resize: Literal["squash", "crop"] = option(
        "squash", "squash resizes the whole image to a square, crop takes its center"
    )
    mean: Numbers = option((), "channel means of the input in 0..1 (empty: those of the weights)")
    std: Numbers = option((), "channel deviations of the input (empty: those of the weights)")
    tf_average_pooling: bool = option(
        False, "exclude padding from average pooling, as TensorFlow does (converted weights need it)"
    )
    encoder_training: Literal["cached", "frozen", "full"] = option(
        "cached",
        "cached runs the encoder once and stores features; frozen runs it per batch; full trains it too",
        common=True,
    )
    feature_dtype: Literal["float16", "int8"] = option(
        "float16", "data type of stored features; int8 halves their size"
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve_alias(cls, values: Any) -> Any:
        return resolve(values) if isinstance(values, dict) else values


class ModelConfig(Section):
    """The captioning network after the encoder; sizes are numbers of units.

    Which of these fields a decoder reads, it declares in `register_decoder`.
    """

    section: ClassVar[str] = "model"

    decoder: str = option(
        "attention", "attention, pooled, show-attend-tell, luong, up-down, transformer or a registered one", common=True
    )
    projection_size: int = option(256, "width D of a region after the projection of its features", ge=1)
    projection_activation: Literal["relu", "tanh", "none"] = option("relu", "activation of that projection")
    embedding_size: int = option(256, "width of a token embedding", ge=1)
    hidden_size: int = option(512, "units of a recurrent layer; width of the transformer", ge=1, common=True)
    attention: Literal["soft", "hard"] = option(
        "soft", "soft attends to the weighted mean of all regions; hard samples one in training (show-attend-tell)"
    )
    attention_score: Literal["additive", "dot", "general", "multihead"] = option(
        "additive", "attention score of a recurrent decoder (the transformer is always multihead)"
    )
    attention_size: int = option(512, "units of additive attention, or of all heads together", ge=1)
    num_heads: int = option(8, "heads of multihead attention and of the transformer", ge=1)
    output_size: int = option(512, "width of the dense layer before the vocabulary (0: no such layer)", ge=0)
    num_layers: int = option(1, "layers of the pooled decoder and of the transformer", ge=1)
    feedforward_size: int = option(1024, "transformer: width inside the feed-forward layers", ge=1)
    merge: Literal["state", "add"] = option(
        "state", "pooled decoder: the image is the initial state, or is added to each word"
    )
    initialisation: Literal["keras", "torch"] = option(
        "keras", "initial weights as in Keras (the tutorials), or as in torch (faster from scratch)"
    )
    tie_weights: bool = option(False, "share the word embeddings with the vocabulary layer (equal sizes)")
    log_frequency_bias: bool = option(
        False, "initialise the bias of the vocabulary layer with the words' log frequencies"
    )
    doubly_stochastic: Number = option(
        0.0, "weight of the penalty on regions whose attention does not sum to 1 over the caption", ge=0
    )
    hard_reward: Number = option(0.1, "hard attention: weight of the log-likelihood as a reward", ge=0)
    hard_entropy: Number = option(0.002, "hard attention: weight of the entropy bonus", ge=0)
    hard_share: Number = option(
        0.5, "hard attention: share of captions with sampled regions; the rest are soft", ge=0, le=1
    )
    retrieve: int = option(
        0, "number of similar training images whose captions are further inputs of the decoder (0: none)", ge=0, le=50
    )
    feature_dropout: Number = option(0.0, "dropout on the encoder's features", ge=0, lt=1)
    embedding_dropout: Number = option(0.0, "dropout on word embeddings", ge=0, lt=1)
    attention_dropout: Number = option(0.0, "dropout on attention weights", ge=0, lt=1)
    state_dropout: Number = option(
        0.0, "dropout on the recurrent state (one mask per caption), or in transformer layers", ge=0, lt=1
    )
    output_dropout: Number = option(0.0, "dropout before the vocabulary layer", ge=0, lt=1)


class TrainingConfig(Section):
    """How the captioner is trained."""

    section: ClassVar[str] = "training"

    optimizer: Literal["adam", "rmsprop"] = option("adam", "optimizer")
    learning_rate: Number = option(1e-3, "learning rate", gt=0, common=True)
    lr_drop_epochs: Integers = option((), "epochs after which the learning rate is dropped")
    lr_drop: Number = option(0.2, "factor of each drop", gt=0)
    lr_schedule: Literal["constant", "cosine"] = option(
        "constant", "constant between drops, or a cosine to 0 at the last step, without drops"
    )
    warmup_steps: int = option(0, "steps over which the learning rate rises from 0", ge=0)
    encoder_learning_rate: Number = option(0.0, "learning rate of an encoder that is trained too (0: the same)", ge=0)
    hflip_prob: Number = option(
        0.0, "probability of mirroring an image whose captions do not mention left or right", ge=0, le=1
    )
    crop_fraction: Number = option(0.0, "maximum share of each side removed by random cropping", ge=0, lt=1)
    ema_decay: Number = option(
        0.0, "decay of the exponential moving average of the weights (0: no average)", ge=0, lt=1
    )
    batch_captions: int = option(64, "captions per batch; a batch holds whole images", ge=1, common=True)
    epochs: int = option(20, "maximum number of epochs", ge=1, common=True)
    patience: int = option(0, "stop after this many epochs without a better monitor (0: never)", ge=0, common=True)
    monitor: Literal["val_cider", "val_loss"] = option(
        "val_cider", "value that selects the best checkpoints and that patience observes"
    )
    label_smoothing: Number = option(0.0, "probability spread over the vocabulary in the loss", ge=0, lt=1)
    scheduled_sampling: Number = option(
        0.0, "maximum probability of feeding the decoder its own prediction instead of the word", ge=0, le=1
    )
    scheduled_sampling_epochs: int = option(5, "epochs over which that probability rises from 0", ge=1)
    weight_decay: Number = option(0.0, "L2 penalty on the weights", ge=0)
    max_grad_norm: Number = option(5.0, "maximum norm of the gradient (0: no limit)", ge=0)
    seed: int = option(0, "seed of initial weights, shuffling and dropout", ge=0, common=True)
    keep_best: int = option(5, "number of best checkpoints kept", ge=0)
    checkpoint_every: int = option(200, "steps between saves of the resumable state", ge=1)
    log_every: int = option(50, "steps between log lines", ge=1)
    device: str = option("auto", "auto, cpu, cuda or mps", common=True)
    devices: int = option(1, "processes that share every batch, one GPU each where there are GPUs", ge=1)
    num_nodes: int = option(1, "machines that run that many processes each", ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = option("auto", "arithmetic of training", common=True)
    cuda_graphs: bool = option(True, "on a GPU: launch the kernels of a step as a CUDA graph where possible")
    loggers: Texts = option((), "further Lightning loggers by class name, such as WandbLogger")
    init_from: str = option("", "run whose best weights initialise training; words are matched by text", common=True)
    scst_weight: Number = option(
        0.0, "share of the CIDEr-D reward in the loss (0: cross-entropy only); set by --scst", ge=0, le=1
    )
    scst_samples: int = option(5, "second stage: captions sampled per image", ge=2)
    scst_baseline: Literal["others", "greedy"] = option(
        "others", "second stage: baseline of a sample: the image's other samples, or its greedy caption"
    )
    scst_bleu: Number = option(
        0.0, "second stage: weight of BLEU-4 (smoothed, 0 to 10) beside CIDEr-D in the reward", ge=0
    )
    scst_dropout: bool = option(False, "second stage: keep dropout active on sampled captions (reduces overfitting)")

    @property
    def second_stage(self) -> bool:
        """Whether training optimises the reward of sampled captions too."""
        return self.scst_weight > 0


class FinetuningConfig(Section):
    """Which pretrained model is fine-tuned, and which of its weights."""

    section: ClassVar[str] = "finetuning"

    model: str = option(
        "", "pretrained model to fine-tune: a name of the hub, name@revision or a folder (empty: none)", common=True
    )
    prompt: str = option("", "prompt in training, and by default in captioning (empty: the model's default)")
    lora: bool = option(False, "train low-rank adapters (LoRA) instead of the model's own weights", common=True)
    lora_rank: int = option(16, "LoRA: rank of the adapters", ge=1)
    lora_alpha: Number = option(32.0, "LoRA: the adapters' output is multiplied by this / rank", gt=0)
    lora_dropout: Number = option(0.05, "LoRA: dropout on the adapters' input", ge=0, lt=1)
    lora_targets: Texts = option((), "LoRA: names of the adapted layers, or all-linear (empty: those of the family)")
    gradient_checkpointing: bool = option(
        False, "recompute activations in the backward pass: less memory, about a third more time"
    )
    captions_per_pass: int = option(
        0, "captions per forward and backward pass; the gradients of a batch are summed (0: the whole batch)", ge=0
    )
    max_caption_tokens: int = option(
        0, "truncate training captions to this many tokens (0: the default length of the model's family)", ge=0
    )


class DecodingFields(Section):
    """The options of decoding without the rules between them: a preset, file or command line may hold any part."""

    section: ClassVar[str] = "decoding"

    strategy: Literal["greedy", "sample", "beam"] = option("greedy", "how words are selected", common=True)
    beam_size: int = option(3, "open hypotheses of a beam search", ge=1, common=True)
    max_length: int = option(0, "maximum words per caption (0: as the longest training caption)", ge=0, common=True)
    length_penalty: Number = option(0.7, "beam scores are divided by length to this power (0: no penalty)", ge=0, le=10)
    temperature: Number = option(1.0, "sampling: above 1 flattens, below 1 sharpens", gt=0, common=True)
    top_k: int = option(0, "sampling: only this many of the most probable words (0: all)", ge=0)
    sampling_seed: int = option(0, "sampling: seed, combined with the image's name")
    allow_unk: bool = option(False, "allow the unknown word in captions")
    top_p: Number = option(1.0, "sampling: only the most probable words up to this total", gt=0, le=1, common=True)
    min_p: Number = option(0.0, "sampling: only words of this probability relative to the most probable", ge=0, le=1)
    num_beam_groups: int = option(1, "groups of a diverse beam search, which divide the beam (1: plain)", ge=1)
    diversity_penalty: Number = option(
        0.5, "diverse beam: penalty of a word per earlier group that selected it", ge=0, le=1000
    )
    num_return_sequences: int = option(1, "distinct captions per image", ge=1, common=True)
    min_length: int = option(0, "minimum words per caption", ge=0)
    no_repeat_ngram_size: int = option(0, "n-grams of this size occur once per caption (0: no limit)", ge=0)
    repetition_penalty: Number = option(1.0, "log-probabilities of earlier words are multiplied by this", ge=1, le=100)
    bad_words: Texts = option((), "words and phrases that never occur", common=True)
    force_words: Texts = option((), "words and phrases that every caption contains (beam search)")
    complete_endings: bool = option(False, "no caption ends in a function word, as in: a man on a")
    rerank: Literal["none", "consensus", "mbr"] = option(
        "none",
        "choose among the best captions of the beam by their similarity to captions of similar training images "
        "(consensus) or to each other (mbr)",
        common=True,
    )
    rerank_candidates: int = option(0, "captions to choose from (0: as tuned, else 10)", ge=0, le=100)
    rerank_neighbours: int = option(0, "consensus: number of similar training images (0: as tuned, else 20)", ge=0)
    rerank_weight: Number = option(
        0.0, "weight of the similarity against the model's score (0: as tuned, else 1)", ge=0, le=1
    )
    rerank_similarity: Number = option(
        0.0,
        "consensus: keep the model's caption where similar training images are less similar (0: as calibrated; -1: "
        "never)",
        ge=-1,
        le=1,
    )


class DecodingOptions(DecodingFields):
    """How a caption is generated; `docs/decoding.md` defines each option.

    Raises:
        ConfigError: a value is out of bounds, or two options contradict each other; both are named.
    """

    @model_validator(mode="after")
    def _validate(self) -> Self:
        for name, reader in unread_fields(self.strategy, self.num_beam_groups, self.rerank).items():
            if (value := getattr(self, name)) != self.default_of(name):
                raise ConfigError(
                    f"decoding.{name} is {value!r}, which only {_READERS[reader]} reads; "
                    f"add --{reader} or leave it (strategy is {self.strategy})"
                )
        for contradicts, words in self._contradictions():
            if contradicts:
                raise ConfigError(f"decoding.{words}")
        return self

    def with_strategy(self, strategy: Literal["greedy", "sample", "beam"]) -> "DecodingOptions":
        """Return these options for another strategy; those that it does not read are reset to their defaults.

        Raises:
            ConfigError: what is left contradicts the strategy, as more `num_return_sequences` than `beam_size`.
        """
        unread = unread_fields(strategy, self.num_beam_groups, self.rerank)
        defaults = {name: self.default_of(name) for name in unread}
        return self.replace(strategy=strategy, **defaults)

    def _contradictions(self) -> tuple[tuple[bool, str], ...]:
        """Return every pair of options that can contradict each other: whether they do, and the message."""
        return (
            (
                0 < self.max_length < self.min_length,
                f"min_length is {self.min_length}, above max_length, which is {self.max_length}",
            ),
            (
                self.beam_size % self.num_beam_groups != 0,
                f"num_beam_groups is {self.num_beam_groups}, which does not divide beam_size, {self.beam_size}",
            ),
            (
                self.num_beam_groups > 1 and bool(self.force_words),
                f"force_words is {self.force_words!r}, which needs num_beam_groups 1, not {self.num_beam_groups}",
            ),
            (
                # Reranking widens the beam to its candidates.
                self.strategy == "beam" and self.rerank == "none" and self.num_return_sequences > self.beam_size,
                f"num_return_sequences is {self.num_return_sequences}, but a beam of {self.beam_size} ends in "
                "as many at most; raise beam_size",
            ),
        )


_GROUPS = "num-beam-groups above 1"
_CONSENSUS, _RERANK = "rerank consensus", "rerank mbr"
_READERS = {
    "strategy sample": "sampling",
    "strategy beam": "a beam search",
    _GROUPS: "a diverse beam search",
    _CONSENSUS: "consensus reranking",
    _RERANK: "reranking",
}
_READ_BY = {
    "temperature": "strategy sample",
    "top_k": "strategy sample",
    "top_p": "strategy sample",
    "min_p": "strategy sample",
    "sampling_seed": "strategy sample",
    "num_beam_groups": "strategy beam",
    "force_words": "strategy beam",
    "beam_size": "strategy beam",
    "length_penalty": "strategy beam",
    "diversity_penalty": _GROUPS,
    "rerank": "strategy beam",
    "rerank_candidates": _RERANK,
    "rerank_weight": _RERANK,
    "rerank_neighbours": _CONSENSUS,
    "rerank_similarity": _CONSENSUS,
}


def unread_fields(strategy: str, groups: int, rerank: str = "none") -> dict[str, str]:
    """Return the decoding fields that a search does not read -> the flag, without dashes, of one that does.

    Args:
        strategy: of the search.
        groups: its `num_beam_groups`, which count in a beam search alone.
        rerank: its `rerank`, which counts in a beam search alone.
    """
    read = {f"strategy {strategy}"}
    if strategy == "beam":
        read |= {_GROUPS} if groups > 1 else set()
        read |= {_RERANK, _CONSENSUS} if rerank == "consensus" else {_RERANK} if rerank == "mbr" else set()
    return {name: reader for name, reader in _READ_BY.items() if reader not in read}


class Config(Section):
    """The whole configuration of a run: everything that is needed to repeat it."""

    noun: ClassVar[str] = "configuration section"

    data: DataConfig = DataConfig()
    text: TextConfig = TextConfig()
    encoder: EncoderConfig = EncoderConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    finetuning: FinetuningConfig = FinetuningConfig()
    decoding: DecodingOptions = DecodingOptions()


SECTIONS: dict[str, type[Section]] = {
    kind.section: kind
    for kind in (
        DataConfig,
        TextConfig,
        EncoderConfig,
        ModelConfig,
        TrainingConfig,
        FinetuningConfig,
        DecodingOptions,
    )
}


@functools.cache
def field_paths() -> dict[str, tuple[str, FieldInfo]]:
    """Return every field name of the configuration -> (its section, its definition)."""
    return {name: (section, info) for section, kind in SECTIONS.items() for name, info in kind.model_fields.items()}
