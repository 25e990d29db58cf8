"""Pages that come, what each step costs -> when every page is done, and what was busy how long.

A discrete-event simulation of the service in front of engines that batch as vLLM's do:

    arrivals -> stations in front (drawing, the API processes of a server) -> a replica's engine

An engine works in steps. A step takes in pages that wait, as many as it may encode and as fit into
the batch, encodes them one after the other, and writes one token for every page in the batch; what
that takes depends on their number. Pages go to the replica with the fewest yet to encode.
Knows no model and no GPU: see simulated_costs for these.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

DRAW, FRONT, ENGINE = "draw", "front end", "engine"  # the stages, in the order of a page


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one page or of one step.

    draw: in the gateway, image and all.  front: in an API process of a server.
    page: of encoder and prefill.  steps: of a step that writes a token for so many pages; between
    and beyond the numbers given it is a straight line.
    """

    front: float
    page: float
    steps: Mapping[int, float]
    draw: float = 0.0

    def step(self, num_pages: int) -> float:
        """Seconds of a step that writes a token for each of so many pages."""
        known = sorted(self.steps)
        if not num_pages:
            return 0.0
        if len(known) == 1:
            return self.steps[known[0]]
        right = min(max(1, bisect_left(known, num_pages)), len(known) - 1)
        low, high = known[right - 1], known[right]
        slope = (self.steps[high] - self.steps[low]) / (high - low)
        return max(1e-9, self.steps[low] + slope * (num_pages - low))


@dataclass(frozen=True, slots=True)
class Fleet:
    """What there is. api_processes: of each replica.  pages_per_step: that it may encode in one."""

    replicas: int = 1
    api_processes: int = 1
    max_num_seqs: int = 256
    pages_per_step: int = 8
    draw_processes: int = 8


@dataclass(slots=True)
class Job:
    """A page. arrival: seconds; num_tokens: of its text. The others are filled in."""

    arrival: float
    num_tokens: int
    first: float = math.nan
    last: float = math.nan

    @property
    def latency(self) -> float:
        """From its arrival to its last token."""
        return self.last - self.arrival


@dataclass(frozen=True, slots=True)
class Report:
    """What came of the jobs.

    used: share of each stage that was, on average: of its processes' time, of an engine's batch.
    waits: seconds that a page waited for each stage, on average.
    """

    jobs: Sequence[Job]
    used: Mapping[str, float]
    waits: Mapping[str, float]

    @property
    def pages_per_second(self) -> float:
        """From the first arrival to the last answer."""
        return len(self.jobs) / span(self.jobs)

    @property
    def steady_pages_per_second(self) -> float:
        """In the middle half of that time, without what fills and empties the batches."""
        begin, seconds = min(job.arrival for job in self.jobs), span(self.jobs)
        middle = (begin + seconds / 4, begin + seconds * 3 / 4)
        return sum(middle[0] < job.last <= middle[1] for job in self.jobs) / (seconds / 2)

    @property
    def bottleneck(self) -> str:
        """The stage that pages wait for longest."""
        return max(self.waits, key=self.waits.__getitem__)

    def latency(self, percent: int) -> float:
        """The seconds that so many per cent of the pages do not exceed."""
        return percentile([job.latency for job in self.jobs], percent)


def span(jobs: Sequence[Job]) -> float:
    """Seconds from the first arrival to the last answer."""
    return max(job.last for job in jobs) - min(job.arrival for job in jobs)


def percentile(values: Iterable[float], percent: int) -> float:
    """The smallest value that so many per cent of them do not exceed."""
    ranked = sorted(values)
    return ranked[math.ceil(len(ranked) * percent / 100) - 1]


def poisson(rate: float, lengths: Iterable[int], seed: int = 0) -> list[Job]:
    """Pages of such text lengths that come by chance, so many a second."""
    rng, moment, jobs = random.Random(seed), 0.0, []
    for length in lengths:
        moment += rng.expovariate(rate)
        jobs.append(Job(moment, length))
    return jobs


