"""A quick check whether the Hugging Face hub can be reached, because its libraries retry for a minute."""

import os
import threading
from contextlib import suppress

HUB_SECONDS = 2.0
"""Maximum time to wait for the response, in seconds; `HF_HUB_ETAG_TIMEOUT` overrides it."""


def hub_answers() -> bool:
    """Return whether the hub responds; False in offline mode too (`HF_HUB_OFFLINE=1` or `TRANSFORMERS_OFFLINE=1`).

    Sends one request without retries, in a thread, because the resolution of host names has no timeout.
    """
    from huggingface_hub import constants, get_session

    if os.environ.get("TRANSFORMERS_OFFLINE", "") not in ("", "0"):
        return False
    chosen = constants.HF_HUB_ETAG_TIMEOUT
    seconds = HUB_SECONDS if chosen == constants.DEFAULT_ETAG_TIMEOUT else float(chosen)
    answered = threading.Event()

    def ask() -> None:
        with suppress(Exception):  # the exception depends on the installed HTTP library
            get_session().head(constants.ENDPOINT, timeout=seconds)
            answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()
