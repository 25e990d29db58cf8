"""A GPU's data sheet, or a file of what was measured -> the Costs of a simulation.

The file is what `python -m benchmarks.simulation` prints under `costs`:
{"front": s, "page": s, "steps": {"1": s, "8": s}, "draw": s}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_dsocr.plan.bounds import Setup, step_seconds
from vllm_dsocr.plan.gpus import Gpu
from vllm_dsocr.plan.page_cost import PageCost
from vllm_dsocr.plan.simulation import Costs
from vllm_dsocr.plan.sizes import ModelSizes


def gpu_costs(
    sizes: ModelSizes,
    page: PageCost,
    gpu: Gpu,
    setup: Setup,
    efficiency: float,
    front: float,
    draw: float,
    max_num_seqs: int,
) -> Costs:
    """Rooflines at that share of the rated speeds; front and draw, of a processor core, as given.

    The encoder runs on each GPU for itself, the decoder is split over them.
    """
    speed = gpu.times(setup.tensor_parallel_size).flops
    batches = {1, max_num_seqs, *(2**i for i in range(max_num_seqs.bit_length()))}
    return Costs(
        front=front,
        page=(page.vision / gpu.flops + page.prefill / speed) / efficiency,
        steps={n: step_seconds(sizes, page, gpu, n, setup) / efficiency for n in sorted(batches)},
        draw=draw,
    )


def costs_from_file(path: Path) -> Costs:
    """Raises OSError, or ValueError in one sentence."""
    value = json.loads(path.read_text(encoding="utf-8"))
    value = value.get("costs", value) if isinstance(value, Mapping) else {}
    try:
        return costs_from(value)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} has no costs of a simulation: {error}") from error


def costs_from(value: Mapping[str, Any]) -> Costs:
    """From JSON values. Raises KeyError, TypeError or ValueError."""
    steps = {int(count): float(seconds) for count, seconds in value["steps"].items()}
    numbers = [value["front"], value["page"], value.get("draw", 0.0), *steps.values()]
    if not steps or min(steps) < 1 or any(float(number) < 0 for number in numbers):
        raise ValueError("seconds are numbers from 0 on, and there is a step of 1 page or more")
    return Costs(float(value["front"]), float(value["page"]), steps, float(value.get("draw", 0.0)))
