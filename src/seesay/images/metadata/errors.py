"""Errors of image descriptions."""

from seesay.errors import SeesayError


class DescriptionError(SeesayError, ValueError):
    """Unsupported or damaged file; the caller adds the file name."""
