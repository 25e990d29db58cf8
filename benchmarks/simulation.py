"""The simulation of `dsocr plan --simulate` held against a served reader.

    python -m benchmarks.simulation [--rounds 3] [--pages 32]

One `vllm serve` of the bundled reader. In every round come first closed loops of 1, 4 and 16
clients, from which the costs are taken, then three loads that are predicted: pages that come by
chance at half and at four fifths of the capacity, and 24 clients, more than the batch holds.
Rounds alternate between both, so that what else the machine does hits both alike; the spread of
the same closed loop over the rounds says how much that is. Costs are those with which the
simulated closed loops take as long as the measured ones. Every page is sent once. Prints a table
and, as the last line, one JSON object with the `costs` that `dsocr plan --costs FILE` reads.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import openai
import psutil

from benchmarks.machine import headline, machine
from benchmarks.serving import Clients, Reading, Sheet, connected, sheets
from examples.demo import READER, served
from vllm_dsocr.cli.engines import positive
from vllm_dsocr.plan.simulation import Costs, Fleet, Job, percentile, poisson, simulate, span

SEED = 700_000  # of pages
CLIENTS = (1, 4, 16)  # of the loops that costs are taken from
LOADS = ("half", "four fifths", "24 clients")
FLEET = Fleet(max_num_seqs=16)
FLAGS = ("--max-num-seqs", str(FLEET.max_num_seqs))


@dataclass(frozen=True, slots=True)
class Run:
    """A load as it was measured. clients: None for pages that came by chance."""

    jobs: Sequence[Job]
    clients: int | None

    @property
    def seconds(self) -> float:
        return span(self.jobs)

    def simulated(self, costs: Costs) -> Run:
        """The same pages at the same moments through the simulation."""
        jobs = [
            Job(job.arrival if self.clients is None else 0.0, job.num_tokens) for job in self.jobs
        ]
        return Run(simulate(jobs, costs, FLEET, self.clients).jobs, self.clients)


@dataclass
class Bench:
    """A served reader, the pages that are left, and what was measured."""

    client: openai.AsyncOpenAI
    model: str
    pages: Iterator[Sheet]
    loops: dict[int, list[Run]] = field(default_factory=lambda: {n: [] for n in CLIENTS})
    loads: dict[str, list[Run]] = field(default_factory=lambda: {name: [] for name in LOADS})

    async def closed(self, clients: int, count: int) -> Run:
        """So many clients, each with one page under way at a time."""
        pages, jobs = itertools.islice(self.pages, count), []
        started = time.perf_counter()

        async def one_client() -> None:
            for page in pages:
                jobs.append(await self._job(page, started))

        await asyncio.gather(*(one_client() for _ in range(clients)))
        return Run(sorted(jobs, key=lambda job: job.arrival), clients)

    async def opened(self, rate: float, count: int, seed: int) -> Run:
        """Pages that come by chance."""
        started = time.perf_counter()

        async def one(page: Sheet, moment: float) -> Job:
            await asyncio.sleep(moment - (time.perf_counter() - started))
            return await self._job(page, started)

        moments = [job.arrival for job in poisson(rate, [1] * count, seed)]
        pages = itertools.islice(self.pages, count)
        jobs = await asyncio.gather(*map(one, pages, moments))
        return Run(sorted(jobs, key=lambda job: job.arrival), None)

    async def _job(self, page: Sheet, started: float) -> Job:
        arrival = time.perf_counter() - started
        (reading,) = await Clients(self.client, self.model, 1).read([page])
        return _as_job(reading, arrival)


def _as_job(reading: Reading, arrival: float) -> Job:
    return Job(arrival, reading.num_tokens, arrival + reading.first, arrival + reading.last)


def calibrated(loops: dict[int, list[Run]], front: float) -> Costs:
    """Costs with which the simulated loops take as long as the measured ones.

    One client alone shows what a page takes before its first token, and what a step takes; the
    steps of larger batches are found one after the other.
    """
    alone = [job for run in loops[1] for job in run.jobs]
    step = sum(j.last - j.first for j in alone) / sum(max(1, j.num_tokens - 1) for j in alone)
    first = sum(job.first - job.arrival for job in alone) / len(alone)
    costs = Costs(front, max(0.0, first - front - step), {1: step})
    for clients in CLIENTS[1:]:
        costs = _with_step(costs, clients, loops[clients])
    return costs


def _with_step(costs: Costs, clients: int, runs: Sequence[Run]) -> Costs:
    measured = sum(run.seconds for run in runs)
    low, high = 0.0, 100 * costs.step(1)
    for _ in range(30):
        middle = (low + high) / 2
        tried = replace(costs, steps={**costs.steps, clients: middle})
        too_long = sum(run.simulated(tried).seconds for run in runs) > measured
        low, high = (low, middle) if too_long else (middle, high)
    return replace(costs, steps={**costs.steps, clients: middle})


async def measure(url: str, rounds: int, count: int) -> tuple[Bench, float]:
    """The runs, and the seconds that the API process spent on a page."""
    async with connected(url) as client:
        model = (await client.models.list()).data[0].id
        needed = 16 + rounds * (count // 4 + 5 * count)
        bench = Bench(client, model, iter(sheets(needed, SEED)))
        await bench.closed(4, 16)  # warm-up
        before, sent = api_seconds(), 0
        for number in range(rounds):
            for clients in CLIENTS:
                pages = count // 4 if clients == 1 else count
                bench.loops[clients].append(await bench.closed(clients, pages))
                sent += pages
            full = bench.loops[CLIENTS[-1]]
            capacity = sum(len(run.jobs) for run in full) / sum(run.seconds for run in full)
            for name, share in (("half", 0.5), ("four fifths", 0.8)):
                run = await bench.opened(share * capacity, count, seed=number)
                bench.loads[name].append(run)
            bench.loads["24 clients"].append(await bench.closed(24, count))
            sent += 3 * count
            print(f"round {number + 1}: {capacity:.2f} pages/s with 16 clients", flush=True)
        return bench, (api_seconds() - before) / sent


def api_seconds() -> float:
    """Of the server's API process, which is the child we started."""
    (server,) = [p for p in psutil.Process().children() if p.is_running()]
    return sum(server.cpu_times()[:2])


