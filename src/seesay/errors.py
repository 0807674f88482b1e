"""The errors a caller of seesay may meet.

Each message is one line that says what is wrong, where, and what to do about it; the command line prints it
as it stands and exits with a non-zero code. Anything else that escapes is a fault of ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager


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
    """A library is absent; the message names the extra that installs it.

    Args:
        library: its name.
        extra: the extra; empty: it is a dependency of seesay itself.
        purpose: what needs it.
    """

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library}, which is not installed; run: {install_command(extra)}")
        self.library = library
        self.extra = extra


CORE_MODULES = frozenset(
    {
        "PIL",
        "cyclopts",
        "jinja2",
        "lightning",
        "matplotlib",
        "numpy",
        "onnx",
        "onnxruntime",
        "pyarrow",
        "pydantic",
        "rich",
        "safetensors",
        "tensorboard",
        "timm",
        "tokenizers",
        "torch",
        "torchvision",
        "yaml",
    }
)
"""Modules of the dependencies in pyproject.toml, some of which an installation for exports lacks."""


def install_command(extra: str = "") -> str:
    """Return the command that installs the dependencies of seesay, with those of an extra."""
    return f"pip install 'seesay[{extra}]'" if extra else "pip install seesay"


@contextmanager
def core_dependencies(purpose: str) -> Iterator[None]:
    """Replace the error of an import of one of `CORE_MODULES` that is not installed.

    Args:
        purpose: what the block does, the beginning of the message.

    Raises:
        MissingDependencyError: a module is not installed.
    """
    try:
        yield
    except MissingDependencyError:
        raise
    except ImportError as error:
        cause: BaseException | None = error  # a library may have raised its own error instead
        while cause is not None and not isinstance(cause, ModuleNotFoundError):
            cause = cause.__cause__
        if cause is None or cause.name not in CORE_MODULES:
            raise
        raise MissingDependencyError(cause.name, "", purpose) from error
