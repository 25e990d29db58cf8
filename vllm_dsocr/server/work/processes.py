"""Calls of functions in processes of their own, each bounded in time and memory.

A process may be killed at any moment, in the middle of an answer too: each has a pipe to itself, so
that its end is seen at once and nobody else waits for it. What a call was about is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import resource
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")
MAX_CALLS = 1000  # whatever a decoder leaks goes with its process
START_SECONDS = 120.0  # longest a process may take to begin with a call
MAX_DEATHS = 2  # of processes, by one call
_SPAWN = multiprocessing.get_context("spawn")


class ProcessDied(Exception):
    """Each process that was at the call ended before it had answered."""


class Processes:
    """`number` of them, started when they are needed. Belongs to one event loop.

    max_bytes: of memory of one.  seconds: longest a call may take.
    """

    def __init__(self, number: int, max_bytes: int, seconds: float) -> None:
        self._all = [_Process(max_bytes, seconds) for _ in range(number)]
        self._idle: asyncio.LifoQueue[_Process] = asyncio.LifoQueue()  # few calls, few processes
        for process in self._all:
            self._idle.put_nowait(process)
        self._threads = ThreadPoolExecutor(number, "processes")

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the function returns or raises.

        Raises TimeoutError, and ProcessDied. One that dies is replaced and the call is made again,
        for it may have been another's victim: MAX_DEATHS times at most.
        """
        for _ in range(MAX_DEATHS):
            with contextlib.suppress(ProcessDied):
                return await self._run(function, arguments)
        raise ProcessDied(f"{MAX_DEATHS} processes ended in the middle of it")

    async def _run(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        process = await self._idle.get()
        call = asyncio.get_running_loop().run_in_executor(
            self._threads, process.call, function, arguments
        )
        call.add_done_callback(lambda _: self._idle.put_nowait(process))
        try:
            result: T = await asyncio.shield(call)
        except asyncio.CancelledError:
            call.add_done_callback(_forget)
            process.cancel()
            raise
        return result

    def close(self) -> None:
        """Ends them at once."""
        for process in self._all:
            process.close()
        self._threads.shutdown()


class _Process:
    """One process and the pipe to it. `call` blocks, and is ended from other threads."""

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._lock = threading.Lock()  # held while it is started or ended
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._num_calls = 0
        self._is_unwanted = False
        self._is_closed = False

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Raises what the function raises, TimeoutError, ProcessDied."""
        self._is_unwanted = False
        try:
            result, error = self._ask(self._ready_pipe(), function, arguments)
        except BaseException as end:
            self._end()  # half an answer is none
            if isinstance(end, (EOFError, OSError)) and not isinstance(end, TimeoutError):
                raise ProcessDied from end
            raise
        if error is not None:
            raise error
        return result

    def _ask(self, pipe: Connection, function: Callable[..., Any], arguments: Any) -> Any:
        if self._is_unwanted:
            raise ProcessDied
        pipe.send((function, arguments))
        if not pipe.poll(START_SECONDS):
            raise ProcessDied
        pipe.recv()  # it has begun: what it had to import is not the call's time
        if not pipe.poll(self._seconds):
            raise TimeoutError
        return pipe.recv()

    def _ready_pipe(self) -> Connection:
        with self._lock:
            if self._is_closed:
                raise ProcessDied
            is_alive = self._process is not None and self._process.is_alive()
            if self._pipe is None or not is_alive or self._num_calls >= MAX_CALLS:
                self._kill()
                self._pipe, self._num_calls = self._start(), 0
            self._num_calls += 1
            return self._pipe

    def _start(self) -> Connection:
        here, there = _SPAWN.Pipe()
        with there:  # the only other end is then the process's: when it dies, the pipe ends
            arguments = there, self._max_bytes
            self._process = _SPAWN.Process(target=_answer_calls, args=arguments, daemon=True)
            try:
                self._process.start()
            except OSError as error:
                self._process = None
                here.close()
                raise ProcessDied from error
        return here

    def cancel(self) -> None:
        """Its call is of no use any more. Does not wait for one that is being started."""
        self._is_unwanted = True
        if self._lock.acquire(blocking=False):
            try:
                self._kill()
            finally:
                self._lock.release()

    def close(self) -> None:
        self._is_closed = True
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._kill()

    def _kill(self) -> None:
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join()


def _forget(call: asyncio.Future[Any]) -> None:
    """Nobody waits for the result any more, nor for its exception."""
    if not call.cancelled():
        call.exception()


def _answer_calls(pipe: Connection, max_bytes: int) -> None:
    """The life of a process: until its parent closes the pipe or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, arguments = pipe.recv()
            pipe.send(None)
            try:
                pipe.send((function(*arguments), None))
            except Exception as error:  # too little memory to send an answer among them
                pipe.send((None, error))