class _Clock:
    """Events in the order of their time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, moment: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), event))

    def run(self) -> None:
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()


class _Station:
    """First come, first served, by so many servers."""

    def __init__(self, clock: _Clock, seconds: float, servers: int) -> None:
        self._clock = clock
        self._seconds = seconds
        self._free = [0.0] * servers
        self.busy = self.waited = 0.0

    def put(self, then: Callable[[], None]) -> None:
        begin = max(self._clock.now, heapq.heappop(self._free))
        heapq.heappush(self._free, begin + self._seconds)
        self.busy += self._seconds / len(self._free)
        self.waited += begin - self._clock.now
        self._clock.at(begin + self._seconds, then)


@dataclass(slots=True)
class _Replica:
    """An engine and its API processes."""

    clock: _Clock
    costs: Costs
    fleet: Fleet
    done: Callable[[Job], None]
    front: _Station
    to_encode: int = 0
    filled: float = 0.0  # seconds times the share of the batch
    waited: float = 0.0
    steps: int = 0
    waiting: deque[tuple[float, Job]] = field(default_factory=deque)
    running: list[tuple[int, int, Job]] = field(default_factory=list)  # by their last step
    is_stepping: bool = False

    def take(self, job: Job) -> None:
        self.waiting.append((self.clock.now, job))
        if not self.is_stepping:
            self._step()

    def _step(self) -> None:
        room = min(self.fleet.max_num_seqs - len(self.running), self.fleet.pages_per_step)
        taken = [self.waiting.popleft() for _ in range(min(room, len(self.waiting)))]
        self.waited += sum(self.clock.now - since for since, _ in taken)
        new = [job for _, job in taken]
        self.is_stepping = bool(new or self.running)
        if not self.is_stepping:
            return
        for job in new:
            last = self.steps + max(1, job.num_tokens)
            heapq.heappush(self.running, (last, id(job), job))
        seconds = len(new) * self.costs.page + self.costs.step(len(self.running))
        self.filled += seconds * len(self.running) / self.fleet.max_num_seqs
        self.clock.at(self.clock.now + seconds, lambda: self._stepped(new))

    def _stepped(self, new: Sequence[Job]) -> None:
        self.steps += 1
        self.to_encode -= len(new)
        for job in new:
            job.first = self.clock.now
        while self.running and self.running[0][0] <= self.steps:
            job = heapq.heappop(self.running)[2]
            job.last = self.clock.now
            self.done(job)
        self._step()


def simulate(jobs: Sequence[Job], costs: Costs, fleet: Fleet, clients: int | None = None) -> Report:
    """Fills the jobs in.

    clients: so many send their next page when they have the answer to the last, whatever the
    arrivals say; None: pages come when they come.
    """
    run = _Run(costs, fleet, jobs, clients)
    return Report(run.done, run.used(span(run.done)), run.waits())


class _Run:
    """One simulation, run when it is made."""

    def __init__(
        self, costs: Costs, fleet: Fleet, jobs: Sequence[Job], clients: int | None
    ) -> None:
        self.done: list[Job] = []
        self._clock = _Clock()
        self._draw = _Station(self._clock, costs.draw, fleet.draw_processes)
        self._replicas = [
            _Replica(
                *(self._clock, costs, fleet, self._finished),
                _Station(self._clock, costs.front, fleet.api_processes),
            )
            for _ in range(fleet.replicas)
        ]
        self._next = iter(jobs) if clients else iter(())
        for job in jobs if clients is None else itertools.islice(self._next, clients):
            self._send(job)
        self._clock.run()

    def used(self, seconds: float) -> dict[str, float]:
        """Of each stage, on average over its servers."""
        share = 1 / (len(self._replicas) * seconds)
        return {
            DRAW: self._draw.busy / seconds,
            FRONT: share * sum(r.front.busy for r in self._replicas),
            ENGINE: share * sum(r.filled for r in self._replicas),
        }

    def waits(self) -> dict[str, float]:
        """For each stage, on average over the pages."""
        share = 1 / len(self.done)
        return {
            DRAW: share * self._draw.waited,
            FRONT: share * sum(r.front.waited for r in self._replicas),
            ENGINE: share * sum(r.waited for r in self._replicas),
        }

    def _send(self, job: Job) -> None:
        self._clock.at(job.arrival, lambda: self._draw.put(lambda: self._route(job)))

    def _route(self, job: Job) -> None:
        replica = min(self._replicas, key=lambda r: (r.to_encode, len(r.running)))
        replica.to_encode += 1
        replica.front.put(lambda: replica.take(job))

    def _finished(self, job: Job) -> None:
        self.done.append(job)
        for following in itertools.islice(self._next, 1):
            following.arrival = self._clock.now
            self._send(following)
