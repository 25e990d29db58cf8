"""One device: how long a call takes on it, what memory it needs, what the device can do at most.

Turns calls into rows of measurements. Knows nothing of what it measures.
"""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.live_bytes import LiveBytes

Call = Callable[[], Any]
WARM_UPS = 3
SECONDS_PER_ROW = 1.0
MOST_REPEATS = 100
SECONDS_IN_ALL = 8 * 60


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report; None where nothing was measured.

    seconds: median.  peak: bytes above what lay in memory before.  share: of the device's ceiling,
    in arithmetic or in bandwidth as `note` says.  error: how far off, at most `allowed`.
    """

    name: str
    seconds: float | None = None
    peak: int | None = None
    share: float | None = None
    error: float | None = None
    allowed: float | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the result is right, as far as it was looked at."""
        return self.error is None or self.allowed is None or self.error <= self.allowed


@dataclass(frozen=True)
class Bench:
    """A device; `small` asks for sizes that take seconds on a CPU."""

    device: torch.device
    small: bool = False
    started: float = field(default_factory=time.perf_counter)

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def seconds(self, call: Call) -> float:
        """Median over calls that take about SECONDS_PER_ROW together."""
        once = [self._time(call) for _ in range(1 if self.small else WARM_UPS)][-1]
        repeats = 1 if self.small else int(min(MOST_REPEATS, SECONDS_PER_ROW / once)) + 1
        return statistics.median(self._time(call) for _ in range(repeats))

    def _time(self, call: Call) -> float:
        if not self.is_cuda:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def wall_seconds(self, call: Call) -> float:
        """The same by the host's clock, the device's work included."""
        return Bench(torch.device("cpu"), self.small).seconds(lambda: (call(), self._finish()))

    def seconds_left(self) -> float:
        """Until the benchmark should be over."""
        return SECONDS_IN_ALL - (time.perf_counter() - self.started)

    def peak(self, call: Call) -> int:
        """Bytes that the call's tensors took at most, beside what was there before."""
        if not self.is_cuda:
            with LiveBytes() as live:
                call()
            return live.peak
        self.clear()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before

    def graphed(self, call: Call, times: int = 1) -> Call:
        """The call, or many in a row, as one launch: a replay of its CUDA graph."""
        call()  # what is set up once must not be recorded
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(times):
                call()
        return graph.replay

    def clear(self) -> None:
        """Give back what earlier calls left behind."""
        gc.collect()
        self._finish()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def _finish(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def free_bytes(self) -> int:
        """Of the device's memory; a CPU's is not asked for more than a little."""
        return torch.cuda.mem_get_info()[0] if self.is_cuda else 2**28

    def random(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """Standard normal."""
        return torch.randn(shape, device=self.device, dtype=dtype)

    @functools.cached_property
    def flops(self) -> float:
        """Of a large bf16 matrix product with fp32 sums, per second."""
        side = 8192 if self.is_cuda else 256
        a, b = self.random(side, side), self.random(side, side)
        return 2 * side**3 / self.seconds(lambda: a @ b)

    @functools.cached_property
    def bandwidth(self) -> float:
        """Bytes read and written by a large copy, per second."""
        source = self.random(2**29 if self.is_cuda else 2**22)
        target = torch.empty_like(source)
        return 2 * source.nbytes / self.seconds(lambda: target.copy_(source))


def relative_rms(got: Tensor, want: Tensor) -> float:
    """Root mean square of the difference over that of `want`; NaN where either holds one."""
    want = want.float()
    return ((got.float() - want).square().mean() / want.square().mean()).sqrt().item()
