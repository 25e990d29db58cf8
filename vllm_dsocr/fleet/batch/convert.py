"""`dsocr convert --ray`, as a function: a Reader's options and sources -> documents, on Ray."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_dsocr.fleet.batch.cluster import cluster, shares
from vllm_dsocr.fleet.batch.run import Fleet, FleetConversion
from vllm_dsocr.fleet.batch.tables import write_table
from vllm_dsocr.hosts import EngineChoice
from vllm_dsocr.pipeline.document import Event
from vllm_dsocr.pipeline.finish import OutputSettings
from vllm_dsocr.pipeline.inputs import Inputs
from vllm_dsocr.pipeline.work import Work
from vllm_dsocr.reader import Reader


@dataclass(frozen=True, slots=True)
class RayOptions:
    """address: of the cluster, see `cluster.cluster`.  workers: engines, None for all that fit.
    table: a folder or URL for every page as a row, `.parquet` or `.jsonl`.
    """

    address: str | None = None
    workers: int | None = None
    table: str | None = None


def convert_on_ray(
    reader: Reader,
    inputs: Inputs,
    out: Path,
    output: OutputSettings,
    options: RayOptions,
    report: Callable[[Event], None],
    allow_hosts: Collection[str] = (),
) -> list[Event]:
    """Converts files, of `sources.find_sources`, into `out`, which all machines have to have.

    Summaries of all documents, in order. Raises NoCluster, EngineLost, CannotWrite,
    TooManyFailures: what is recorded by then stays.
    """
    for text in inputs.warnings:
        report({"event": "warning", "text": text})
    work = asyncio.run(_work(reader, output))
    choice = _everywhere(reader.choice)
    with cluster(options.address):
        fleet = Fleet(choice, shares(choice, options.workers), tuple(allow_hosts))
        conversion = FleetConversion(fleet, work, out.absolute(), report)
        summaries = conversion.run(inputs.files, passed_over=dict(inputs.passed_over))
        if options.table is not None:
            write_table(out.absolute(), summaries, options.table)
    return summaries


async def _work(reader: Reader, output: OutputSettings) -> Work:
    async with reader:
        return await reader.work(output)


def _everywhere(choice: EngineChoice) -> EngineChoice:
    """A model's folder under a name that does not depend on where a process was started."""
    if choice.model and os.path.isdir(choice.model):
        return replace(choice, model=os.path.abspath(choice.model))
    return choice
