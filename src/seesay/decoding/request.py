"""The parameters of a search."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from seesay.config import DecodingOptions
from seesay.decoding.constraints import TokenConstraints
from seesay.decoding.trace import SearchTrace
from seesay.errors import ConfigError

DEFAULT_MAX_LENGTH = 30
"""Maximum number of words if neither the options nor the training captions set one."""


@dataclass(frozen=True)
class GenerationRequest:
    """The decoding options of a search with its constraints, keys and trace.

    Attributes:
        options: the decoding options.
        constraints: the words and phrases of the options as token ids, from `token_constraints`; None if the options
            have none.
        keys: a name per image that seeds its samples, so that its caption does not depend on the others of its batch;
            None: the position in the batch.
        keep_attention: return attention weights.
        trace: records every candidate of the first search.
        required: number of hypotheses per image for which the search is widened; 0: `num_return_sequences`.

    Raises:
        ConfigError: the options contain words, but there are no constraints.
    """

    options: DecodingOptions = field(default_factory=DecodingOptions)
    constraints: TokenConstraints | None = None
    keys: Sequence[str] | None = None
    keep_attention: bool = False
    trace: SearchTrace | None = None
    required: int = 0

    def __post_init__(self) -> None:
        options = self.options
        if self.constraints is None and (options.bad_words or options.force_words or options.complete_endings):
            raise ConfigError(
                "decoding.bad_words, force_words and complete_endings are words; "
                "pass constraints=token_constraints(...)"
            )

    def resolved_options(self) -> DecodingOptions:
        """Return the options with `max_length` set."""
        longest = self.options.max_length or max(DEFAULT_MAX_LENGTH, self.options.min_length)
        return self.options.replace(max_length=longest)

    def names(self, images: int) -> list[str]:
        """Return the name of each of `images` images.

        Raises:
            ConfigError: the number of keys differs from that of images.
        """
        names = list(self.keys) if self.keys is not None else [str(place) for place in range(images)]
        if len(names) != images:
            raise ConfigError(f"{len(names)} keys for {images} images; pass one per image")
        return names
