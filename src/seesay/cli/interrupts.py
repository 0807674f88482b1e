"""Ctrl-C while a library works that raises another error in its place, or only prints it."""

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


@contextmanager
def keyboard_interrupts() -> Iterator[None]:
    """Raise `KeyboardInterrupt` for every Ctrl-C in the block.

    An interrupted import leaves partial modules, which raise other errors later; these are replaced. An interrupt in a
    destructor or a callback of a weak reference is only printed by Python; it is raised again outside of it.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = False
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook

    def receive(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal received
        received = True
        raise KeyboardInterrupt

    def raise_again(unraisable: "UnraisableHookArgs") -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            threading.Timer(0.01, _thread.interrupt_main).start()  # in the hook it would be only printed again
        else:
            hook(unraisable)

    if handler is signal.default_int_handler:  # not ignored, as in a background process of a shell script
        signal.signal(signal.SIGINT, receive)
        sys.unraisablehook = raise_again
    try:
        yield
    except Exception as error:
        if received:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, handler)
        sys.unraisablehook = hook
