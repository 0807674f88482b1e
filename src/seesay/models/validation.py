"""Settings of the network that cannot go together: all rules in one place, each refused by one line."""

from collections.abc import Callable

from seesay.config import ModelConfig
from seesay.errors import ConfigError

_LOOPS = ("attention", "show-attend-tell", "luong", "up-down")
"""The decoders with a time loop of ours, of one layer, which attends at every word."""
SHIPPED = (*_LOOPS, "pooled", "transformer")
"""The decoders whose needs are known here."""

Rule = Callable[[ModelConfig], str | None]


def validate_model_config(config: ModelConfig) -> None:
    """Raises a ConfigError of one line at the first contradiction.

    Decoders that do not ship are held to the rules about attention only; what else they need is theirs to check.

    Raises:
        ConfigError: what contradicts what, and what to set instead.
    """
    for rule in _RULES:
        if found := rule(config):
            raise ConfigError(found)


def _layers(config: ModelConfig) -> str | None:
    if config.num_layers != 1 and config.decoder in _LOOPS:
        return f"model.num_layers is {config.num_layers}; the {config.decoder} decoder has one recurrent layer"
    return None


def equal_widths(config: ModelConfig) -> dict[str, tuple[str, str]]:
    """Returns the widths that have to equal another -> (that other, what demands it)."""
    pairs = {}
    if config.attention_score == "dot":
        pairs["projection_size"] = ("hidden_size", "with model.attention_score=dot (general has no such need)")
    if config.decoder == "pooled":
        other = "hidden_size" if config.merge == "state" else "embedding_size"
        pairs["projection_size"] = (other, f"with model.merge={config.merge}")
    if config.decoder == "transformer":
        pairs["embedding_size"] = ("hidden_size", "in the transformer")
    return pairs


def _equal_widths(config: ModelConfig) -> str | None:
    for name, (other, why) in equal_widths(config).items():
        value, wanted = getattr(config, name), getattr(config, other)
        if value != wanted:
            return f"model.{name} is {value}; {why} it must equal model.{other} ({wanted})"
    return None


def _heads(config: ModelConfig) -> str | None:
    transformer = config.decoder == "transformer"
    name = "hidden_size" if transformer else "attention_size"
    width = config.hidden_size if transformer else config.attention_size
    if (transformer or config.attention_score == "multihead") and width % config.num_heads:
        return f"model.num_heads is {config.num_heads}, which does not divide model.{name} ({width})"
    return None


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
    if config.decoder not in SHIPPED or config.decoder in _LOOPS:
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
    _equal_widths,
    _heads,
    _score,
    _hard,
    _no_loop,
    _luong_output,
)
