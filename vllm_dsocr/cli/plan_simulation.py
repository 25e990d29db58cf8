"""`dsocr plan --simulate`: a fleet with pages that come, and what it makes of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vllm_dsocr.plan.simulation import Costs, Fleet, Job, Report, poisson, simulate

MOST_PAGES = 200_000  # that are simulated to find the capacity, so that it takes no minutes


@dataclass(frozen=True, slots=True)
class Load:
    """rate: pages a second that come by chance.  clients: that wait for an answer before the next
    page. With neither, as many as the fleet can take at a time. pages: None: enough of them.
    """

    rate: float | None
    clients: int | None
    pages: int | None
    text_tokens: int


def simulated(costs: Costs, fleet: Fleet, load: Load, price: float | None) -> dict[str, Any]:
    """One row: what the fleet reads, how long a page takes, what saturates.

    price: per hour of all of it.
    """
    if load.rate is None:
        clients = load.clients or 2 * fleet.replicas * fleet.max_num_seqs
        pages = load.pages or min(MOST_PAGES, max(1000, 4 * clients))
        jobs = [Job(0.0, length) for length in _lengths(load.text_tokens, pages)]
        report = simulate(jobs, costs, fleet, clients)
    else:
        lengths = _lengths(load.text_tokens, load.pages or 5000)
        report = simulate(poisson(load.rate, lengths), costs, fleet)
    return _row(report, price)


def _row(report: Report, price: float | None) -> dict[str, Any]:
    speed = report.steady_pages_per_second
    row = {
        "pages": len(report.jobs),
        "pages_per_second": speed,
        "p50": report.latency(50),
        "p95": report.latency(95),
        "used": dict(report.used),
        "waits": dict(report.waits),
        "saturates_first": report.bottleneck,
    }
    if price is not None:
        row["cost_per_million"] = price / 3600 / speed * 1e6
    return row


def _lengths(text_tokens: int, count: int) -> list[int]:
    """Pages differ: from half to one and a half times as long as they are on average."""
    rng = random.Random(0)
    return [max(1, round(text_tokens * rng.uniform(0.5, 1.5))) for _ in range(count)]


def table(rows: dict[str, dict[str, Any]], fleet: Fleet) -> Iterator[str]:
    """Lines for a person; rows by mode."""
    yield (
        f"{fleet.replicas} replicas with {fleet.api_processes} API processes and up to "
        f"{fleet.max_num_seqs} pages each, {fleet.draw_processes} processes that draw"
    )
    yield ""
    stages = list(next(iter(rows.values()))["used"])
    heads = ["mode", "pages/s", "p50 s", "p95 s", *(f"{name} used" for name in stages)]
    heads += ["saturates first"]
    priced = "cost_per_million" in next(iter(rows.values()))
    yield " ".join(f"{head:>15}" for head in [*heads, *(["cost/M"] if priced else [])])
    for mode, row in rows.items():
        cells = [mode, f"{row['pages_per_second']:.2f}", f"{row['p50']:.2f}", f"{row['p95']:.2f}"]
        cells += [f"{share:.0%}" for share in row["used"].values()]
        cells += [row["saturates_first"]]
        cells += [f"{row['cost_per_million']:.2f}"] if priced else []
        yield " ".join(f"{cell:>15}" for cell in cells)
