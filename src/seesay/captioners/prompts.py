"""Prompts of pretrained captioners and model servers, with variables per image."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seesay.errors import ConfigError
from seesay.images.loading import ImageInput


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt with variables in braces.

    Attributes:
        text: the prompt; `{folder}` and `{stem}` stand for the name of the image's folder and its file name without
            suffix, empty for an image without a path.
        language: language of the captions, for example `German`; empty: the model's.
        columns: columns of the input table by image name; each is a variable.

    Raises:
        ConfigError: the prompt is blank or has an unknown variable.
    """

    text: str
    language: str = ""
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigError("the prompt is blank; write what the caption should contain, or drop --prompt")

    def render(self, image: ImageInput) -> str:
        """Return the prompt of an image."""
        path = Path(image) if isinstance(image, (str, Path)) else None
        values = {"folder": path.parent.name if path else "", "stem": path.stem if path else ""}
        values.update(self.columns.get(str(image), {}))
        try:
            prompt = self.text.format_map(values)
        except (KeyError, ValueError, IndexError) as error:
            raise ConfigError(f"the prompt has an unknown variable: {error}; known: {', '.join(values)}") from None
        return f"{prompt} Answer in {self.language}." if self.language else prompt
