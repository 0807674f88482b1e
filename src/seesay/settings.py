"""Every setting of the project with its default, its bounds and the one line that documents it.

A `Config` is a tree of frozen dataclasses, one a concern. Field names are unique over the sections, so that
each of them is also a flag of the command line.
"""

import dataclasses
import functools
import math
import operator
import typing
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

from seesay.errors import ConfigError

_BOUNDS = {
    "ge": (operator.ge, "at least"),
    "le": (operator.le, "at most"),
    "gt": (operator.gt, "above"),
    "lt": (operator.lt, "below"),
}


def setting(default: Any, help: str, **bounds: float) -> Any:
    """Returns a dataclass field with its default, the one line that documents it everywhere, and its bounds.

    Args:
        default: the value where nothing else is said.
        help: one line for `--help` and the documents.
        bounds: `least`, `most`, `above` or `below`: what a number must keep to.
    """
    return field(default=default, metadata={"help": help, "bounds": bounds})


class _Section:
    """Part of the configuration; refuses values of other kinds or outside their bounds, however it is made."""

    def __post_init__(self) -> None:
        kinds = field_types(typing.cast("Any", type(self)))
        for leaf in dataclasses.fields(typing.cast("Any", self)):
            value = getattr(self, leaf.name)
            check_kind(f"{field_paths()[leaf.name][0]}.{leaf.name}", value, kinds[leaf.name])
            check_bounds(leaf, value)


def check_kind(where: str, value: Any, kind: Any) -> None:
    """Refuses a value that is none of a field's choices, no number, or no tuple of what it should hold.

    Raises:
        ConfigError: it is; field, value and kind are named.
    """
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ConfigError(f"{where} is {value!r}; choose one of {', '.join(map(str, choices))}")
    elif typing.get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            raise ConfigError(f"{where} must be a tuple, not {value!r}")
        for item in value:
            check_kind(where, item, typing.get_args(kind)[0])
    elif not isinstance(value, _KINDS[kind]):
        raise ConfigError(f"{where} must be {KIND_NAMES[kind]}, not {value!r}")


