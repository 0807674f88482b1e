"""Captions generated again, with other options or another prompt."""

from collections.abc import Sequence

from seesay.captioners.alt_text import Style
from seesay.captioners.base import Captioner
from seesay.captioners.caption import Caption
from seesay.captioners.prompts import literal
from seesay.config import DecodingOptions
from seesay.errors import ImageError
from seesay.serving.requests import read_request


class Regenerator:
    """The captioner of the review page; for use in one thread.

    Args:
        captioner: any captioner; `close` closes it.
        style: of the captions.

    Attributes:
        captioner: the captioner.
        style: of the captions.
    """

    def __init__(self, captioner: Captioner, style: Style = "plain") -> None:
        self.captioner, self.style = captioner, style

    def options(self, fields: dict[str, str]) -> DecodingOptions | None:
        """Return decoding options over the captioner's own, within the limits of `seesay serve`.

        Raises:
            ApiError: an unknown option, or an unsuitable value.
        """
        return read_request(fields.items(), self.captioner.defaults).options

    def caption(
        self, sources: Sequence[str], options: DecodingOptions | None, prompt: str = ""
    ) -> list[Caption | ImageError]:
        """Return the caption of each image, or why there is none.

        Args:
            sources: the images.
            options: decoding options.
            prompt: of the captions; empty or the captioner's own: the captioner's, with its variables.

        Raises:
            ConfigError: the options or the prompt cannot be satisfied.
        """
        own = prompt == self.captioner.prompt_text
        chosen = "" if own or not prompt else literal(prompt)
        self.captioner.check(self.captioner.options(options, chosen))
        found = self.captioner.caption_each(sources, options, style=self.style, prompt=chosen)
        return [each for _, each in found]

    def close(self) -> None:
        """Free the memory of the model."""
        self.captioner.close()
