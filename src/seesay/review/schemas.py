"""The requests of the review page."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seesay.review import limits
from seesay.review.entries import Review
from seesay.review.session import Replacement
from seesay.serving.errors import ApiError

Model = TypeVar("Model", bound=BaseModel)
Rows = Annotated[list[int], Field(max_length=limits.MAX_ROWS)]


class Command(BaseModel):
    """A request that may change entries.

    Attributes:
        revision: the latest revision that the page knows; the response has the entries that changed after it.
    """

    model_config = ConfigDict(extra="forbid")
    revision: int = Field(ge=-1)


class Edit(Command):
    """A new caption of a row; `accept` accepts it in the same step."""

    row: int
    caption: Annotated[str, Field(max_length=limits.MAX_CAPTION_CHARACTERS)]
    accept: bool = False


class Mark(Command):
    """A status of rows."""

    rows: Rows
    review: Review


class Revert(Command):
    """Rows that get the model's caption back."""

    rows: Rows


class Replace(Command):
    """A replacement in rows; `preview` only counts."""

    rows: Rows
    find: Annotated[str, Field(min_length=1, max_length=limits.MAX_FIND_CHARACTERS)]
    replacement: Annotated[str, Field(max_length=limits.MAX_FIND_CHARACTERS)]
    whole_words: bool = False
    match_case: bool = True
    preview: bool = False

    def rule(self) -> Replacement:
        """Return the replacement."""
        return Replacement(self.find, self.replacement, self.whole_words, self.match_case)


class Regenerate(Command):
    """Rows to caption again; `options` are decoding options, and an empty `prompt` is the captioner's."""

    rows: Annotated[list[int], Field(min_length=1, max_length=limits.MAX_REGENERATED)]
    options: dict[str, str] = {}
    prompt: Annotated[str, Field(max_length=limits.MAX_CAPTION_CHARACTERS)] = ""


def parse(kind: type[Model], body: bytes) -> Model:
    """Return a request from its JSON.

    Raises:
        ApiError: it is not JSON, lacks a field, or has an unsuitable one.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = f"{place}: {first['msg']}" if place else first["msg"]
        raise ApiError("bad_request", message[:300]) from error
