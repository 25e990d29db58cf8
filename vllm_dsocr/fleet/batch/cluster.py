"""A Ray cluster, and what of it an engine and a drawing task get."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vllm_dsocr.hosts import EngineChoice

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: nothing is sent
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ part writes to our stderr

try:
    import ray
    import ray.data
except ImportError as error:
    raise ImportError(f"--ray needs Ray Data ({error}): pip install 'vllm-dsocr[ray]'") from error

LOCAL = "local"
KNOCK_SECONDS = 10.0
_BLOCK_BYTES = 32 << 20  # of drawn pages in one object: about five, so that engines share them


class NoCluster(ConnectionError):
    """There is no cluster at the address; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Shares:
    """workers: engines at a time.  gpus, cpus: of each.  draw_cpus: of each task that draws."""

    workers: int
    gpus: float
    cpus: float
    draw_cpus: float


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """A connection to the cluster at the address; without one, to the one this machine is part of,
    or else to one started here and ended with the run, as with "local". Raises NoCluster.
    """
    _quiet()
    for place in [address] if address else ["auto", LOCAL]:
        try:
            _knock(place)
            _connect(place)
            break
        except (OSError, ValueError, RuntimeError) as error:
            if place != "auto" or address:
                raise NoCluster(f"no Ray cluster at {place}: {_first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def _connect(address: str) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    with _silence():
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
            **options,
        )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # which Ray has replaced


@contextmanager
def _silence() -> Iterator[None]:
    """What Ray's C++ part says on stderr of how it logs goes nowhere; troubles are exceptions."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _quiet() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = _BLOCK_BYTES
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def shares(choice: EngineChoice, workers: int | None) -> Shares:
    """What each gets of the cluster there is.

    An engine has the GPUs its parallelism asks for, and there are as many engines as that allows;
    without GPUs one on each machine, with all of its CPUs but one; one that asks a server needs
    next to nothing. Tasks that draw always find room.
    """
    found: list[dict[str, Any]] = ray.nodes()
    nodes = [node["Resources"] for node in found if node["Alive"]]
    nodes = [node for node in nodes if node.get("CPU")]
    if not nodes:
        raise NoCluster("the Ray cluster has no CPU")
    gpus = 0.0 if choice.server else sum(node.get("GPU", 0.0) for node in nodes)
    if choice.server or gpus:
        each = _gpus_of_engine(choice.engine_args) if gpus else 0
        return Shares(workers or max(1, int(gpus) // each if each else len(nodes)), each, 0, 1)
    return _of_cpus(min(node["CPU"] for node in nodes), len(nodes), workers or len(nodes))


def _of_cpus(cpus: float, num_nodes: int, workers: int) -> Shares:
    per_node = -(-workers // num_nodes)
    draw = 1.0 if cpus >= 2 else cpus / 4
    share = (cpus - draw) / per_node
    return Shares(workers, 0, int(share) if share >= 1 else int(share * 100) / 100, draw)


def _gpus_of_engine(engine_args: Mapping[str, object]) -> int:
    sizes = [engine_args.get(f"{kind}_parallel_size") for kind in ("tensor", "pipeline")]
    count = 1
    for size in sizes:
        count *= size if isinstance(size, int) else 1
    return count
