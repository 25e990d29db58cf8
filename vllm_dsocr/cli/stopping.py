"""SIGTERM and Ctrl-C -> the run ends in good order, and in any case within seconds."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 130
GRACE_SECONDS = 5.0  # for an engine to shut down; records are whole at any moment


@contextmanager
def stops_in_order() -> Iterator[None]:
    """SIGTERM goes the way of Ctrl-C; a second one, or GRACE_SECONDS, end the process at once.

    Processes that the engine started follow this one, see `plugin/lifeline.py`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    inner = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_INTERRUPTED))
        _end_later()
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a script
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, inner)


def _end_later() -> None:
    timer = threading.Timer(GRACE_SECONDS, os._exit, [EXIT_INTERRUPTED])
    timer.daemon = True
    timer.start()
