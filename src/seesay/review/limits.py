"""All limits of the review page."""

MAX_ROWS = 100_000  # the page holds the texts of all rows
MAX_CAPTION_CHARACTERS = 10_000
MAX_FIND_CHARACTERS = 1_000
MAX_UNDO = 10_000  # actions
MAX_REGENERATED = 32  # rows of one request
MAX_BODY_BYTES = 8_000_000  # of a request
BODY_SECONDS = 30.0  # for a request's body to arrive

THUMBNAIL_SIDES = {"small": 320, "large": 1280}  # pixels of the longer side
CACHE_BYTES = 64_000_000  # of encoded thumbnails in memory
READERS = 2  # images decoded at the same time
