"""Settings of the network that cannot go together: all rules in one place, each refused by one line."""

from collections.abc import Callable

from seesay.config import ModelConfig
from seesay.errors import ConfigError

_ONE_LAYER = ("attention", "show-attend-tell", "luong", "up-down")
_LOOPS = _ONE_LAYER  # the decoders with a time loop of ours, which attends at every word
_SHIPPED = (*_LOOPS, "pooled", "transformer")

Rule = Callable[[ModelConfig], str | None]


def refuse_contradictions(config: ModelConfig) -> None:
    """Raises a ConfigError of one line at the first contradiction.

    Decoders that do not ship are held to the rules about attention only; what else they need is theirs to check.

    Raises:
        ConfigError: what contradicts what, and what to set instead.
    """
    for rule in _RULES:
        if found := rule(config):
            raise ConfigError(found)


def _layers(config: ModelConfig) -> str | None:
    if config.layers != 1 and config.decoder in _ONE_LAYER:
        return f"model.layers is {config.layers}; the {config.decoder} decoder has one recurrent layer"
    return None


def _pooled_width(config: ModelConfig) -> str | None:
    name = "hidden_size" if config.merge == "state" else "embedding_size"
    wanted = config.hidden_size if config.merge == "state" else config.embedding_size
    if config.decoder != "pooled" or config.projection_size == wanted:
        return None
    return (
        f"model.projection_size is {config.projection_size}; with model.merge={config.merge} it must equal "
        f"model.{name} ({wanted})"
    )


def _transformer_width(config: ModelConfig) -> str | None:
    if config.decoder != "transformer" or config.embedding_size == config.hidden_size:
        return None
    return (
        f"model.embedding_size is {config.embedding_size}; in the transformer it must equal model.hidden_size "
        f"({config.hidden_size})"
    )


def _heads(config: ModelConfig) -> str | None:
    transformer = config.decoder == "transformer"
    name = "hidden_size" if transformer else "attention_size"
    width = config.hidden_size if transformer else config.attention_size
    if (transformer or config.attention_score == "multihead") and width % config.heads:
        return f"model.heads is {config.heads}, which does not divide model.{name} ({width})"
    return None


def _dot_width(config: ModelConfig) -> str | None:
    if config.attention_score != "dot" or config.projection_size == config.hidden_size:
        return None
    return (
        f"model.attention_score=dot multiplies regions with the state, but model.projection_size is "
        f"{config.projection_size} and model.hidden_size {config.hidden_size}: make them equal, or use general"
    )


def _score(config: ModelConfig) -> str | None:
    if config.decoder == "transformer" and config.attention_score in ("dot", "general"):
        return f"model.attention_score is {config.attention_score}; the transformer's attention is multihead"
    return None


def _hard(config: ModelConfig) -> str | None:
    if config.attention == "soft":
        return None
    if config.decoder != "show-attend-tell":
        return f"model.attention=hard needs model.decoder=show-attend-tell; the {config.decoder} decoder has none"
    if config.attention_score == "multihead":
        return "model.attention=hard draws one region a word, which model.attention_score=multihead cannot"
    return None


def _no_loop(config: ModelConfig) -> str | None:
    """Settings of the attention inside our time loop, given to a shipped decoder without one."""
    if config.decoder not in _SHIPPED or config.decoder in _LOOPS:
        return None
    names = ["doubly_stochastic"]
    if config.decoder == "pooled":
        names += ["attention_dropout", "state_dropout"]
    for name in names:
        if value := getattr(config, name):
            return f"model.{name} is {value}, but the {config.decoder} decoder has no use for it: set it to 0"
    return None


def _luong_output(config: ModelConfig) -> str | None:
    if config.decoder == "luong" and config.output_size == 0:
        return "model.output_size is 0; the luong decoder needs it: the width of its attentional state"
    return None


_RULES: tuple[Rule, ...] = (
    _layers,
    _pooled_width,
    _transformer_width,
    _heads,
    _dot_width,
    _score,
    _hard,
    _no_loop,
    _luong_output,
)
