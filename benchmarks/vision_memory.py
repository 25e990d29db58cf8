"""Peak memory of the vision tower beside its weights: planned, and measured on this device.

    python -m benchmarks.vision_memory [--device cuda] [--mode tiny --mode base] [--pages 1 4 16]

A4 pages through the full-size tower with random weights, bf16. On a GPU torch's own count is read,
on a CPU the bytes of all tensors. Prints a table and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.encoder import A4, planned_peak, random_page, random_tower
from benchmarks.machine import headline, machine
from vllm_dsocr.cli.engines import positive
from vllm_dsocr.config import MODES, VisionSizes
from vllm_dsocr.encoder.assembly import embed_pages
from vllm_dsocr.page.geometry import plan_tiles

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mode", choices=MODES, action="append", help="default: all")
    parser.add_argument("--pages", type=positive, nargs="+", default=[1, 4], help="in one step")
    args = parser.parse_args()
    print(headline())
    print(f"{'mode':>10} {'pages':>6} {'planned MiB':>12} {'measured MiB':>13} {'of it':>6}")
    rows = list(measured(Bench(torch.device(args.device)), args.mode or list(MODES), args.pages))
    worst = max(row["measured_mib"] / row["planned_mib"] for row in rows)
    print(json.dumps({"machine": machine(), "rows": rows, "measured_of_planned": worst}))


@torch.inference_mode()
def measured(bench: Bench, modes: list[str], counts: list[int]) -> Iterator[dict[str, str | float]]:
    sizes = VisionSizes()
    tower = random_tower(bench, sizes)
    for mode in modes:
        plan = plan_tiles(*A4, MODES[mode])
        for pages in counts:
            batch = [random_page(bench, plan)] * pages
            peak = bench.peak(lambda batch=batch: embed_pages(tower, batch)) / MIB
            planned = planned_peak(bench, sizes, plan, pages) / MIB
            print(f"{mode:>10} {pages:>6} {planned:>12.0f} {peak:>13.0f} {peak / planned:>6.0%}")
            yield {"mode": mode, "pages": pages, "planned_mib": planned, "measured_mib": peak}


if __name__ == "__main__":
    main()
