"""Validation of the model configuration: rules against contradictory settings, each with a one-line error."""

from collections.abc import Callable

from seesay.config import ModelConfig
from seesay.errors import ConfigError
from seesay.models.registry import decoder_options

Rule = Callable[[ModelConfig], str | None]


def validate_model_config(config: ModelConfig) -> None:
    """Raise ConfigError for the first contradiction.

    Raises:
        ConfigError: what contradicts what, and what to set instead.
    """
    for rule in _RULES:
        if found := rule(config):
            raise ConfigError(found)


def fields_read(config: ModelConfig) -> frozenset[str]:
    """Return the fields that affect the network: those of its decoder that other settings do not disable.

    Raises:
        ConfigError: the decoder is unknown.
    """
    unread = set()
    if config.attention == "soft":
        unread |= {"hard_reward", "hard_entropy", "hard_share"}
    if "attention_score" in decoder_options(config.decoder):
        if config.attention_score in ("dot", "general"):
            unread.add("attention_size")
        if config.attention_score != "multihead":
            unread.add("num_heads")
    return decoder_options(config.decoder) - unread


def equal_widths(config: ModelConfig) -> dict[str, tuple[str, str]]:
    """Return the widths that must equal another: name -> (other name, reason)."""
    pairs = {}
    if config.attention_score == "dot":
        pairs["projection_size"] = ("hidden_size", "with model.attention_score=dot (general has no such rule)")
    if config.decoder == "pooled":
        other = "hidden_size" if config.merge == "state" else "embedding_size"
        pairs["projection_size"] = (other, f"with model.merge={config.merge}")
    if config.decoder == "transformer":
        pairs["embedding_size"] = ("hidden_size", "in the transformer")
    return pairs


def _unread(config: ModelConfig) -> str | None:
    read = decoder_options(config.decoder)
    for name, info in ModelConfig.model_fields.items():
        value = getattr(config, name)
        if name not in read and value != info.default:
            return (
                f"model.{name} is {value!r}, which the {config.decoder} decoder does not read; "
                f"set it to {info.default!r}"
            )
    return None


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


def _hard(config: ModelConfig) -> str | None:
    if config.attention == "hard" and config.attention_score == "multihead":
        return "model.attention=hard samples one region per word, which model.attention_score=multihead cannot"
    return None


def _luong_output(config: ModelConfig) -> str | None:
    if config.decoder == "luong" and config.output_size == 0:
        return "model.output_size is 0; the luong decoder needs it: the width of its attentional state"
    return None


_RULES: tuple[Rule, ...] = (_unread, _equal_widths, _heads, _hard, _luong_output)
