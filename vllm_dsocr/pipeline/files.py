"""Writing so that a reader, or the next run, sees a whole file or none. Needs filelock."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from vllm_dsocr.document.unicode import utf8

LOCK = ".dsocr.lock"  # in OUT and in documents, which are known by it
_TEMPORARY = ".tmp"
# What stops every file that follows too: a full or read-only disk.
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class InUse(Exception):
    """Another run is writing to the same place."""


class CannotWrite(Exception):
    """No file can be written any more; the message is one sentence."""


def is_hopeless(error: OSError) -> bool:
    """Whether the trouble with one file is the trouble of all."""
    return error.errno in _HOPELESS


def write_atomic(path: Path, pieces: Iterable[str | bytes]) -> None:
    """Puts the pieces, UTF-8, where `path` is, at once; on disk when this returns."""
    # Of this writer alone: a machine that was given up may come back beside its successor.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(utf8(piece) if isinstance(piece, str) else piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # gives a full disk its room back
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed run had not finished writing in this folder."""
    for path in folder.glob("*" + _TEMPORARY):
        path.unlink()


@contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Keeps other runs out of a folder, which is made; the lock dies with the process.

    wait: seconds to wait for another run.  Raises InUse, or CannotWrite where there can be no such
    folder.
    """
    try:
        lock = take_lock(folder, wait)
    except OSError as error:
        raise CannotWrite(f"cannot write to {folder}: {error.strerror or error}") from error
    if lock is None:
        raise InUse(f"another run is writing to {folder}")
    try:
        yield
    finally:
        lock.release()
        (folder / LOCK).touch()  # some systems take the file away with the lock


def take_lock(folder: Path, wait: float = 0.0) -> BaseFileLock | None:
    """The lock of a folder, which is made; None while another has it. Any thread may release it.

    Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=wait, poll_interval=0.01, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock
