"""Every answer that is not a caption: one form, `{"error": {"code", "message"}}`, and one line that says what to do."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

Code = Literal[
    "bad_request",
    "unauthorized",
    "not_found",
    "method_not_allowed",
    "too_slow",
    "too_large",
    "wrong_type",
    "invalid_options",
    "unreadable_image",
    "busy",
    "internal",
]

STATUS: dict[str, int] = {
    "bad_request": 400,
    "unauthorized": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "too_slow": 408,
    "too_large": 413,
    "wrong_type": 415,
    "invalid_options": 422,
    "unreadable_image": 422,
    "busy": 503,
    "internal": 500,
}


class Problem(BaseModel):
    """What is wrong."""

    code: Code
    message: str = Field(description="one line: what, where, and what to do")


class ErrorAnswer(BaseModel):
    """The body of every answer that is not a success."""

    error: Problem


class ApiError(Exception):
    """A request, or one of its images, that is not served.

    Args:
        code: decides the status, see `STATUS`.
        message: one line for the client.
        headers: of the answer.
    """

    def __init__(self, code: Code, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.code: Code = code
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.code]

    def problem(self) -> Problem:
        """Returns the same for the body of an answer."""
        return Problem(code=self.code, message=str(self))


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


def answer(error: ApiError) -> JSONResponse:
    """Returns the answer that a refusal is."""
    return JSONResponse(ErrorAnswer(error=error.problem()).model_dump(), error.status, error.headers)
