"""Captions generated again, with other options or another prompt."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from seesay.captioners.base import Caption, Captioner
from seesay.captioners.spec import ModelSpec
from seesay.config import DecodingOptions
from seesay.errors import ImageError
from seesay.serving.requests import read_request


class Regenerator:
    """A captioner that is loaded again when the prompt changes; for use in one thread.

    Args:
        spec: the models.

    Attributes:
        name: of the model.
        defaults: its decoding options.
        takes_prompt: the model has a prompt.

    Raises:
        SeesayError: see `ModelSpec.load`.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        captioner = spec.load()
        self._captioner: Captioner | None = captioner
        self.name, self.defaults = captioner.name, captioner.defaults
        self.takes_prompt = bool(spec.endpoint) or not _is_trained(spec.models)

    @property
    def prompt(self) -> str:
        """The prompt in use; empty: the model's."""
        return self._spec.prompt

    def options(self, fields: dict[str, str]) -> DecodingOptions:
        """Return decoding options over the model's own, within the limits of `seesay serve`.

        Raises:
            ApiError: an unknown option, or an unsuitable value.
        """
        return read_request(fields.items(), self.defaults).options

    def caption(
        self, sources: Sequence[str], options: DecodingOptions, prompt: str | None = None
    ) -> list[Caption | ImageError]:
        """Return the caption of each image, or why there is none.

        Args:
            sources: the images.
            options: decoding options.
            prompt: of the captions; None: the prompt in use.

        Raises:
            ConfigError: the options or the prompt cannot be satisfied.
            SeesayError: the model cannot be loaded with this prompt.
        """
        if prompt is not None and prompt != self._spec.prompt:
            self.close()  # first: two large models may not fit into memory
            self._spec = replace(self._spec, prompt=prompt)
        if self._captioner is None:
            self._captioner = self._spec.load()
        self._captioner.check(options)
        return [found for _, found in self._captioner.caption_each(sources, options)]

    def close(self) -> None:
        """Free the memory of the model."""
        if self._captioner is not None:
            self._captioner.close()
            self._captioner = None


def _is_trained(models: Sequence[str]) -> bool:
    from seesay.captioners.onnx import is_export
    from seesay.checkpoint import is_run

    return any(is_run(Path(model)) or is_export(Path(model)) for model in models)
