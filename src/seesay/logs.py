"""Where log records go while a command or a service runs."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def logging_to(handler: logging.Handler, **levels: str) -> Iterator[None]:
    """Pass the records of some loggers to a handler only, and restore the loggers at the end.

    A handler may write to a stream that is closed after that.

    Args:
        handler: the handler.
        levels: level by name of the logger.
    """
    loggers = [(logging.getLogger(name), level) for name, level in levels.items()]
    before = [(each, each.handlers[:], each.level, each.propagate) for each, _ in loggers]
    for each, level in loggers:
        each.handlers[:], each.propagate = [handler], False
        each.setLevel(level)
    try:
        yield
    finally:
        for each, handlers, old, propagate in before:
            each.handlers[:], each.propagate = handlers, propagate
            each.setLevel(old)


def plain_handler() -> logging.Handler:
    """Return a handler that writes lines with the time of day to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    return handler


@contextlib.contextmanager
def visible_log() -> Iterator[None]:
    """Write the INFO records of seesay to stderr, unless the program has configured logging or a level for `seesay`.

    Python drops them otherwise, so that an hour of training in a notebook would print nothing.
    """
    logger = logging.getLogger("seesay")
    if logger.hasHandlers() or logger.level != logging.NOTSET:
        yield
        return
    with logging_to(plain_handler(), seesay="INFO"):
        yield
