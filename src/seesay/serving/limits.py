"""All limits of the service."""

from dataclasses import dataclass

# One upload.
MAX_FILE_BYTES = 20_000_000
MAX_PIXELS = 50_000_000  # checked from the header, before decoding; phone cameras stay below
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP")  # formats that browsers display

# One request.
MAX_IMAGES = 16
MAX_BODY_BYTES = 64_000_000
MAX_DRAINED_BYTES = 256_000_000  # bytes read and discarded of a body that is too large, before the response
MAX_FIELDS = 64
MAX_FIELD_BYTES = 4_000
MAX_NAME_CHARACTERS = 100  # of a file name, in responses
RECEIVE_SECONDS = 30.0  # for the body to arrive; a request occupies no place in the queue until then
ANSWER_SECONDS = 60.0  # from the last byte of the body to the response

# One search.
MAX_BEAM_SIZE = 10
MAX_CAPTIONS = 10
MAX_NEIGHBOURS = 100
MAX_WORDS = 60
MAX_TOP_TOKENS = 10
MAX_PHRASES = 10  # of `bad_words`, and of `force_words`
MAX_PROMPT_CHARACTERS = 4_000
MAX_PHRASE_CHARACTERS = 60
MAX_REQUIRED_WORDS = 8  # in total: the search keeps one beam per number of satisfied words

# The service.
MAX_PENDING_BYTES = 500_000_000  # of accepted, unanswered files, which are held in memory
MAX_RECEIVING = 256  # requests whose bodies are being received
READERS = 2  # images decoded concurrently, each of which may need up to a gigabyte
RETRY_SECONDS = 1  # `Retry-After` of a full queue
CLOSE_SECONDS = 5.0  # for responses in progress at shutdown, in addition to the time of a request


@dataclass(frozen=True)
class Limits:
    """Configurable limits of one service.

    Attributes:
        max_batch: images per batch.
        max_wait: maximum time that the first image of a batch waits for others, in seconds.
        max_pending: accepted, unanswered images; a request beyond them gets status 503.
        receive_seconds: see `RECEIVE_SECONDS`.
        answer_seconds: see `ANSWER_SECONDS`.
        max_receiving: see `MAX_RECEIVING`.
    """

    max_batch: int = 32
    max_wait: float = 0.01
    max_pending: int = 256
    receive_seconds: float = RECEIVE_SECONDS
    answer_seconds: float = ANSWER_SECONDS
    max_receiving: int = MAX_RECEIVING
