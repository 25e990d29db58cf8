"""Processes of vLLM's engine end with the process that wanted them, however that ends.

While `held`, children are marked through their environment; `follow`, called in every process of
vLLM that loads this package and in every forked one, ends a child when its parent is gone. Without
the mark nothing happens: a server started as `vllm serve` is left alone. Standard library only.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "VLLM_DSOCR_PARENT"
_PR_SET_PDEATHSIG = 1  # of Linux's prctl(2)
_LOOK_SECONDS = 1.0


@contextmanager
def held() -> Iterator[None]:
    """Processes that are started meanwhile, and theirs, follow this one."""
    _follow_when_forked()
    os.environ[_VARIABLE] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE, None)


def follow() -> None:
    """Ends this process, if it is such a child, when its parent has ended."""
    holder = os.environ.get(_VARIABLE)
    if holder is None or holder == str(os.getpid()) or os.name != "posix":
        return
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if not _is_alive(int(holder)):  # it ended before that was in force
        os._exit(1)
    threading.Thread(target=_watch, args=(parent, int(holder)), daemon=True).start()


@functools.cache
def _follow_when_forked() -> None:
    """A forked process has loaded its plugins already and would not call `follow`."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=follow)


def _watch(parent: int, holder: int) -> None:
    """For systems without a signal at the parent's end, and for grandchildren."""
    while os.getppid() == parent and _is_alive(holder):
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
