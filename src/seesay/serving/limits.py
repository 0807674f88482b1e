"""Every bound of the service, by name."""

from dataclasses import dataclass

# One upload.
MAX_FILE_BYTES = 20_000_000
MAX_PIXELS = 50_000_000  # read from the header, before anything is decoded; lets telephones' images through
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP")  # what browsers show too

# One request.
MAX_IMAGES = 16
MAX_BODY_BYTES = 64_000_000
MAX_DRAINED_BYTES = 256_000_000  # of a body that is too large, so many are thrown away before the answer
MAX_FIELDS = 64
MAX_FIELD_BYTES = 4_000
MAX_NAME_CHARACTERS = 100  # of a file's name, as answers repeat it
RECEIVE_SECONDS = 30.0  # for the whole body: a slow client is sent away, and holds no place until then
ANSWER_SECONDS = 60.0  # from the last byte of the body to the answer

# One search.
MAX_BEAM_SIZE = 10
MAX_CAPTIONS = 10
MAX_WORDS = 60
MAX_TOP_TOKENS = 10
MAX_PHRASES = 10  # banned, and required
MAX_PHRASE_CHARACTERS = 60
MAX_REQUIRED_WORDS = 8  # in all: the beam is kept once for every number of them said

# The whole service.
MAX_PENDING_BYTES = 500_000_000  # of files accepted and not yet answered, which are held in memory
MAX_RECEIVING = 256  # requests whose bodies are on their way
READERS = 2  # images decoded at a time, each of which may take up to a gigabyte
RETRY_SECONDS = 1  # what a client that finds the queue full is told to wait
CLOSE_SECONDS = 5.0  # for answers on their way at the end, beyond the seconds of a request


@dataclass(frozen=True)
class Limits:
    """What may be set for one service.

    Attributes:
        max_batch: images that pass through the network together.
        max_wait: seconds that the first image of a batch waits for others.
        max_pending: images accepted and not yet answered; a request beyond them is sent away with 503.
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
