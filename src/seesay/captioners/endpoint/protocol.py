"""The chat-completions protocol: decoding options in requests, captions in responses."""

import base64
import bisect
import hashlib
import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

from seesay.captioners.caption import Caption
from seesay.captioners.endpoint.client import RequestError
from seesay.config import DecodingOptions
from seesay.config.flags import flag_name
from seesay.errors import ConfigError

DEFAULT_MAX_TOKENS = 512

_READ = ("strategy", "max_length", "temperature", "top_p", "sampling_seed", "num_return_sequences")


def check_options(options: DecodingOptions) -> None:
    """Check that the protocol has the options.

    Raises:
        ConfigError: it lacks one, which is named.
    """
    if options.rerank != "none":
        raise ConfigError(f"decoding.rerank is {options.rerank}, which model servers lack; drop --rerank")
    if options.strategy == "beam":
        raise ConfigError("decoding.strategy is beam, which model servers lack; use greedy or sample")
    for name, value in options:
        if name not in _READ and value != options.default_of(name):
            raise ConfigError(f"decoding.{name} is {value!r}, which model servers lack; drop {flag_name(name)}")
    if options.num_return_sequences > 1 and options.strategy != "sample":
        raise ConfigError("decoding.num_return_sequences above 1 needs strategy sample with a model server")


def request_body(model: str, content: tuple[str, bytes], options: DecodingOptions, name: str) -> dict[str, Any]:
    """Return the body of a request.

    Args:
        model: the server's model.
        content: prompt and JPEG file.
        options: decoding options, with `max_length` in tokens.
        name: name of the image, which is combined with the seed of sampling.
    """
    prompt, jpeg = content
    image = {"url": f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"}
    parts = [{"type": "image_url", "image_url": image}, {"type": "text", "text": prompt}]
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": options.max_length,
        "temperature": 0,
        "logprobs": True,
    }
    if options.strategy == "sample":
        body.update(temperature=options.temperature, top_p=options.top_p, seed=image_seed(options.sampling_seed, name))
    if options.num_return_sequences > 1:
        body["n"] = options.num_return_sequences
    return body


_OTHER_FIELDS = {"max_completion_tokens": "max_tokens", "logprobs": "logprobs"}
"""What the message of a refused request contains -> the field of the body that the server does not take."""


def refused_field(error: RequestError, body: Container[str]) -> str | None:
    """Return the field of a body that made a server refuse it; None if there is another reason."""
    if error.status not in (400, 422):
        return None
    found = next((field for word, field in _OTHER_FIELDS.items() if word in error.message), None)
    return found if found is not None and found in body else None


def without_fields(body: dict[str, Any], refused: Container[str]) -> dict[str, Any]:
    """Return a body without the fields that a server refuses; newer models call the maximum length otherwise."""
    kept = {name: value for name, value in body.items() if name not in refused}
    if "max_tokens" in refused:
        kept["max_completion_tokens"] = body["max_tokens"]
    return kept


def image_seed(seed: int, name: str) -> int:
    """Return the seed of an image's samples, which every server can store: 0 to 2 ** 31 - 1."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).digest()[:4]) >> 1


def read_captions(answer: Mapping[str, Any]) -> list[Caption]:
    """Return the captions in a response, in the order of the server.

    Raises:
        RequestError: there is none, or the server refused to write one.
    """
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise RequestError(0, "the response has no choices", temporary=True)
    try:
        return [_read_choice(choice) for choice in choices]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RequestError(0, "the response has an unknown form", temporary=True) from None


def _read_choice(choice: Mapping[str, Any]) -> Caption:
    message = choice["message"]
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    text = str(content).strip()
    reason = choice.get("finish_reason")
    if reason == "content_filter" or (not text and message.get("refusal")):
        raise RequestError(422, f"the model refused ({message.get('refusal') or reason})")
    words = tuple(text.split())
    log_probs, end = word_log_probs(words, (choice.get("logprobs") or {}).get("content") or ())
    score = sum(log_probs) + (0.0 if math.isnan(end) else end) if log_probs else math.nan
    return Caption(text, words, log_probs, end, score, finished=reason != "length")


def word_log_probs(words: Sequence[str], tokens: Sequence[Mapping[str, Any]]) -> tuple[tuple[float, ...], float]:
    """Return the log-probability of each word, which is the sum over its tokens, and of the end.

    Args:
        words: the words of the text.
        tokens: entries of the response's `logprobs`, of the whole text; their bytes may split a character.

    Returns:
        No log-probabilities if there are no tokens or they make another text. That of the end is NaN if no token
        follows the last word.
    """
    data = [_token_bytes(token) for token in tokens]
    ends = _word_ends(words, b"".join(data))
    sums = [0.0] * (len(words) + 1)  # the last one of the end
    place, ended = 0, False
    for token, piece in zip(tokens, data, strict=True):
        # A token of blanks only counts as a part of the next word.
        word = bisect.bisect_right(ends, place + len(piece) - len(piece.lstrip() or piece))
        sums[word] += float(token["logprob"])
        ended |= word == len(words)
        place += len(piece)
    if not words or len(ends) < len(words) or not all(map(math.isfinite, sums)):
        return (), math.nan
    return tuple(sums[:-1]), sums[-1] if ended else math.nan


def _word_ends(words: Sequence[str], text: bytes) -> list[int]:
    """Return the end of each word in a text, up to the first word that is missing or follows other characters."""
    ends: list[int] = []
    for word in words:
        before = ends[-1] if ends else 0
        at = text.find(word.encode(), before)
        if at < 0 or text[before:at].decode(errors="replace").strip():
            break
        ends.append(at + len(word.encode()))
    return ends


def _token_bytes(token: Mapping[str, Any]) -> bytes:
    data = token.get("bytes")
    return bytes(data) if data else str(token["token"]).encode()