_KINDS: dict[type, type] = {int: Integral, float: Real, str: str, bool: bool}
KIND_NAMES: dict[type, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
"""What messages call the types of fields."""


def check_bounds(leaf: dataclasses.Field[Any], value: Any) -> None:
    """Refuses a number outside its field's bounds, or one that is infinite or not a number.

    Raises:
        ConfigError: it is; field, value and bound are named.
    """
    where = f"{field_paths()[leaf.name][0]}.{leaf.name}"
    for bound, limit in leaf.metadata["bounds"].items():
        holds, words = _BOUNDS[bound]
        if not holds(value, limit):
            raise ConfigError(f"{where} is {value}; it must be {words} {limit}")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise ConfigError(f"{where} is {value}; it must be finite")


@dataclass(frozen=True)
class DataConfig(_Section):
    """Which captions are read and how images are dealt to the splits."""

    format: str = setting("auto", "reader of the captions; auto recognises it by looking")
    image_column: str = setting("", "column of images in tables; empty = the first of a usual name")
    caption_column: str = setting("", "column of captions in tables; empty = the first of a usual name")
    split_fractions: str = setting("80/10/10", "train/val[/test] shares where the data has no splits")
    resplit: bool = setting(False, "deal all images by these fractions, whatever splits the data has")
    split_seed: int = setting(0, "seed of that split, which is drawn by image")
    limit_images: int = setting(0, "use at most so many images of each split; 0 = all", ge=0)
    limit_captions: int = setting(0, "use at most so many training captions in all; 0 = all", ge=0)
    captions_per_image: int = setting(0, "use at most so many captions of a training image; 0 = all", ge=0)


@dataclass(frozen=True)
class TextConfig(_Section):
    """How caption texts become word ids."""

    level: Literal["word", "character"] = setting(
        "word", "unit of the vocabulary; character suits languages without spaces"
    )
    lowercase: bool = setting(True, "turn captions to lower case")
    filter_characters: str = setting(
        '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', "characters replaced by a space before splitting"
    )
    min_word_length: int = setting(1, "drop shorter words", ge=0)
    drop_numeric: bool = setting(False, "drop words that are not purely alphabetic")
    vocabulary_size: int = setting(0, "keep the so many commonest words; 0 = every word", ge=0)
    min_count: int = setting(1, "keep words seen at least so often in the training captions", ge=0)
    max_words: int = setting(0, "cut training captions after so many words; 0 = never", ge=0)

    @property
    def tokenization(self) -> str:
        """How captions of such a vocabulary are tokenized for scores, where nothing else is asked for."""
        return "characters" if self.level == "character" else "ptb"


@dataclass(frozen=True)
class EncoderConfig(_Section):
    """Which network looks at the images, and what it is shown."""

    encoder: str = setting("inception_v3.tf_in1k", "timm model name, or small-cnn, our own to train from nothing")
    encoder_weights: str = setting(
        "pretrained", "pretrained (from the hub), none, a safetensors file, or a run that has trained it"
    )
    layer: str = setting("", "module or stage whose output is used (such as Mixed_7a); empty = the last map")
    pool: Literal["grid", "pooled"] = setting("grid", "grid keeps the regions, pooled averages them to one")
    image_size: int = setting(0, "images are resized to this square; 0 = what the weights were made for", ge=0)
    resize: Literal["squash", "crop"] = setting("squash", "squash the whole frame to a square, or crop its centre")
    mean: tuple[float, ...] = setting((), "channel means of the input in 0..1; empty = the weights' own")
    std: tuple[float, ...] = setting((), "channel deviations of the input; empty = the weights' own")
    tf_average_pooling: bool = setting(
        False, "leave the padding out of average pools, as TensorFlow does (converted weights need it)"
    )
    encoder_training: Literal["cached", "frozen", "full"] = setting(
        "cached",
        "cached runs the encoder once and keeps its features; frozen runs it each batch; full trains it too",
    )
    feature_dtype: Literal["float16", "int8"] = setting(
        "float16", "how cached features are kept; int8 takes half the room"
    )


@dataclass(frozen=True)
class ModelConfig(_Section):
    """The captioning network after the encoder; sizes are widths in units."""

    decoder: str = setting(
        "attention", "attention, pooled, show-attend-tell, luong, up-down or transformer; or one of your own"
    )
    projection_size: int = setting(256, "width D of a region after the projection of its features", ge=1)
    projection_activation: Literal["relu", "tanh", "none"] = setting("relu", "activation of that projection")
    embedding_size: int = setting(256, "width of a word's embedding", ge=1)
    hidden_size: int = setting(512, "units of a recurrent layer; width of the transformer", ge=1)
    attention: Literal["soft", "hard"] = setting(
        "soft", "soft attends to the weighted mean of all regions; hard draws one in training (show-attend-tell)"
    )
    attention_score: Literal["additive", "dot", "general", "multihead"] = setting(
        "additive", "how a recurrent decoder scores a region (the transformer is multihead always)"
    )
    attention_size: int = setting(512, "units of additive attention, or of all heads together", ge=1)
    num_heads: int = setting(8, "heads of multihead attention and of the transformer", ge=1)
    output_size: int = setting(512, "width of the dense layer before the vocabulary; 0 = none", ge=0)
    num_layers: int = setting(1, "layers of the pooled decoder and of the transformer", ge=1)
    feedforward_size: int = setting(1024, "transformer: width inside the feed-forward layers", ge=1)
    merge: Literal["state", "add"] = setting(
        "state", "pooled decoder: the image is the first state, or added to each word"
    )
    initialisation: Literal["keras", "torch"] = setting(
        "keras", "first weights: as the tutorials' Keras draws them, or as torch does (learns from nothing sooner)"
    )
    tie_weights: bool = setting(False, "the vocabulary layer's matrix is the word embeddings' (sizes must agree)")
    log_frequency_bias: bool = setting(False, "the vocabulary layer's bias starts at the words' log frequencies")
    doubly_stochastic: float = setting(
        0.0, "weight of the penalty on regions that a caption has looked at more or less than once in all", ge=0
    )
    hard_reward: float = setting(0.1, "hard attention: weight of the log-likelihood as a reward of the draws", ge=0)
    hard_entropy: float = setting(0.002, "hard attention: weight of the entropy that keeps it exploring", ge=0)
    hard_share: float = setting(
        0.5, "hard attention: share of captions whose regions are drawn; the others' attention is soft", ge=0, le=1
    )
    feature_dropout: float = setting(0.0, "dropout on the encoder's features", ge=0, lt=1)
    embedding_dropout: float = setting(0.0, "dropout on word embeddings", ge=0, lt=1)
    attention_dropout: float = setting(0.0, "dropout on attention weights", ge=0, lt=1)
    state_dropout: float = setting(
        0.0,
        "dropout on the recurrent state (one mask a caption), or on what transformer layers add",
        ge=0,
        lt=1,
    )
    output_dropout: float = setting(0.0, "dropout before the vocabulary layer", ge=0, lt=1)


@dataclass(frozen=True)
class TrainingConfig(_Section):
    """How the captioner is fitted."""

    optimizer: Literal["adam", "rmsprop"] = setting("adam", "rule that updates the weights")
    learning_rate: float = setting(1e-3, "step size of the optimizer", gt=0)
    lr_drop_epochs: tuple[int, ...] = setting((), "epochs after which the learning rate is dropped")
    lr_drop: float = setting(0.2, "factor of each drop", gt=0)
    lr_schedule: Literal["constant", "cosine"] = setting(
        "constant", "constant between drops, or a cosine down to 0 at the last step, without drops"
    )
    warmup_steps: int = setting(0, "steps over which the learning rate rises from 0", ge=0)
    encoder_learning_rate: float = setting(0.0, "that of an encoder that is trained too; 0 = the same", ge=0)
    hflip_prob: float = setting(
        0.0, "how often an image is mirrored, unless its captions say left or right", ge=0, le=1
    )
    crop_fraction: float = setting(0.0, "images are cropped at random by up to this share of their sides", ge=0, lt=1)
    ema_decay: float = setting(
        0.0, "share of their moving average that a step's weights leave; 0 = no average", ge=0, lt=1
    )
    batch_captions: int = setting(64, "captions a batch; a batch holds whole images", ge=1)
    epochs: int = setting(20, "passes over the training captions, at most", ge=1)
    patience: int = setting(0, "stop after so many epochs without a better monitor; 0 = never", ge=0)
    monitor: Literal["val_cider", "val_loss"] = setting("val_cider", "what the best checkpoint and patience look at")
    label_smoothing: float = setting(0.0, "probability spread over the whole vocabulary in the loss", ge=0, lt=1)
    scheduled_sampling: float = setting(
        0.0, "how often, at most, the decoder is fed its own guess instead of the true word", ge=0, le=1
    )
    scheduled_sampling_epochs: int = setting(5, "epochs over which that rises from 0", ge=1)
    weight_decay: float = setting(0.0, "L2 pull on the weights", ge=0)
    max_grad_norm: float = setting(5.0, "largest norm of the gradient; 0 = unlimited", ge=0)
    seed: int = setting(0, "seed of initial weights, shuffling and dropout", ge=0)
    keep_best: int = setting(5, "best checkpoints kept", ge=0)
    checkpoint_every: int = setting(200, "steps between two saves of the resumable state", ge=1)
    log_every: int = setting(50, "steps between two log lines", ge=1)
    device: str = setting("auto", "auto, cpu, cuda or mps")
    devices: int = setting(1, "processes that share every batch, each with a GPU of its own where there are any", ge=1)
    num_nodes: int = setting(1, "machines that run so many processes each", ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = setting("auto", "arithmetic of training")
    cuda_graphs: bool = setting(True, "on a GPU: launch a step's many small kernels at once, where that can be")
    loggers: tuple[str, ...] = setting((), "further Lightning loggers, by class name (such as WandbLogger)")
    init_from: str = setting("", "run whose best weights training starts from; words are matched by their text")
    scst: bool = setting(False, "self-critical second stage: learn from the CIDEr-D of sampled captions too")
    scst_samples: int = setting(5, "second stage: captions sampled an image", ge=2)
    scst_weight: float = setting(0.8, "second stage: share of the reward's loss; the rest is cross-entropy", gt=0, le=1)
    scst_baseline: Literal["others", "greedy"] = setting(
        "others",
        "second stage: a sample is held against the image's other samples, or its greedy caption",
    )
    scst_dropout: bool = setting(
        False, "second stage: samples are learnt from with dropout on, against learning the images by heart"
    )


SECOND_STAGE: dict[str, Any] = {
    "optimizer": "adam",
    "learning_rate": 1e-4,
    "lr_drop_epochs": (),
    "lr_schedule": "constant",
    "warmup_steps": 0,
    "epochs": 5,
    "scheduled_sampling": 0.0,
    "patience": 0,
    "monitor": "val_cider",
}
"""What `training.scst` sets of the section it stands in, where the layer that turns it on says nothing else."""


@dataclass(frozen=True)
class DecodingOptions(_Section):
    """How a caption is searched for; `docs/decoding.md` defines each option.

    Raises:
        ConfigError: a value is out of bounds, or two options contradict each other; both are named.
    """

    strategy: Literal["greedy", "sample", "beam"] = setting("greedy", "how words are chosen")
    beam_size: int = setting(3, "open hypotheses of a beam search", ge=1)
    max_length: int = setting(0, "most words of a caption; 0 = the longest training caption's", ge=0)
    length_penalty: float = setting(0.7, "beam scores are divided by length to this power; 0 = none", ge=0, le=10)
    temperature: float = setting(1.0, "sampling: above 1 flattens, below 1 sharpens", gt=0)
    top_k: int = setting(0, "sampling: only the so many likeliest words; 0 = all", ge=0)
    sampling_seed: int = setting(0, "sampling: seed, combined with the image's place")
    allow_unk: bool = setting(False, "may the unknown word be said")
    top_p: float = setting(1.0, "sampling: only the likeliest words that make up this probability", gt=0, le=1)
    min_p: float = setting(0.0, "sampling: only words this likely, measured by the likeliest", ge=0, le=1)
    num_beam_groups: int = setting(1, "groups of a diverse beam search, which divide the beam; 1 = plain", ge=1)
    diversity_penalty: float = setting(
        0.5, "diverse beam: taken off a word's log-probability for each earlier group that said it", ge=0, le=1000
    )
    num_return_sequences: int = setting(1, "different captions an image", ge=1)
    min_length: int = setting(0, "fewest words of a caption", ge=0)
    no_repeat_ngram_size: int = setting(0, "no run of so many words is said twice; 0 = anything may be", ge=0)
    repetition_penalty: float = setting(
        1.0, "log-probabilities of words already said are multiplied by this", ge=1, le=100
    )
    bad_words: tuple[str, ...] = setting((), "words and phrases that are never said")
    force_words: tuple[str, ...] = setting((), "words and phrases that every caption holds (beam search)")
    complete_endings: bool = setting(False, "no caption ends in a function word, as in: a man on a")

    def __post_init__(self) -> None:
        super().__post_init__()
        for refused, words in self._contradictions():
            if refused:
                raise ConfigError(f"decoding.{words}")

    def with_strategy(self, strategy: Literal["greedy", "sample", "beam"]) -> "DecodingOptions":
        """Returns these options for another strategy; those that it does not read go back to their defaults.

        Raises:
            ConfigError: what is left contradicts the strategy, as more `num_return_sequences` than `beam_size`.
        """
        defaults = {name: getattr(DecodingOptions, name) for name in unread_fields(strategy, self.num_beam_groups)}
        return dataclasses.replace(self, strategy=strategy, **defaults)

    def _contradictions(self) -> tuple[tuple[bool, str], ...]:
        """Returns every pair of options that cannot go together: whether they do here, and what to say of it."""
        by = self.strategy
        return (
            *(
                (
                    getattr(self, name) != getattr(DecodingOptions, name),
                    f"{name} is {getattr(self, name)!r}, which only {_READERS[reader]} reads; "
                    f"add --{reader} or leave it (strategy is {by})",
                )
                for name, reader in unread_fields(by, self.num_beam_groups).items()
            ),
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
                by == "beam" and self.num_return_sequences > self.beam_size,
                f"num_return_sequences is {self.num_return_sequences}, but a beam of {self.beam_size} ends in "
                "as many at most; raise beam_size",
            ),
        )


_GROUPS = "num-beam-groups above 1"
_READERS = {"strategy sample": "sampling", "strategy beam": "a beam search", _GROUPS: "a diverse beam search"}
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
}


