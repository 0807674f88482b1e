"""OpenAPI description: the request form, the responses, and examples of both."""

from typing import Any

from seesay.serving import limits
from seesay.serving.chat import ChatRequest
from seesay.serving.errors import STATUS, ErrorResponse
from seesay.serving.requests import RequestModel
from seesay.serving.schemas import ModelInfo
from seesay.serving.service import CaptionService
from seesay.serving.uploads import IMAGES

_DESCRIPTIONS = {
    400: "malformed form, or no image",
    401: "the key is missing or wrong",
    408: "the body did not arrive in time",
    413: "an image or the body is too large",
    415: "not a multipart form",
    422: "invalid options, or no readable image",
    503: "the queue is full, the response took too long, or the model server is down; see `Retry-After`",
}


def _error(status: int) -> dict[str, Any]:
    code = next(code for code, number in STATUS.items() if number == status)
    example = {"error": {"code": code, "message": _DESCRIPTIONS[status]}}
    return {
        "model": ErrorResponse,
        "description": _DESCRIPTIONS[status],
        "content": {"application/json": {"example": example}},
    }


ERRORS: dict[int | str, dict[str, Any]] = {status: _error(status) for status in _DESCRIPTIONS}

_WORDS = (("a", 0.61, [0.02, 0.05, 0.31, 0.62]), ("dog", 0.83, [0.01, 0.04, 0.15, 0.8]))
_EXAMPLE = {
    "model": "attention-gru",
    "options": {"strategy": "beam", "beam_size": 3, "num_return_sequences": 1},
    "results": [
        {
            "name": "photo.jpg",
            "width": 640,
            "height": 480,
            "frame": {"left": 0.0, "top": 0.0, "width": 1.0, "height": 1.0},
            "grid": [2, 2],
            "captions": [
                {
                    "text": "a dog",
                    "probability": 0.5063,
                    "score": -0.5261,
                    "finished": True,
                    "rejected": None,
                    "words": [
                        {"text": text, "probability": value, "attention": weights, "top_tokens": None}
                        for text, value, weights in _WORDS
                    ],
                    "end": {"text": None, "probability": 0.78, "attention": None, "top_tokens": None},
                }
            ],
            "error": None,
        }
    ],
}

CAPTION_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "one entry per image; an image that cannot be read has an `error` instead of captions",
        "content": {"application/json": {"example": _EXAMPLE}},
    },
    **ERRORS,
}


def _form() -> dict[str, Any]:
    schema = RequestModel.model_json_schema()
    files = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "maxItems": limits.MAX_IMAGES,
        "description": f"{', '.join(limits.FORMATS)}; at most {limits.MAX_FILE_BYTES / 1e6:g} MB and "
        f"{limits.MAX_PIXELS / 1e6:g} megapixels each",
    }
    return {
        **schema,
        "title": "CaptionForm",
        "properties": {IMAGES: files, **schema["properties"]},
        "required": [IMAGES],
    }


BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": _form(),
                "example": {IMAGES: ["photo.jpg"], "strategy": "beam", "beam_size": 5, "attention": True},
            }
        },
    }
}

NO_MODEL: dict[str, Any] = {
    "model": ErrorResponse,
    "description": "another model is requested than the one that is served",
}
CHAT_ERRORS: dict[int | str, dict[str, Any]] = {
    **{status: entry for status, entry in ERRORS.items() if status != 415},
    404: NO_MODEL,
}
_IMAGE_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CHAT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}"),
                "example": {
                    "model": "attention-gru",
                    "messages": [{"role": "user", "content": [_IMAGE_PART]}],
                },
            }
        },
    }
}


def describe_model(service: CaptionService) -> ModelInfo:
    """Return the entry of `/v1/models` for the served model."""
    captioner = service.captioner
    return ModelInfo(
        id=service.name,
        created=service.started,
        **captioner.describe(),
        attention=service.has_attention,
        options=captioner.options().model_dump(),
        limits={
            "file_bytes": limits.MAX_FILE_BYTES,
            "body_bytes": limits.MAX_BODY_BYTES,
            "pixels": limits.MAX_PIXELS,
            "formats": list(limits.FORMATS),
            "images": limits.MAX_IMAGES,
            "beam_size": limits.MAX_BEAM_SIZE,
            "num_return_sequences": limits.MAX_CAPTIONS,
            "max_length": limits.MAX_WORDS,
            "top_tokens": limits.MAX_TOP_TOKENS,
            "answer_seconds": service.limits.answer_seconds,
        },
    )
