"""Error responses: `{"error": {"code", "message"}}`, where the message is one line that states what to do."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

Code = Literal[
    "bad_request",
    "unauthorized",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "too_slow",
    "conflict",
    "too_large",
    "wrong_type",
    "invalid_options",
    "unreadable_image",
    "busy",
    "model_server",
    "internal",
]

STATUS: dict[str, int] = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "too_slow": 408,
    "conflict": 409,
    "too_large": 413,
    "wrong_type": 415,
    "invalid_options": 422,
    "unreadable_image": 422,
    "busy": 503,
    "model_server": 503,
    "internal": 500,
}


class ErrorDetail(BaseModel):
    """Code and message of an error."""

    code: Code
    message: str = Field(description="one line: what failed, where, and what to do")


class ErrorResponse(BaseModel):
    """Body of every error response."""

    error: ErrorDetail


class ApiError(Exception):
    """A request, or one of its images, cannot be served.

    Args:
        code: determines the status, see `STATUS`.
        message: one line for the client.
        headers: of the response.
    """

    def __init__(self, code: Code, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.code: Code = code
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.code]

    def detail(self) -> ErrorDetail:
        """Return the error as part of a response body."""
        return ErrorDetail(code=self.code, message=str(self))


class ClientDisconnectedError(Exception):
    """The client closed the connection before the response."""


DISCONNECTED = Response(status_code=499)
"""The response after the client closed the connection; never read."""


def error_response(error: ApiError) -> JSONResponse:
    """Return the response for an error."""
    return JSONResponse(ErrorResponse(error=error.detail()).model_dump(), error.status, error.headers)
