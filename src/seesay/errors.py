"""The errors a caller of seesay may meet.

Each message is one line that says what is wrong, where, and what to do about it; the command line prints it
as it stands and exits with a non-zero code. Anything else that escapes is a fault of ours.
"""


class SeesayError(Exception):
    """Base of every error that seesay raises on purpose."""


class ConfigError(SeesayError, ValueError):
    """A configuration names an unknown field, or holds a value that cannot work."""


class DataError(SeesayError, ValueError):
    """Captions, splits or predictions that cannot be read or do not fit together."""


class ImageError(SeesayError, ValueError):
    """An image that is missing, unreadable, truncated or unreasonably large."""


class CaptionError(ImageError):
    """An image whose generated caption is not usable; `reason` is one of `seesay.captioners.guard`."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class FeatureStoreError(SeesayError, ValueError):
    """A feature store that is damaged, incomplete, or was made by another encoder."""


class EncoderError(SeesayError, ValueError):
    """An image encoder, one of its layers, or its weights, that cannot be had."""


class CheckpointError(SeesayError, ValueError):
    """A run folder or checkpoint that is damaged or does not fit its model."""


class DownloadError(SeesayError, OSError):
    """A file that could not be fetched whole from where it is published."""


class UploadError(SeesayError, OSError):
    """A run that could not be uploaded to the hub."""


class EndpointError(SeesayError):
    """A model server that cannot be reached, refuses the key, lacks the model, or keeps failing."""


class MissingDependencyError(SeesayError, ImportError):
    """An optional library is absent; the message names the extra that installs it."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library}, which is not installed; run: pip install 'seesay[{extra}]'")
        self.library = library
        self.extra = extra