def compared(bench: Bench, costs: Costs) -> Iterator[dict[str, Any]]:
    """Measured and predicted throughput and p95 of every load, over all rounds."""
    for name, runs in bench.loads.items():
        row: dict[str, Any] = {"load": name, "pages": sum(len(run.jobs) for run in runs)}
        simulated = [run.simulated(costs) for run in runs]
        for side, found in (("measured", runs), ("predicted", simulated)):
            jobs = [job for run in found for job in run.jobs]
            row[f"pages_per_s_{side}"] = len(jobs) / sum(run.seconds for run in found)
            row[f"p95_{side}"] = percentile([job.latency for job in jobs], 95)
        for what in ("pages_per_s", "p95"):
            row[f"{what}_error"] = row[f"{what}_predicted"] / row[f"{what}_measured"] - 1
        yield row


def noise(bench: Bench) -> float:
    """Slowest round of the same closed loop over its fastest, less one."""
    speeds = [run.seconds / len(run.jobs) for run in bench.loops[CLIENTS[-1]]]
    return max(speeds) / min(speeds) - 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--pages", type=positive, default=32, help="of each load in a round")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave through the clean-up
    print(headline())
    with served(READER, *FLAGS) as url:
        bench, front = asyncio.run(measure(url, args.rounds, args.pages))
    costs = calibrated(bench.loops, front)
    rows = list(compared(bench, costs))
    for row in rows:
        print(
            f"{row['load']:<12} {row['pages_per_s_measured']:6.2f} pages/s, predicted "
            f"{row['pages_per_s_error']:+.1%}; p95 {row['p95_measured']:6.2f} s, predicted "
            f"{row['p95_error']:+.1%}"
        )
    print(f"noise: the same load took {noise(bench):.0%} longer in the slowest round")
    result = {
        "worst_error": max(
            abs(row[f"{what}_error"]) for row in rows for what in ("pages_per_s", "p95")
        ),
        "costs": {
            "front": costs.front,
            "page": costs.page,
            "steps": {str(count): seconds for count, seconds in costs.steps.items()},
        },
        "loads": rows,
        "noise": noise(bench),
    }
    print(json.dumps({**result, **machine(), "argv": sys.argv}))


if __name__ == "__main__":
    main()
