"""Why a description cannot be read from a file or written into it."""

from seesay.errors import SeesayError


class DescriptionError(SeesayError, ValueError):
    """A file without a place for a description, or whose blocks are damaged; the caller says which file."""
