"""Calls in processes that end in the middle, spin, eat memory or are not wanted any more."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from vllm_dsocr.server.work.processes import ProcessDied, Processes

T = TypeVar("T")
MIB = 1 << 20


def double(number: int) -> int:
    return 2 * number


def killed(folder: Path, times: int) -> int:
    """Kills its process so many times; then says how often it was called."""
    (folder / str(time.monotonic_ns())).touch()
    calls = len(list(folder.iterdir()))
    if calls <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return calls


def killed_in_mid_answer(folder: Path) -> bytes:
    """A large answer, of which the first time half is on its way when the process is killed."""
    (folder / str(time.monotonic_ns())).touch()
    if len(list(folder.iterdir())) == 1:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return Endless()
    return b"x" * MIB


class Endless(bytes):
    """Takes for ever to be sent."""

    def __reduce__(self):
        pipe = next(f for f in map(int, os.listdir("/proc/self/fd")) if f > 2 and is_socket(f))
        os.write(pipe, b"\x00\x10\x00\x00" + b"x" * 100_000)  # of 1 MiB
        time.sleep(60)
        raise AssertionError


def is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:  # what listed the folder
        return False


def spin() -> None:
    while True:
        time.sleep(0.01)


def eat() -> int:
    return len(bytearray(4096 * MIB))


def fail() -> None:
    raise FileNotFoundError("no such page")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 120))


def test_calls_go_on_whatever_ends_a_process(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("once", "twice", "middle")]
    for folder in folders:
        folder.mkdir()
    once, twice, middle = folders

    async def work() -> None:
        processes = Processes(1, 512 * MIB, 30.0)
        try:
            calls = [
                processes.run(killed, once, 1),
                processes.run(killed, twice, 2),
                processes.run(killed_in_mid_answer, middle),
                processes.run(fail),
                processes.run(eat),
                *(processes.run(double, number) for number in range(5)),
            ]
            found = await asyncio.gather(*calls, return_exceptions=True)
        finally:
            processes.close()
        assert found[0] == 2
        assert isinstance(found[1], ProcessDied)
        assert found[2] == b"x" * MIB
        assert isinstance(found[3], FileNotFoundError) and str(found[3]) == "no such page"
        assert isinstance(found[4], MemoryError)
        assert found[5:] == [0, 2, 4, 6, 8]

    run(work())
    assert len(list(twice.iterdir())) == 2  # and no third time


def test_a_call_that_takes_too_long_or_is_not_wanted_frees_its_process() -> None:
    async def work() -> None:
        processes = Processes(1, 512 * MIB, 60.0)
        try:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(processes.run(spin), 1.0)
            assert await processes.run(double, 4) == 8
        finally:
            processes.close()
        processes = Processes(1, 512 * MIB, 1.0)
        try:
            with pytest.raises(TimeoutError):
                await processes.run(spin)
            assert await processes.run(double, 4) == 8
        finally:
            processes.close()

    run(work())
