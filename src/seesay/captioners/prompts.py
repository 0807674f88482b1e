"""Prompts of pretrained captioners and model servers: presets, and variables per image."""

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seesay.errors import ConfigError, ImageError
from seesay.images.loading import ImageInput
from seesay.images.metadata import ImageFacts, read_facts
from seesay.images.sources import open_source

PRESETS: Mapping[str, str] = {
    "short": "Describe this image in one short sentence.",
    "detailed": (
        "Describe this image in detail in one paragraph: the subjects, what they do, the setting, the colours and any "
        "readable text. Describe only what is visible."
    ),
    "alt-text": (
        "Write the alt text of this image for a blind reader: one sentence of at most 125 characters that states what "
        'matters. Do not begin with "an image of".'
    ),
    "tags": "List 5 to 15 tags for this image in lower case, separated by commas. Write only the tags.",
    "training-caption": (
        "Write a caption of this image for training an image generator: one sentence that names the subject, its "
        "attributes, the action, the setting, the composition and the style. Write only the caption."
    ),
}
"""Prompts by name, for `--prompt NAME`."""

VARIABLES = ("folder", "stem", "exif.date", "exif.place", "tags")
"""Variables that every image has; columns of the input table are further ones."""

_FROM_FILE = frozenset(("exif.date", "exif.place", "tags"))


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt with variables in braces; `{{` and `}}` stand for braces.

    Attributes:
        text: the prompt, or the name of one of `PRESETS`. `{folder}` and `{stem}` stand for the name of the image's
            folder and its file name without suffix, `{exif.date}` for the day it was taken (2026-11-30),
            `{exif.place}` for latitude and longitude, `{tags}` for the keywords in its metadata. A variable that an
            image lacks is empty.
        language: language of the captions, for example `German`; empty: the model's.
        columns: columns of the input table by image name; each is a variable, before the ones above.

    Raises:
        ConfigError: the prompt is blank, has an unknown variable, or an unmatched brace.
    """

    text: str
    language: str = ""
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_variables(self.text, {name for row in self.columns.values() for name in row})

    @property
    def source(self) -> str:
        """The prompt with its variables, and the request for the language."""
        return self._with_language(PRESETS.get(self.text, self.text))

    def render(self, image: ImageInput) -> str:
        """Return the prompt of an image."""
        path = Path(image) if isinstance(image, (str, Path)) else None
        values = {"folder": path.parent.name if path else "", "stem": path.stem if path else ""}
        columns = self.columns.get(str(image), {}) if path else {}
        used = prompt_variables(self.text)
        if path and used & _FROM_FILE - columns.keys():
            facts = _facts(str(image))
            values |= {"exif.date": facts.date, "exif.place": facts.place, "tags": ", ".join(facts.tags)}
        values |= columns
        filled = (literal + ("" if name is None else values.get(name, "")) for literal, name in _parts(self.text))
        return self._with_language("".join(filled))

    def _with_language(self, prompt: str) -> str:
        return f"{prompt} Answer in {self.language}." if self.language else prompt


def literal(text: str) -> str:
    """Return a prompt that is rendered as `text`, whose braces are no variables."""
    return text.replace("{", "{{").replace("}", "}}")


def prompt_variables(prompt: str) -> frozenset[str]:
    """Return the names of the variables in a prompt, or in the preset of this name.

    Raises:
        ConfigError: the prompt is blank, or a brace is unmatched.
    """
    if not prompt.strip():
        raise ConfigError("the prompt is blank; write what the caption should contain, or drop --prompt")
    return frozenset(name for _, name in _parts(prompt) if name is not None)


def check_variables(prompt: str, columns: Iterable[str] = ()) -> None:
    """Check that the variables of a prompt are known.

    Args:
        prompt: a prompt or the name of a preset.
        columns: names of the columns of the input table.

    Raises:
        ConfigError: the prompt is blank, a variable is unknown, or a brace is unmatched.
    """
    known = dict.fromkeys((*VARIABLES, *sorted(columns)))
    unknown = sorted(prompt_variables(prompt) - known.keys())
    if unknown:
        names = ", ".join(f"{{{name}}}" for name in known)
        raise ConfigError(
            f"the prompt has an unknown variable {{{unknown[0]}}}; known: {names} and the columns of an input table; "
            "for braces write {{ and }}"
        )


def _parts(prompt: str) -> list[tuple[str, str | None]]:
    """Return the literal texts of a prompt, each with the variable after it; None after the last one."""
    try:
        parsed = list(string.Formatter().parse(PRESETS.get(prompt, prompt)))
    except ValueError as error:
        raise ConfigError(f"the prompt has an unmatched brace ({error}); for braces write {{{{ and }}}}") from error
    # What `str.format` would take for a conversion or format is part of the name here, as in {file:name}.
    return [
        (text, None if name is None else f"{name}{'!' + mark if mark else ''}{':' + spec if spec else ''}")
        for text, name, spec, mark in parsed
    ]


def _facts(image: str) -> ImageFacts:
    """Return the metadata of an image file; those of an image from a URL, which is loaded once, are empty."""
    if image.lower().startswith(("http://", "https://")):
        return ImageFacts()
    try:
        with open_source(image) as stream:
            return read_facts(stream.read())
    except (ImageError, OSError):  # loading the pixels reports it
        return ImageFacts()