def unread_fields(strategy: str, groups: int) -> dict[str, str]:
    """Returns the decoding fields that a search does not read -> the flag, without dashes, of one that does.

    Args:
        strategy: of the search.
        groups: its `num_beam_groups`, which count in a beam search alone.
    """
    read = {f"strategy {strategy}"} | ({_GROUPS} if strategy == "beam" and groups > 1 else set())
    return {name: reader for name, reader in _READ_BY.items() if reader not in read}


@dataclass(frozen=True)
class Config:
    """The whole of a run: everything needed to do it again."""

    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoding: DecodingOptions = field(default_factory=DecodingOptions)


@functools.cache
def field_paths() -> dict[str, tuple[str, dataclasses.Field[Any], Any]]:
    """Returns every leaf name of `Config` -> (its section, its field, its resolved type)."""
    leaves: dict[str, tuple[str, dataclasses.Field[Any], Any]] = {}
    for section in dataclasses.fields(Config):
        kind = field_types(Config)[section.name]
        for leaf in dataclasses.fields(kind):
            leaves[leaf.name] = (section.name, leaf, field_types(kind)[leaf.name])
    return leaves


@functools.cache
def field_types(kind: type) -> dict[str, Any]:
    """Returns the fields of a configuration class -> their resolved types."""
    return typing.get_type_hints(kind)
